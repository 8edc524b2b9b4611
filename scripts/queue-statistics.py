#!/usr/bin/env python3
"""Counts a queue's statistics anew from an export of its journal, by the words of docs/queue.md and no code of Okno.

usage: queue-statistics.py EXPORT FROM TO OFFSET_MINUTES NORM_MINUTES
EXPORT: `oknoctl -o json queue export --office …`, one event a line. Prints JSON like `oknoctl -o json queue statistics`.
"""
import datetime
import json
import sys

RANGES = [(600_000, 10_000), (3_600_000, 30_000), (14_400_000, 120_000)]


def ms(text):
    """An RFC 3339 moment in UTC, in milliseconds; None stays None."""
    if not text:
        return None
    whole, _, rest = text.rstrip("Z").partition(".")
    at = datetime.datetime.fromisoformat(whole).replace(tzinfo=datetime.timezone.utc)
    return int(at.timestamp()) * 1000 + int((rest + "000")[:3])


def upper(duration):
    """The upper end of a duration's bucket."""
    start = 0
    for end, width in RANGES:
        if duration < end:
            return start + ((duration - start) // width + 1) * width
        start = end
    return start


class Tally:
    def __init__(self):
        self.visits = self.served = self.did_not_come = self.unserved = self.left = self.in_norm = 0
        self.wait, self.service = [], []

    def shown(self):
        def average(times):
            return sum(times) // len(times) if times else None

        def p90(times):
            return upper(sorted(times)[max((len(times) * 90 + 99) // 100, 1) - 1]) if times else None

        return {
            "visits": self.visits, "served": self.served, "did_not_come": self.did_not_come,
            "unserved": self.unserved, "left": self.left, "called": len(self.wait), "in_norm": self.in_norm,
            "wait_average_ms": average(self.wait), "wait_p90_ms": p90(self.wait),
            "service_average_ms": average(self.service), "service_p90_ms": p90(self.service),
        }


class Ticket:
    """What its events say of one ticket."""

    def __init__(self):
        self.called = self.begun = None
        self.served = 0


def main():
    export, first, last, offset, norm = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    tickets, found = {}, {}

    def tally(by, key):
        return found.setdefault(by, {}).setdefault(key, Tally())

    with open(export, encoding="utf-8") as lines:
        for line in lines:
            told = json.loads(line)
            event, shown = told["event"], told["ticket"]
            known = tickets.setdefault((shown["day"], shown["number"]), Ticket())
            kind, at = event["kind"].removeprefix("OUTSIDE_KIND_"), ms(event["at"])
            if kind == "CALLED" and known.called is None:
                known.called = at
            elif kind == "BEGUN":
                known.begun = at
            elif kind in ("REDIRECTED", "FINISHED") and known.begun is not None:
                known.served += at - known.begun
                known.begun = None
            if kind not in ("FINISHED", "DID_NOT_COME", "LEFT") or not first <= shown["day"] <= last:
                continue
            hour = ((ms(shown["taken_at"]) // 60_000 + offset) // 60) % 24
            keys = [("all", ""), ("hours", f"{hour:02}"), ("services", shown["service"]),
                    ("windows", told["window"]), ("officers", shown["officer"])]
            for by, key in keys:
                if by != "all" and not key:
                    continue
                of = tally(by, key)
                of.visits += 1
                if kind == "FINISHED":
                    of.served += 1
                    of.service.append(known.served)
                elif kind == "DID_NOT_COME":
                    of.did_not_come += 1
                elif shown["closing"] == "TICKET_CLOSING_LEFT":
                    of.left += 1
                else:
                    of.unserved += 1
                if known.called is not None:
                    wait = max(known.called - ms(shown["waits_from"]), 0)
                    of.wait.append(wait)
                    of.in_norm += wait <= norm * 60_000
    answer = {by: {key: of.shown() for key, of in sorted(tallies.items())} for by, tallies in found.items()}
    answer["all"] = answer.get("all", {}).get("", Tally().shown())
    print(json.dumps(answer, ensure_ascii=False, sort_keys=True))


main()

//! What scripts say to queues, and how they show them.
//!
//! - `settings OFFICE key=value …`: what governs a queue; what is not named has its default
//! - `ticket OFFICE …`, `call`, `number`, `recall`, `begin`, `finish`, `put-off`, `redirect`, `bind`, `return`, `leave`
//! - `open-window`, `close-window`, `break`, `unattended`, `attended`, `close-day`
//! - `book NAME OFFICE slot=TIME …`, `cancel NAME OFFICE`, `check-in NAME OFFICE`, `slots OFFICE DAY service=…`
//! - `outside OFFICE id=… ticket=… what=…`: an event of an outside queue system
//! - `queue OFFICE`, `order`, `windows`, `bookings`, `board OFFICE [since=N]`, `statistics OFFICE from to`, `spoken`,
//!   `told OFFICE`: what an outside system is told since the last time

use crate::{
    script::{Args, Runner, refused, ticket},
    world::{local, moment},
};
use okno_domain::{
    directory::{
        self, BookingSettings, DayHours, OutsideSystem, PriorityCategory, QueueSettings, ServiceGroup,
        ServiceSlots,
    },
    entity::{Context, Entity, EntityRef, Kind},
    queue::{
        self, BoardEntry, BoardNews, Command, Destination, OutsideEvent, OutsideHappened, Purpose, Queue,
        Tally, Ticket, TicketState, VisitOutcome, spoken,
    },
};
use std::error::Error;

impl Runner {
    pub fn queue(&mut self, name: &str, args: &mut Args<'_>) -> Result<String, Box<dyn Error>> {
        match name {
            "spoken" => return Ok(format!("{}\n", spoken::call(args.next()?, args.next()?))),
            "settings" => return self.settings(args),
            "book" | "cancel" | "check-in" => return self.booking(name, args),
            _ => {}
        }
        let office = args.next()?;
        if let Some(command) = command(name, args, self.world.term)? {
            return Ok(match self.world.queue(office, &command) {
                Ok(reply) => show_reply(&reply),
                Err(refusal) => refused(&refusal),
            });
        }
        if name == "told" {
            let events = std::mem::take(&mut self.world.queue_events);
            let told = events.iter().filter_map(|(at_ms, event)| OutsideEvent::of(office, event, *at_ms));
            return Ok(told
                .map(|event| format!("{} {}: {:?}\n", event.id, event.ticket, event.happened))
                .collect());
        }
        let empty = Queue::empty(office);
        let queue = self.world.queues.get(office).map_or(&empty, |stored| &stored.state);
        Ok(match name {
            "queue" => queue.tickets().map(|ticket| format!("{}\n", show_ticket(ticket))).collect(),
            "order" => {
                queue.in_order().into_iter().map(|ticket| format!("{}\n", show_ticket(ticket))).collect()
            }
            "windows" => queue
                .desks()
                .map(|desk| {
                    let at = queue.at_window(&desk.window).map(|ticket| ticket.ticket.number.clone());
                    let (name, officer) = (desk.name(), &desk.officer);
                    let there = if desk.leased { " · workstation" } else { "" };
                    format!("{} {} {name} officer={officer} ticket={at:?}{there}\n", desk.day, desk.window)
                })
                .collect(),
            "bookings" => queue
                .bookings()
                .map(|booking| {
                    format!("{} {} {}\n", local(booking.slot_ms), booking.service, booking.state.name())
                })
                .collect(),
            "slots" => self.slots(queue, office, args)?,
            "board" => match args.take("since").parse() {
                Err(_) => {
                    let (last, shown) = queue.board();
                    let shown: String = shown.iter().map(|entry| show_entry(entry)).collect();
                    format!("{shown}last {last}\n")
                }
                Ok(since) => match queue.board_since(since) {
                    BoardNews::StartAnew => "start anew\n".into(),
                    BoardNews::Entries(entries) => entries.iter().map(|entry| show_entry(entry)).collect(),
                },
            },
            "statistics" => {
                let (from, to) = (args.next()?.parse()?, args.next()?.parse()?);
                match queue.statistics(from, to) {
                    Err(refusal) => refused(&refusal),
                    Ok(found) => {
                        let mut text = show_tally("all", &found.all);
                        for (hour, tally) in &found.hours {
                            text.push_str(&show_tally(&format!("hour {hour}"), tally));
                        }
                        let named = [
                            ("service", &found.services),
                            ("window", &found.windows),
                            ("officer", &found.officers),
                        ];
                        for (what, tallies) in named {
                            for (key, tally) in tallies {
                                text.push_str(&show_tally(&format!("{what} {key}"), tally));
                            }
                        }
                        text
                    }
                }
            }
            other => return Err(format!("unknown command {other}").into()),
        })
    }

    fn slots(&self, queue: &Queue, office: &str, args: &mut Args<'_>) -> Result<String, Box<dyn Error>> {
        let day = args.next()?.parse()?;
        let this = EntityRef { kind: Kind::Queue, id: office.into() };
        let context = Context {
            this: &this,
            now_ms: self.world.now_ms,
            origin: &self.world.origin,
            request_id: uuid::Uuid::nil(),
            catalogue: &self.world.catalogue,
            directory: &self.world.directory.state,
            level: self.world.level,
            fence: Default::default(),
        };
        let slots = queue.free_slots(args.take("service"), day, &context);
        Ok(slots.iter().map(|slot_ms| format!("{}\n", local(*slot_ms))).collect())
    }

    fn booking(&mut self, name: &str, args: &mut Args<'_>) -> Result<String, Box<dyn Error>> {
        let (which, office) = (args.next()?.to_owned(), args.next()?);
        let command = match name {
            "book" => Command::Book {
                purpose: purpose(args),
                service: args.take("service").into(),
                category: args.take("category").into(),
                slot_ms: moment(args.take("slot")),
                reference: args.take("reference").into(),
            },
            _ => {
                let unknown = queue::BookingRef { day: "2026-03-02".parse()?, code: "000000".into() };
                let booking = self.bookings.get(&which).cloned().unwrap_or(unknown);
                if name == "cancel" {
                    Command::CancelBooking { booking }
                } else {
                    Command::CheckIn { booking }
                }
            }
        };
        Ok(match self.world.queue(office, &command) {
            Ok(reply) => {
                if let queue::Reply::Booking(booking) = &reply {
                    self.bookings.insert(which, booking.booking.clone());
                }
                show_reply(&reply)
            }
            Err(refusal) => refused(&refusal),
        })
    }

    fn settings(&mut self, args: &mut Args<'_>) -> Result<String, Box<dyn Error>> {
        let office = args.next()?.to_owned();
        let usual = QueueSettings::default();
        let pairs = |items: Vec<String>| -> Vec<(String, String)> {
            let split = |item: String| item.split_once(':').map(|(a, b)| (a.to_owned(), b.to_owned()));
            items.into_iter().filter_map(split).collect()
        };
        let groups = pairs(args.list("groups")).into_iter().map(|(letter, services)| ServiceGroup {
            letter,
            name: String::new(),
            services: services.split('+').map(str::to_owned).collect(),
        });
        let categories = pairs(args.list("categories"))
            .into_iter()
            .map(|(code, weight)| PriorityCategory { code, weight: weight.parse().unwrap_or(0) });
        // `1-5:540-1080` is Monday to Friday, nine to six.
        let hours = pairs(args.list("hours")).into_iter().flat_map(|(days, minutes)| {
            let range = |text: &str| {
                let (from, to) = text.split_once('-').unwrap_or((text, text));
                (from.parse::<u16>().unwrap_or(0), to.parse::<u16>().unwrap_or(0))
            };
            let ((first, last), (opens_minute, closes_minute)) = (range(&days), range(&minutes));
            (first..=last).map(move |weekday| DayHours {
                weekday: u8::try_from(weekday).unwrap_or(0),
                opens_minute,
                closes_minute,
            })
        });
        let own_slots = pairs(args.list("steps"))
            .into_iter()
            .map(|(service, step)| ServiceSlots { service, step_minutes: step.parse().unwrap_or(0) });
        let settings = QueueSettings {
            office,
            groups: groups.collect(),
            categories: categories.collect(),
            hours: hours.collect(),
            closed_days: args.list("closed").iter().filter_map(|day| day.parse().ok()).collect(),
            fairness_minutes: number(args, "fairness", usual.fairness_minutes),
            norm_minutes: number(args, "norm", usual.norm_minutes),
            calls_before_no_show: number(args, "calls", usual.calls_before_no_show),
            put_off_minutes_max: number(args, "put-off", usual.put_off_minutes_max),
            put_offs_max: number(args, "put-offs", usual.put_offs_max),
            unattended_grace_seconds: number(args, "grace", usual.unattended_grace_seconds),
            break_minutes_max: number(args, "break", usual.break_minutes_max),
            close_after_minutes: number(args, "close-after", usual.close_after_minutes),
            kiosk_pause_seconds: number(args, "kiosk-pause", usual.kiosk_pause_seconds),
            auto_call: args.take("by-load") == "yes",
            // `eq:one+two`: connectors that speak for a system.
            outside: pairs(args.list("outside"))
                .into_iter()
                .map(|(system, connectors)| OutsideSystem {
                    system,
                    connectors: connectors.split('+').map(str::to_owned).collect(),
                })
                .collect(),
            booking: BookingSettings {
                enabled: args.take("booking") != "no",
                step_minutes: number(args, "step", usual.booking.step_minutes),
                services: own_slots.collect(),
                horizon_days: number(args, "horizon", usual.booking.horizon_days),
                early_minutes: number(args, "early", usual.booking.early_minutes),
                late_minutes: number(args, "late", usual.booking.late_minutes),
                late_joins_queue: args.take("late-joins") != "no",
                weight: number(args, "weight", usual.booking.weight),
                cancel_minutes: number(args, "cancel", usual.booking.cancel_minutes),
            },
        };
        let origin = self.world.origin.clone();
        self.world.origin = crate::world::origin("admin", "root", "");
        let reply = self.world.directory(&directory::Command::PutQueueSettings(Box::new(settings)));
        self.world.origin = origin;
        Ok(match reply {
            Ok(_) => String::new(),
            Err(refusal) => refused(&refusal),
        })
    }
}

fn number<T: std::str::FromStr>(args: &mut Args<'_>, key: &str, usual: T) -> T {
    args.take(key).parse().unwrap_or(usual)
}

fn purpose(args: &mut Args<'_>) -> Purpose {
    match args.take("for") {
        "" | "apply" => Purpose::Apply,
        "ask-status" => Purpose::AskStatus,
        "collect-result" => Purpose::CollectResult,
        _ => Purpose::Other,
    }
}

/// A command to a queue; `None`: not one. `leader`: the term that rules.
fn command(name: &str, args: &mut Args<'_>, leader: u64) -> Result<Option<Command>, Box<dyn Error>> {
    let outcome = |text: &str| {
        if text == "no-show" { VisitOutcome::NoShow } else { VisitOutcome::Served }
    };
    match name {
        "ticket" => {
            return Ok(Some(Command::TakeTicket {
                purpose: purpose(args),
                service: args.take("service").into(),
                category: args.take("category").into(),
            }));
        }
        "leave" => return Ok(Some(Command::Leave { ticket: ticket(args)?.ok_or("which ticket?")? })),
        "close-day" => return Ok(Some(Command::CloseDay)),
        "outside" => return Ok(Some(Command::Outside(outside(args)?))),
        "call" | "open-window" | "close-window" | "break" | "unattended" | "attended" => {
            let window = args.next()?.to_owned();
            return Ok(Some(match name {
                "call" => Command::CallNext { window },
                "open-window" => Command::OpenWindow { window },
                "close-window" => Command::CloseWindow { window },
                "break" => Command::StartBreak { window, minutes: args.take("minutes").parse()? },
                "unattended" => Command::Unattended { window, term: number(args, "term", leader) },
                _ => Command::Attended { window, term: number(args, "term", leader) },
            }));
        }
        "number" | "recall" | "begin" | "finish" | "put-off" | "redirect" | "bind" | "return" => {}
        _ => return Ok(None),
    }
    let window = args.next()?.to_owned();
    let ticket = ticket(args)?.ok_or("which ticket?")?;
    Ok(Some(match name {
        "number" => Command::CallNumber { ticket, window },
        "recall" => Command::CallAgain { ticket, window },
        "begin" => Command::Begin { ticket, window },
        "finish" => Command::Finish { ticket, window, outcome: outcome(args.take("outcome")) },
        "put-off" => Command::PutOff { ticket, window, minutes: args.take("minutes").parse()? },
        "redirect" => Command::Redirect { ticket, window, to: destination(args) },
        "bind" => Command::Bind { ticket, window: if window == "-" { String::new() } else { window } },
        _ => Command::ReturnToQueue { ticket, window },
    }))
}

fn destination(args: &mut Args<'_>) -> Destination {
    let (window, service) = (args.take("window"), args.take("service"));
    if window.is_empty() { Destination::Service(service.into()) } else { Destination::Window(window.into()) }
}

fn outside(args: &mut Args<'_>) -> Result<OutsideEvent, Box<dyn Error>> {
    let window = args.take("at").to_owned();
    let happened = match args.take("what") {
        "registered" => OutsideHappened::Registered {
            purpose: purpose(args),
            service: args.take("service").into(),
            category: args.take("category").into(),
        },
        "called" => OutsideHappened::Called { window },
        "called-again" => OutsideHappened::CalledAgain { window },
        "begun" => OutsideHappened::Begun { window },
        "put-off" => OutsideHappened::PutOff { window, minutes: args.take("minutes").parse()? },
        "came-back" => OutsideHappened::CameBack,
        "redirected" => OutsideHappened::Redirected { window, to: destination(args) },
        "returned" => OutsideHappened::Returned { window },
        "finished" => OutsideHappened::Finished { window },
        "did-not-come" => OutsideHappened::DidNotCome { window },
        _ => OutsideHappened::Left,
    };
    let system = args.take("system");
    Ok(OutsideEvent {
        system: if system.is_empty() { "eq" } else { system }.into(),
        id: args.take("id").into(),
        ticket: args.take("ticket").into(),
        at_ms: 0,
        happened,
    })
}

fn show_reply(reply: &queue::Reply) -> String {
    if let Some((ticket, ahead)) = reply.given() {
        return format!("{} · {ahead} ahead\n", show_ticket(&ticket));
    }
    if let Some(ticket) = reply.ticket() {
        return format!("{}\n", show_ticket(&ticket));
    }
    match reply {
        queue::Reply::Window(desk) => {
            format!("window {} {} officer={}\n", desk.window, desk.name(), desk.officer)
        }
        queue::Reply::Booking(booking) => {
            format!("booking at {} {}\n", local(booking.slot_ms), booking.state.name())
        }
        queue::Reply::DayClosed { left } => format!("day closed, {left} left\n"),
        queue::Reply::Outside(_) => "taken\n".into(),
        other => unreachable!("commands are answered: {other:?}"),
    }
}

fn show_entry(entry: &BoardEntry) -> String {
    let BoardEntry { sequence, ticket, window, state, .. } = entry;
    let spoken = entry.spoken().map(|text| format!(" · {text}")).unwrap_or_default();
    format!("{sequence}. {} window {window} {}{spoken}\n", ticket.number, state.name())
}

fn show_tally(name: &str, tally: &Tally) -> String {
    let seconds = |ms: Option<i64>| ms.map_or_else(|| "–".into(), |ms| format!("{} s", ms / 1_000));
    let average = |spread: &queue::Spread| seconds(spread.average_ms().and_then(|ms| i64::try_from(ms).ok()));
    format!(
        "{name}: {} visits, {} served, {} did not come, {} unserved, {} left; wait {} on average, {} for 90 %; \
         service {}, {}; in the norm {}\n",
        tally.visits,
        tally.served,
        tally.did_not_come,
        tally.unserved,
        tally.left,
        average(&tally.wait),
        seconds(tally.wait.percentile_ms(90)),
        average(&tally.service),
        seconds(tally.service.percentile_ms(90)),
        tally.in_norm_per_10_000().map_or_else(|| "–".into(), |share| format!("{} %", share / 100)),
    )
}

pub fn show_ticket(ticket: &Ticket) -> String {
    let mut text = format!("{} {} {}", ticket.ticket.day, ticket.ticket.number, ticket.state.name());
    if let Some(window) = ticket.state.window() {
        text.push_str(&format!(" at window {window}"));
    }
    match &ticket.state {
        TicketState::PutOff { until_ms } => text.push_str(&format!(" until {}", local(*until_ms))),
        TicketState::Closed { why, .. } => text.push_str(&format!(" ({why:?})")),
        _ => {}
    }
    if ticket.priority && !ticket.category.is_empty() {
        text.push_str(&format!(" · priority {}", ticket.category));
    }
    if ticket.booking.is_some() {
        text.push_str(" · booked");
    }
    if ticket.at_head {
        text.push_str(" · at the head");
    }
    if ticket.group != ticket.letter() {
        text.push_str(&format!(" · group {}", ticket.group));
    }
    if !ticket.bound.is_empty() {
        text.push_str(&format!(" · bound to {}", ticket.bound));
    }
    if ticket.calls > 1 {
        text.push_str(&format!(" · call {}", ticket.calls));
    }
    if !ticket.cases.is_empty() {
        text.push_str(&format!(" · {} case(s)", ticket.cases.len()));
    }
    text
}

//! The book a connector keeps: what it works on under which token, and which verdicts are still to be said. Pure; it outlives
//! streams, so that a connector that attaches again settles what it has.
//!
//! Invariants:
//! - a message is worked on under one token, its newest; a verdict under an older one is dropped;
//! - jobs are at most [`Book::workers`]; verdicts that wait are at most those of the jobs there were;
//! - one settling call is under way at a time; if nobody knows how it ended, it is said again under the same request id.

use crate::message::{BODY_BYTES_MAX, Verdict};
use okno_client::v1;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Verdicts of one call.
const ITEMS_MAX: usize = 64;
/// Bytes of bodies of one call.
const CALL_BYTES_MAX: usize = 3 * BODY_BYTES_MAX;
/// Times a verdict is said again after the channel had no room for it in a commit.
const AGAIN_MAX: u32 = 16;

/// A job under way. `J` is what the shell needs to know of it.
#[derive(Debug)]
pub struct Job<J> {
    pub token: String,
    /// Acknowledged, as far as this connector knows.
    pub heard: bool,
    /// Reports of progress so far.
    pub reports: u32,
    pub task: J,
}

#[derive(Debug, Clone, PartialEq)]
struct Unsaid {
    verdict: v1::Verdict,
    bytes: usize,
    /// It ends the job, so that its worker is free.
    ends: bool,
    said: u32,
}

impl Unsaid {
    /// It sets a worker free for which nothing was asked yet: what is said again has its answer, or its credit.
    const fn asks(&self) -> bool {
        self.ends && self.said == 0
    }
}

/// See the module.
#[derive(Debug)]
pub struct Book<J> {
    pub workers: usize,
    jobs: BTreeMap<String, Job<J>>,
    unsaid: VecDeque<Unsaid>,
    /// The call whose end is not known, with what it says.
    under_way: Option<(v1::SettleMessagesRequest, Vec<Unsaid>)>,
}

/// What to do about a delivery.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken<J> {
    /// Work on it; the job before it, of an older token, is to be stopped.
    Begin { stop: Option<J> },
    /// It is worked on already, under this very token.
    Known,
    /// There is no worker for it: more came than credit was given.
    NoRoom,
}

impl<J> Book<J> {
    pub fn new(workers: usize) -> Self {
        Self { workers, jobs: BTreeMap::new(), unsaid: VecDeque::new(), under_way: None }
    }

    /// Workers that have nothing to do.
    pub fn free(&self) -> usize {
        self.workers.saturating_sub(self.jobs.len())
    }

    pub fn jobs(&mut self) -> impl Iterator<Item = (&String, &mut Job<J>)> {
        self.jobs.iter_mut()
    }

    /// Deliveries that are its own as far as it knows: worked on, or with a verdict nobody has answered.
    pub fn held(&self) -> Vec<v1::DeliveryName> {
        let jobs = self.jobs.iter().map(|(id, job)| (id, &job.token));
        let said = self.under_way.iter().flat_map(|(_, said)| said).chain(&self.unsaid);
        let said = said.map(|one| (&one.verdict.message_id, &one.verdict.token));
        let held: BTreeSet<_> = jobs.chain(said).collect();
        held.into_iter()
            .map(|(id, token)| v1::DeliveryName { message_id: id.clone(), token: token.clone() })
            .collect()
    }

    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.unsaid.is_empty() && self.under_way.is_none()
    }

    pub fn has_unsaid(&self) -> bool {
        !self.unsaid.is_empty()
    }

    /// Messages that what is still to be said asks for in return: workers for them are spoken for.
    pub fn asked_for(&self) -> usize {
        let under_way = self.under_way.as_ref().map_or(0, |(request, _)| request.take_messages);
        let waiting = self.unsaid.iter().filter(|unsaid| unsaid.asks()).count();
        usize::try_from(under_way).unwrap_or(usize::MAX).saturating_add(waiting)
    }

    pub fn is_settling(&self) -> bool {
        self.under_way.is_some()
    }

    /// A delivery has come.
    pub fn take(&mut self, id: &str, token: &str) -> Taken<J> {
        if self.jobs.get(id).is_some_and(|job| job.token == token) {
            return Taken::Known;
        }
        let before = self.jobs.remove(id).map(|job| job.task);
        if before.is_none() && self.jobs.len() >= self.workers {
            return Taken::NoRoom;
        }
        // What an older delivery came to counts for nothing any more.
        self.unsaid.retain(|unsaid| unsaid.verdict.message_id != id);
        Taken::Begin { stop: before }
    }

    /// Its job has begun.
    pub fn began(&mut self, id: String, token: String, task: J) {
        self.jobs.insert(id, Job { token, heard: false, reports: 0, task });
    }

    /// A handler has said what came of its message; false: it is no longer its own.
    pub fn finished(&mut self, id: &str, token: &str, verdict: Verdict) -> bool {
        if self.jobs.get(id).is_none_or(|job| job.token != token) {
            return false;
        }
        self.jobs.remove(id);
        let bytes = verdict.bytes();
        self.say(id, token, verdict.said(), (bytes, true));
        true
    }

    /// A report that lets the work time begin anew; left out when the message is no longer ours.
    pub fn report(&mut self, id: &str, text: String) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        job.reports += 1;
        let token = job.token.clone();
        let said = v1::verdict::Said::Progress(v1::ReportProgress { text });
        self.say(id, &token, said, (0, false));
    }

    fn say(&mut self, id: &str, token: &str, said: v1::verdict::Said, (bytes, ends): (usize, bool)) {
        let verdict = v1::Verdict { message_id: id.to_owned(), token: token.to_owned(), said: Some(said) };
        self.unsaid.push_back(Unsaid { verdict, bytes: bytes.min(BODY_BYTES_MAX), ends, said: 0 });
    }

    /// The delivery counts no longer: its job is to be stopped, and what it would say is dropped.
    pub fn lost(&mut self, id: &str, token: &str) -> Option<J> {
        let ours = |unsaid: &Unsaid| unsaid.verdict.message_id == id && unsaid.verdict.token == token;
        self.unsaid.retain(|unsaid| !ours(unsaid));
        if self.jobs.get(id).is_some_and(|job| job.token == token) {
            return self.jobs.remove(id).map(|job| job.task);
        }
        None
    }

    /// The next call, if there is something to say and none is under way: what fits into one, and as much in return as that
    /// sets workers free (none while the connector ends).
    pub fn settle(
        &mut self,
        frame: v1::SettleMessagesRequest,
        take: bool,
    ) -> Option<v1::SettleMessagesRequest> {
        if self.under_way.is_some() || self.unsaid.is_empty() {
            return None;
        }
        let (mut said, mut bytes): (Vec<Unsaid>, usize) = (Vec::new(), 0);
        while let Some(next) = self.unsaid.front() {
            // Of one message one verdict a call: the second would not know what the first came to.
            let again = said.iter().any(|one| one.verdict.message_id == next.verdict.message_id);
            if said.len() >= ITEMS_MAX || again || (!said.is_empty() && bytes + next.bytes > CALL_BYTES_MAX) {
                break;
            }
            bytes += next.bytes;
            said.extend(self.unsaid.pop_front());
        }
        let ending = said.iter().filter(|one| one.asks()).count();
        let request = v1::SettleMessagesRequest {
            verdicts: said.iter().map(|one| one.verdict.clone()).collect(),
            take_messages: if take { u32::try_from(ending).unwrap_or(0) } else { 0 },
            ..frame
        };
        self.under_way = Some((request.clone(), said));
        Some(request)
    }

    /// The call whose end nobody knows, to be said again: the same id, a larger attempt.
    pub fn settle_again(&mut self) -> Option<v1::SettleMessagesRequest> {
        let (request, _) = self.under_way.as_mut()?;
        let meta = request.meta.get_or_insert_default();
        meta.attempt = meta.attempt.max(1) + 1;
        Some(request.clone())
    }

    /// The call ended; for each verdict its reason, empty where it counts. Names those that no longer do.
    pub fn settled(&mut self, results: &[v1::VerdictResult]) -> Vec<(String, String)> {
        let Some((_, said)) = self.under_way.take() else { return Vec::new() };
        let mut refused = Vec::new();
        for (mut one, result) in said.into_iter().zip(results).rev() {
            match result.reason.as_str() {
                "" => {}
                // The commit was full: the same again.
                "CALL_FULL" if one.said < AGAIN_MAX => {
                    one.said += 1;
                    self.unsaid.push_front(one);
                }
                reason => refused.push((one.verdict.message_id, reason.to_owned())),
            }
        }
        refused
    }

    /// The call was refused as a whole: what it said is dropped, for it would be refused again.
    pub fn refused(&mut self) -> usize {
        self.under_way.take().map_or(0, |(_, said)| said.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> v1::SettleMessagesRequest {
        v1::SettleMessagesRequest {
            meta: Some(v1::RequestMeta { request_id: "r".into(), attempt: 1, workstation: String::new() }),
            channel: "egrn".into(),
            instance: "i".into(),
            ..Default::default()
        }
    }

    fn begin(book: &mut Book<u32>, id: &str, token: &str, task: u32) -> Taken<u32> {
        let taken = book.take(id, token);
        if matches!(taken, Taken::Begin { .. }) {
            book.began(id.into(), token.into(), task);
        }
        taken
    }

    fn results(reasons: &[&str]) -> Vec<v1::VerdictResult> {
        reasons
            .iter()
            .map(|reason| v1::VerdictResult { reason: (*reason).to_owned(), ..Default::default() })
            .collect()
    }

    #[test]
    fn a_newer_token_takes_the_place_of_an_older_one() {
        let mut book = Book::new(2);
        assert_eq!(begin(&mut book, "a", "1.1.1", 1), Taken::Begin { stop: None });
        assert_eq!(begin(&mut book, "a", "1.1.1", 2), Taken::Known);
        assert_eq!(begin(&mut book, "a", "1.1.2", 3), Taken::Begin { stop: Some(1) });
        assert!(!book.finished("a", "1.1.1", Verdict::fail("late")), "the older job counts for nothing");
        assert_eq!(begin(&mut book, "b", "1.1.3", 4), Taken::Begin { stop: None });
        assert_eq!(begin(&mut book, "c", "1.1.4", 5), Taken::NoRoom, "more than there are workers");
        assert_eq!(book.lost("a", "1.1.1"), None);
        assert_eq!(book.lost("a", "1.1.2"), Some(3));
        assert_eq!(book.free(), 1);
    }

    #[test]
    fn verdicts_wait_for_the_call_before_and_are_said_again_under_its_id() {
        let mut book = Book::new(4);
        for (n, id) in ["a", "b", "c"].into_iter().enumerate() {
            begin(&mut book, id, "1.1.1", u32::try_from(n).expect("small"));
        }
        book.report("a", "half".into());
        assert!(book.finished("b", "1.1.1", Verdict::complete("ok", vec![1_u8])));
        let first = book.settle(frame(), true).expect("two verdicts");
        assert_eq!((first.verdicts.len(), first.take_messages), (2, 1), "a report sets nobody free");
        assert!(book.finished("a", "1.1.1", Verdict::reject("no")));
        assert!(book.settle(frame(), true).is_none(), "one call at a time");
        let held: Vec<_> = book.held().into_iter().map(|name| name.message_id).collect();
        assert_eq!(held, ["a", "b", "c"], "with a verdict that waits, one that is under way, and none");
        let again = book.settle_again().expect("its end is not known");
        assert_eq!(again.meta.as_ref().map(|meta| (meta.request_id.as_str(), meta.attempt)), Some(("r", 2)));
        assert_eq!(again.verdicts, first.verdicts);
        assert_eq!(
            book.settled(&results(&["", "DELIVERY_LOST"])),
            [("b".to_owned(), "DELIVERY_LOST".to_owned())]
        );
        assert!(book.settle_again().is_none());
        assert_eq!(book.settle(frame(), false).expect("the rest").take_messages, 0, "none when it ends");
        assert!(book.settled(&results(&["CALL_FULL"])).is_empty());
        assert!(book.has_unsaid(), "the same again");
        assert!(book.settle(frame(), true).is_some());
        assert!(book.settled(&results(&[""])).is_empty());
        assert!(!book.is_idle(), "c is worked on");
        assert_eq!(book.lost("c", "1.1.1"), Some(2));
        assert!(book.is_idle() && book.held().is_empty());
    }

    #[test]
    fn a_call_that_is_refused_is_not_said_again() {
        let mut book = Book::new(2);
        begin(&mut book, "a", "1.1.1", 1);
        begin(&mut book, "b", "1.1.2", 2);
        book.report("a", "still at it".into());
        let lone = book.settle(frame(), true).expect("a report");
        assert_eq!((lone.verdicts.len(), lone.take_messages), (1, 0));
        assert_eq!(book.refused(), 1);
        assert!(book.settle_again().is_none(), "it would be refused again");
        assert!(book.finished("b", "1.1.2", Verdict::complete("ok", vec![1_u8])));
        assert_eq!(book.settle(frame(), true).expect("the next").verdicts[0].message_id, "b");
    }

    #[test]
    fn a_worker_is_offered_once() {
        let mut book = Book::new(2);
        begin(&mut book, "a", "1.1.1", 1);
        begin(&mut book, "b", "1.1.2", 2);
        assert!(book.finished("a", "1.1.1", Verdict::complete("ok", vec![1_u8])));
        assert_eq!((book.free(), book.asked_for()), (1, 1), "whoever attaches again offers nobody else");
        assert_eq!(book.settle(frame(), true).expect("one").take_messages, 1);
        assert_eq!((book.free(), book.asked_for()), (1, 1));
        assert!(book.settled(&results(&["CALL_FULL"])).is_empty());
        assert!(book.finished("b", "1.1.2", Verdict::complete("ok", vec![1_u8])));
        assert_eq!(book.asked_for(), 1);
        assert_eq!(book.settle(frame(), true).expect("both").take_messages, 1, "a was asked for before");
    }

    #[test]
    fn a_call_is_bounded() {
        let mut book = Book::new(100);
        for n in 0..70 {
            let id = format!("m{n}");
            begin(&mut book, &id, "1.1.1", n);
            let body = if n < 4 { vec![0_u8; BODY_BYTES_MAX] } else { Vec::new() };
            assert!(book.finished(&id, "1.1.1", Verdict::complete("", body)));
        }
        let mut sizes = Vec::new();
        while let Some(request) = book.settle(frame(), true) {
            sizes.push(request.verdicts.len());
            assert!(book.settled(&results(&vec![""; request.verdicts.len()])).is_empty());
        }
        assert_eq!(sizes, [3, 64, 3]);
    }
}

//! The catalogue of invariants. Simulator, drills, mutants and reports name them by these ids and no others.

use serde::{Deserialize, Serialize};

macro_rules! catalogue {
    ($($(#[$doc:meta])* $name:ident $id:literal $title:literal;)+) => {
        /// Something that must hold whatever happens.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Invariant {
            $($(#[$doc])* #[serde(rename = $id)] $name,)+
        }

        impl Invariant {
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Stable, as reports carry it.
            pub const fn id(self) -> &'static str {
                match self {
                    $(Self::$name => $id,)+
                }
            }

            /// One line for people.
            pub const fn title(self) -> &'static str {
                match self {
                    $(Self::$name => $title,)+
                }
            }
        }
    };
}

catalogue! {
    Acknowledged "acknowledged-survives" "everything acknowledged is there";
    Linearizable "linearizable" "each entity's history, refusals included, is linearizable";
    OneLeader "one-leader-a-term" "at most one leader a term";
    SameState "same-state" "equal hash at equal index, equal digest of rows";
    OnceARequest "once-a-request" "nothing happened twice for one request id";
    UnknownResolves "unknown-resolves" "an unknown outcome is one of the two, for ever";
    NothingUnasked "nothing-unasked" "what was refused or not applied left nothing, and nothing is there unasked";
    MessagesOnce "messages-once" "messages between entities are neither lost nor doubled";
    TimersOnce "timers-once" "every timer fires once, and not before its time";
    Progress "progress" "the service goes on within the stated time once faults end";
    StopsWhenWrong "stops-when-wrong" "a node stops rather than serve wrong data";
    JournalWhole "journal-whole" "the journal's hash chain is complete";
    Refused "unauthorised-refused" "the unauthorised are refused";
    MemoryBounded "memory-bounded" "memory and queues stay within their bounds";
    NeighboursUnharmed "neighbours-unharmed" "one entity's trouble is its own";
    LevelFirst "level-first" "nothing is written in a form that the replicated level does not allow yet";
    Deterministic "deterministic" "the same seed gives the same trace";
    Restorable "restorable" "what was backed up can be restored, equal, in time";
    TicketKept "ticket-kept" "no ticket is lost: each is in exactly one state, or in the archive";
    TicketOnce "ticket-once" "nobody is served twice, and a window has one visitor at most";
    NumbersUnique "numbers-unique" "numbers are given once per office and day";
    SlotOnce "slot-once" "a slot is one visitor's";
    FairTurn "fair-turn" "nobody is passed over beyond the fairness bound";
    DeferredBack "deferred-back" "who was put off comes back when the time is over, and not before";
    WindowAttended "window-attended" "a window whose workstation is lost is left in time, gives its visitor back, and is taken up again";
    OutsideOnce "outside-once" "an event of an outside queue system takes effect once, and what such a system is told is whole";
    AnsweredOnce "answered-once" "a request to a channel is answered once, and its message is in exactly one state until then";
    TokenNewest "token-newest" "a delivery counts only with its message's newest token";
    BodiesKept "bodies-kept" "what was sent and received is kept byte for byte";
    LeaseKept "lease-kept" "a delivery has its whole time, to be acknowledged and to be worked on, and anew under a new leader";
    AsksBounded "asks-bounded" "a request waits for all requests within it; these are bounded in number, depth and time";
    LetterOnce "letter-once" "a letter that comes again is known";
}

/// Whether an invariant held in one run, and what was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub id: Invariant,
    pub held: bool,
    /// What was checked, or how it broke.
    pub detail: String,
}

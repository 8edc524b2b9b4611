//! Between the simulated clients and the simulated cluster: what a client may do and what it learns.
//!
//! The world owns time, network and nodes; clients (`clients/`) own what they ask for, what they believe and when they try
//! again. A client is given one event at a time and answers with actions; it never sees the world.

use okno_runtime::call::CallResult;
use okno_storage::state::StateView;
use uuid::Uuid;

/// Names one attempt of one client; never reused within a run.
pub type AttemptId = u64;
pub type NodeId = u64;

/// What a client does.
pub enum Action {
    /// Sends one attempt of a command to a node. The simulated network may lose or delay it on either way, for as
    /// long as it likes, but never doubles it: a connection carries a request once, and only the client's own
    /// retry, with a higher attempt number, comes a second time (rule 2).
    Command { attempt: AttemptId, node: NodeId, request: Box<CommandRequest> },
    /// A linearizable read at a node: ReadIndex, then `read` on a view of that node's own store.
    Read { attempt: AttemptId, node: NodeId, query: Box<dyn Query> },
    /// Says something to a node that it does not answer: lost as easily as an attempt. Where nobody listens to it the
    /// client learns so, as of the attempt [`SAID`].
    Tell { node: NodeId, word: Word },
    /// Time goes by: all clocks, the clients' too, move on together by so many milliseconds.
    Pass { ms: i64 },
    /// Be woken at this virtual time.
    Wake { at_us: u64 },
}

/// Names no attempt: what was said.
pub const SAID: AttemptId = 0;

/// What a node hears of the programs that are attached to it. No commit follows at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// A workstation is there: its heartbeat.
    Here { workstation: String },
    /// Of a connector's stream.
    Stream { channel: &'static str, connector: &'static str, up: Up },
}

/// What a connector says on its stream. The first thing it says attaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Up {
    Heartbeat,
    /// These deliveries arrived.
    Acknowledgement(Vec<okno_runtime::channels::Delivered>),
    /// The connection ends; after a goodbye it will not come back for what it has.
    End {
        goodbye: bool,
    },
}

/// A command as a workstation sends it; the node adds nothing but its own clock.
#[derive(Debug, Clone)]
pub struct CommandRequest {
    pub principal: okno_domain::entity::Principal,
    pub workstation: String,
    pub request_id: Uuid,
    /// 1 for the first attempt (rule 2).
    pub attempt_number: u32,
    pub hash: [u8; 32],
    pub target: okno_domain::entity::EntityRef,
    pub command: okno_domain::registry::AnyCommand,
    /// Milliseconds the client waits; the node does not begin it later.
    pub timeout_ms: u64,
}

/// Carried out on the node's view once its applied index has passed the read index.
pub trait Query: Send {
    /// An error is the store's: what it means for the node is the world's affair.
    fn run(&self, view: &StateView) -> Result<Observed, okno_storage::error::StorageError>;
}

/// What a read saw, in the checkers' words.
pub type Observed = okno_checks::history::Seen;

/// What a client learns.
#[derive(Debug)]
pub enum Event {
    /// The run begins, or the time asked for has come.
    Awake,
    /// An attempt's answer came back, perhaps long after the client gave it up.
    Answer { attempt: AttemptId, result: CallResult, leader_hint: Option<NodeId> },
    /// Of a read; one that failed changed nothing.
    Seen { attempt: AttemptId, result: Result<Observed, ReadFailed> },
    /// The connection broke, the node died or cut the stream: the attempt's outcome is not known if it was `sent`;
    /// if not, nobody listened there and it never left.
    Broken { attempt: AttemptId, sent: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadFailed;

/// Clients as the world sees them.
pub trait Clients {
    fn count(&self) -> usize;
    /// `now_us` is virtual; `wall_ms` is what this client's own clock says (request ids are UUIDv7 of it).
    fn on(&mut self, client: usize, event: Event, now_us: u64, wall_ms: i64, out: &mut Vec<Action>);
    /// No new operations from now on; what is under way goes on until it is known.
    fn wind_down(&mut self);
    /// True once nothing is under way.
    fn idle(&self) -> bool;
}

//! The actor of one entity: a mailbox around a cell. It keeps nothing that storage does not have.

use super::inbox::Inbox;
use crate::{
    cell::{AnyCell, CellEnv, CellInput},
    shard::Input,
};
use actix::{Actor, ActorContext, Addr, Context, Handler, Message};
use std::sync::Arc;

/// Places in the mailbox. The shard never has more deliveries out than an entity's bounds allow, so a mailbox of
/// this size is never full; it costs nothing while empty.
pub const MAILBOX: usize = 256;

pub struct EntityActor {
    pub activation: u64,
    pub cell: Box<dyn AnyCell>,
    pub env: Arc<CellEnv>,
    pub inbox: Arc<Inbox>,
}

impl Actor for EntityActor {
    type Context = Context<Self>;
}

impl EntityActor {
    /// Starts it with its mailbox as large as it will be: what waited for the load is delivered in the very turn that
    /// starts it, and actix's own sixteen places would be full before `started` ran.
    pub fn launch(self) -> Addr<Self> {
        Self::create(|context| {
            context.set_mailbox_capacity(MAILBOX);
            self
        })
    }
}

impl Drop for EntityActor {
    /// Stopped or unwound: the shard learns of either.
    fn drop(&mut self) {
        self.inbox.push(Input::Gone { activation: self.activation });
    }
}

#[derive(Message)]
#[rtype(result = "()")]
pub struct Decide(pub CellInput);

impl Handler<Decide> for EntityActor {
    type Result = ();

    fn handle(&mut self, Decide(input): Decide, _: &mut Self::Context) {
        let output = self.cell.handle(&input, &self.env);
        self.inbox.push(Input::Output { activation: self.activation, output });
    }
}

#[derive(Message)]
#[rtype(result = "()")]
pub struct Halt;

impl Handler<Halt> for EntityActor {
    type Result = ();

    fn handle(&mut self, _: Halt, context: &mut Self::Context) {
        context.stop();
    }
}

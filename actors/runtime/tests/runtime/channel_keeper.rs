//! The keeper of deliveries in a running node: what nobody acknowledges comes back, what was acknowledged outlives a change of
//! leadership (rule 5). The clocks of leases are the machine's: nothing here waits for longer than one of them.

use crate::world::{World, admin, anna, applied, eventually};
use okno_domain::{
    case::{self, State, Step},
    catalogue::{self, SourceFile},
    channel::{
        Channel, Command, Exchanged, MessageState, Outgoing, Reply, Said, Take, Token, Verdict, files,
    },
    entity::{EntityRef, Kind, Principal},
    exchange::Content,
    refusal::{DELIVERY_LOST, LEASE_FOREIGN},
    registry::{AnyCommand, AnyReply},
};
use okno_runtime::{
    SystemResult,
    call::CallResult,
    channels::{Ask, Delivered, KeeperFigures, Told},
};
use okno_storage::{commit::SystemOp, level::FEATURE_LEVEL};
use std::time::{Duration, Instant};

const CONNECTOR: &str = "egrn-1";
/// Its time to acknowledge is what a test here waits for.
const MODULE: &str = r#"format = 1
[channel]
code = "egrn"
title = { ru = "ЕГРН", en = "Land register" }
connectors = ["egrn-1"]
[channel.lease]
ack_ms = 2000
[[process]]
service = "paper"
[[process.ask]]
code = "extract"
title = { ru = "Выписка", en = "Extract" }
requests = [{ channel = "egrn", kind = "extract" }]
"#;

fn channel() -> EntityRef {
    EntityRef { kind: Kind::Channel, id: "egrn".into() }
}

async fn furnished() -> World {
    let world = World::new();
    world.furnish().await;
    let raised = world.system(&admin(), SystemOp::Level { level: FEATURE_LEVEL }).await;
    assert!(matches!(raised, SystemResult::Done { .. }), "{raised:?}");
    let module = files::read(&SourceFile::new("egrn.toml", MODULE)).expect("a good module");
    let configure = Command::Configure { settings: Box::new(module.settings) };
    world.done(&admin(), &channel(), AnyCommand::Channel(configure)).await;
    let target = EntityRef { kind: Kind::Catalogue, id: catalogue::ENTITY_ID.into() };
    let load = catalogue::Command::LoadProcesses(module.processes);
    world.done(&admin(), &target, AnyCommand::Catalogue(load)).await;
    world
}

/// A case whose request lies in the channel's backlog.
async fn case_that_asks(world: &World) -> EntityRef {
    let case = world.open(None).await;
    for kind in ["application", "passport"] {
        let add = case::Command::AddDocument {
            kind: kind.into(),
            form: case::DocumentForm::Original,
            sheets: 1,
            reference: String::new(),
            note: String::new(),
        };
        world.done(&anna(), &case, AnyCommand::Case(add)).await;
    }
    let accept = case::Command::Advance { step: Step::Accept };
    world.done(&anna(), &case, AnyCommand::Case(accept)).await;
    let body =
        case::AskBody { subject: "Выписка".into(), key: String::new(), body: Content(b"?".to_vec()) };
    let ask = case::Command::Ask { code: "extract".into(), bodies: vec![body] };
    world.done(&anna(), &case, AnyCommand::Case(ask)).await;
    eventually("the request is in the backlog", || message_of(world, &case).map(drop)).await;
    case
}

fn message_of(world: &World, case: &EntityRef) -> Option<Outgoing> {
    let channel = applied::<Channel>(&world.log.reader, "egrn");
    channel.messages().find(|message| message.case == case.id).cloned()
}

/// What a connector's call comes to; `Err`: it was refused as a whole, why.
async fn exchange(world: &World, verdicts: Vec<Verdict>, messages: u16) -> Result<Exchanged, String> {
    let connector = Principal { kind: "connector".into(), id: CONNECTOR.into() };
    let command = Command::Exchange { verdicts, take: Take { messages, bytes: 1 << 20 } };
    let call = world.call_as(&connector, &channel(), AnyCommand::Channel(command));
    match world.runtime.gateway.call(call).await {
        CallResult::Done { reply: AnyReply::Channel(Reply::Exchanged(exchanged)), .. } => Ok(*exchanged),
        CallResult::Refused(refusal) => Err(refusal.reason),
        other => panic!("{other:?}"),
    }
}

/// Takes one message.
async fn taken(world: &World) -> Delivered {
    let handed = exchange(world, Vec::new(), 1).await.expect("there is one").handed;
    assert_eq!(handed.len(), 1);
    let MessageState::Out { token, .. } = handed[0].state else { panic!("{:?}", handed[0]) };
    Delivered { id: handed[0].id.clone(), token }
}

/// The reason why an answer does not count; empty: it does. A call that brings nothing but what does not count is refused.
async fn complete(world: &World, id: &str, token: Token) -> String {
    let said = Said::Complete { summary: "готово".into(), body: Some(Content(b"!".to_vec())) };
    match exchange(world, vec![Verdict { id: id.into(), token, said }], 0).await {
        Ok(exchanged) => {
            assert_eq!(exchanged.results.len(), 1);
            exchanged.results[0].reason.clone()
        }
        Err(reason) => reason,
    }
}

async fn asked(world: &World, ask: Ask) -> Option<Told> {
    world.runtime.channels.ask(ask, Instant::now() + Duration::from_secs(5)).await
}

fn acknowledge(connector: &str, delivery: &Delivered) -> Ask {
    let deliveries = vec![delivery.clone()];
    Ask::Acknowledge { channel: "egrn".into(), connector: connector.into(), deliveries }
}

async fn answered(world: &World, case: &EntityRef) {
    eventually("the case has its answer", || {
        let read = world.runtime.query.case(&case.id).expect("readable")?;
        (read.value.head().life.state() == State::Accepted).then_some(())
    })
    .await;
    assert_eq!(message_of(world, case), None, "it is answered and gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_acknowledges_comes_back_and_the_old_token_counts_no_longer() {
    let world = furnished().await;
    let case = case_that_asks(&world).await;
    let first = taken(&world).await;
    let channel = eventually("the delivery lapses", || {
        let channel = applied::<Channel>(&world.log.reader, "egrn");
        (channel.head().account.lapses.total() == 1).then_some(channel)
    })
    .await;
    assert_eq!((channel.head().failed_total, channel.head().counts.out), (0, 0), "that is no failed attempt");
    assert_eq!(complete(&world, &first.id, first.token).await, DELIVERY_LOST.code);

    let second = taken(&world).await;
    assert_eq!(second.id, first.id, "the same message");
    assert!(second.token > first.token);
    let foreign = asked(&world, acknowledge("egrn-2", &second)).await;
    assert_eq!(foreign, Some(Told::Acknowledged(vec![LEASE_FOREIGN.code.into()])));
    let late = asked(&world, acknowledge(CONNECTOR, &first)).await;
    assert_eq!(late, Some(Told::Acknowledged(vec![DELIVERY_LOST.code.into()])));
    let heard = asked(&world, acknowledge(CONNECTOR, &second)).await;
    assert_eq!(heard, Some(Told::Acknowledged(vec![String::new()])));
    assert_eq!(complete(&world, &second.id, second.token).await, "");
    answered(&world, &case).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_grants_what_is_out_a_full_work_time() {
    let world = furnished().await;
    let case = case_that_asks(&world).await;
    let held = taken(&world).await;
    assert_eq!(
        asked(&world, acknowledge(CONNECTOR, &held)).await,
        Some(Told::Acknowledged(vec![String::new()]))
    );
    world.log.lose_leadership(false);
    eventually("who leads no longer keeps nothing", || {
        world.runtime.channels.figures().is_empty().then_some(())
    })
    .await;
    let soon = Instant::now() + Duration::from_millis(200);
    assert_eq!(world.runtime.channels.ask(acknowledge(CONNECTOR, &held), soon).await, None);

    world.log.win_leadership();
    let one = |delivered, working| vec![KeeperFigures { channel: "egrn".into(), delivered, working }];
    eventually("the new leader keeps it", || (world.runtime.channels.figures() == one(0, 1)).then_some(()))
        .await;
    // Another delivery lapses meanwhile: as much time has passed as one that is not acknowledged has.
    let other = case_that_asks(&world).await;
    let silent = taken(&world).await;
    eventually("the silent delivery lapses", || {
        (applied::<Channel>(&world.log.reader, "egrn").head().account.lapses.total() == 1).then_some(())
    })
    .await;
    let holds = Ask::Holds { channel: "egrn".into(), connector: CONNECTOR.into(), delivery: held.clone() };
    let place = message_of(&world, &case).expect("it is out").sequence;
    assert_eq!(asked(&world, holds).await, Some(Told::Holds(Ok(place))));
    assert_eq!(complete(&world, &held.id, held.token).await, "", "a token of the leader before");
    answered(&world, &case).await;

    let again = taken(&world).await;
    assert_eq!(again.id, silent.id);
    assert_eq!(complete(&world, &again.id, again.token).await, "");
    answered(&world, &other).await;
    world.stop().await;
}

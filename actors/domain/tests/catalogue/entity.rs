//! The catalogue as an entity: versions, refusals, and the laws every entity keeps.

use crate::support::{date, shipped_load};
use okno_domain::{
    catalogue::{Catalogue, Command, Event, Load, Part, Reply, Term},
    directory::Directory,
    entity::{
        Context, Decision, Entity, EntityRef, EventMeta, Kind, Origin, Principal, Refusal, RefusalClass,
    },
    message::Message,
    queue::TicketRef,
};
use proptest::prelude::*;
use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};
use uuid::Uuid;

static LOAD: LazyLock<Load> = LazyLock::new(shipped_load);

pub fn as_principal<T>(kind: &str, run: impl FnOnce(&Context<'_>) -> T) -> T {
    let this = EntityRef { kind: Kind::Catalogue, id: "region".to_owned() };
    let origin = Origin {
        principal: Principal { kind: kind.to_owned(), id: "test".to_owned() },
        workstation: String::new(),
    };
    let (catalogue, directory) = (Catalogue::default(), Directory::empty("region"));
    run(&Context {
        this: &this,
        now_ms: 1_795_000_000_000,
        origin: &origin,
        request_id: Uuid::nil(),
        catalogue: &catalogue,
        directory: &directory,
        level: okno_domain::level::QUEUE,
        fence: Default::default(),
    })
}

pub fn meta(time_ms: i64) -> EventMeta {
    let principal = Principal { kind: "admin".to_owned(), id: "test".to_owned() };
    EventMeta { time_ms, origin: Origin { principal, workstation: String::new() } }
}

fn decide(catalogue: &Catalogue, load: Load) -> Result<Decision<Catalogue>, Refusal> {
    as_principal("admin", |context| catalogue.decide(&Command::Load(load), context))
}

fn apply(catalogue: &mut Catalogue, load: Load) -> Reply {
    let decision = decide(catalogue, load).unwrap_or_else(|refusal| panic!("{refusal:?}"));
    assert!(decision.sends.is_empty() && decision.timers.is_empty());
    for event in &decision.events {
        catalogue.evolve(event, &meta(7));
    }
    decision.reply
}

fn loaded() -> Catalogue {
    let mut catalogue = Catalogue::empty("region");
    apply(&mut catalogue, LOAD.clone());
    catalogue
}

#[test]
fn the_first_load_makes_version_one() {
    let mut catalogue = Catalogue::empty("region");
    assert!(!catalogue.exists());
    let records =
        u32::try_from(LOAD.authorities.len() + LOAD.services.len() + LOAD.calendars.len()).expect("few");
    assert_eq!(
        apply(&mut catalogue, LOAD.clone()),
        Reply::Loaded { version: 1, changed: records, unchanged: 0 }
    );
    assert!(catalogue.exists());
    assert_eq!((catalogue.version(), catalogue.loaded()), (1, (7, "admin/test")));
    assert_eq!(catalogue.services().count(), LOAD.services.len());
    assert_eq!(catalogue.authority("mvd").map(|authority| authority.short.ru.as_str()), Some("МВД России"));
}

#[test]
fn the_same_load_again_changes_nothing() {
    let mut catalogue = loaded();
    let before = catalogue.clone();
    let decision = decide(&catalogue, LOAD.clone()).expect("taken");
    assert!(decision.events.is_empty());
    assert!(matches!(apply(&mut catalogue, LOAD.clone()), Reply::Loaded { version: 1, changed: 0, .. }));
    assert_eq!(catalogue, before);
}

#[test]
fn a_changed_record_makes_the_next_version_and_leaves_the_others() {
    let mut catalogue = loaded();
    let mut service = catalogue.service("fns.inn").expect("shipped").clone();
    service.execution = Term::working(4);
    let load = Load { services: vec![Arc::new(service)], ..Load::default() };
    assert_eq!(apply(&mut catalogue, load), Reply::Loaded { version: 2, changed: 1, unchanged: 0 });
    assert_eq!(catalogue.version(), 2);
    assert_eq!(catalogue.service("fns.inn").map(|service| service.execution), Some(Term::working(4)));
    assert_eq!(catalogue.services().count(), LOAD.services.len());
}

#[test]
fn a_load_with_one_error_is_refused_whole() {
    let catalogue = loaded();
    let mut load = LOAD.clone();
    let mut service = load.services[3].as_ref().clone();
    service.authority = "nobody".to_owned();
    load.services[3] = Arc::new(service);
    let refusal = decide(&catalogue, load).expect_err("an unknown authority");
    assert_eq!(
        (refusal.class, refusal.reason.as_str()),
        (RefusalClass::InvalidArgument, "CATALOGUE_INVALID")
    );
    assert_eq!(refusal.details.keys().collect::<Vec<_>>(), ["service[3].authority"]);
}

#[test]
fn an_empty_load_is_refused() {
    let refusal = decide(&Catalogue::default(), Load::default()).expect_err("nothing named");
    assert_eq!(refusal.reason, "CATALOGUE_EMPTY_LOAD");
}

#[test]
fn only_administrators_load() {
    let command = Command::Load(LOAD.clone());
    let catalogue = Catalogue::default();
    let allowed = |kind| as_principal(kind, |context| catalogue.authorise(&command, context));
    assert_eq!(allowed("admin"), Ok(()));
    for kind in
        ["operator", "workstation", "kiosk", "board", "connector", "portal", "auditor", "node", "peer", ""]
    {
        assert_eq!(
            allowed(kind).map_err(|refusal| refusal.class),
            Err(RefusalClass::PermissionDenied),
            "{kind}"
        );
    }
}

#[test]
fn messages_and_timers_are_refused() {
    let catalogue = loaded();
    let source = EntityRef { kind: Kind::Catalogue, id: "region".to_owned() };
    let ticket = TicketRef { day: date("2026-03-02"), number: "А015".to_owned() };
    let message = Message::CaseOpened { ticket };
    let reason = as_principal("node", |context| catalogue.receive(&source, &message, context).map(|_| ()))
        .map_err(|refusal| refusal.reason);
    assert_eq!(reason, Err("MESSAGE_UNEXPECTED".to_owned()));
    let reason = as_principal("node", |context| catalogue.fire("x", context).map(|_| ()))
        .map_err(|refusal| refusal.reason);
    assert_eq!(reason, Err("TIMER_UNKNOWN".to_owned()));
}

#[test]
fn parts_are_named_and_found_by_name() {
    let catalogue = loaded();
    let named = |name: &str| catalogue.part(name).map(|part| part.name());
    for name in ["authority:mvd", "service:mvd.passport", "calendar:2026"] {
        assert_eq!(named(name).as_deref(), Some(name));
    }
    for name in ["service:none", "calendar:2031", "calendar:2026:16", "calendar:x", "none:x", "none", ""] {
        assert_eq!(named(name), None, "{name}");
    }
    assert!(catalogue.rows(None).is_empty() && catalogue.rows(Some("service:mvd.passport")).is_empty());
}

#[test]
fn catalogues_made_without_a_cluster_are_the_same() {
    let catalogue = loaded();
    let of = Catalogue::of(&LOAD).expect("checked");
    assert_eq!(of.version(), catalogue.version());
    assert!(of.services().eq(catalogue.services()) && of.calendars().eq(catalogue.calendars()));
    let start = date("2026-03-02");
    let service = of.service("rosreestr.rights").expect("shipped");
    assert_eq!(of.service_deadlines(service, start, ""), catalogue.service_deadlines(service, start, ""));
    assert!(Catalogue::of(&Load { services: LOAD.services.clone(), ..Load::default() }).is_err());
}

/// The stored part stands as it is in the bytes of its event, so that a commit holds it once.
#[test]
fn an_event_holds_the_bytes_of_its_part() {
    let catalogue = Catalogue::default();
    for event in decide(&catalogue, LOAD.clone()).expect("taken").events {
        let bytes = bincode::serialize(&event).expect("encodable");
        assert_eq!(bincode::deserialize::<Event>(&bytes).expect("decodable"), event);
        if let Event::Put(part) = event {
            let part = bincode::serialize(&part).expect("encodable");
            assert!(bytes.ends_with(&part), "{} bytes of a part in {} of its event", part.len(), bytes.len());
        }
    }
}

/// Loads made of the shipped records, some of them changed.
fn loads() -> impl Strategy<Value = Vec<Load>> {
    let one = (
        prop::collection::vec((0..LOAD.services.len(), 0..3_u16), 0..6),
        prop::collection::vec((0..LOAD.calendars.len(), 0..3_u8), 0..3),
    );
    prop::collection::vec(one, 1..6).prop_map(|picks| {
        picks
            .into_iter()
            .map(|(services, calendars)| {
                let services: BTreeMap<_, _> = services.into_iter().collect();
                let calendars: BTreeMap<_, _> = calendars.into_iter().collect();
                let service = |(n, days): (usize, u16)| {
                    let mut service = LOAD.services[n].as_ref().clone();
                    service.execution.days += days;
                    Arc::new(service)
                };
                let calendar = |(n, mark): (usize, u8)| {
                    let mut calendar = LOAD.calendars[n].as_ref().clone();
                    calendar.provisional = (mark > 0).then(|| format!("проба {mark}"));
                    Arc::new(calendar)
                };
                Load {
                    authorities: LOAD.authorities.clone(),
                    services: services.into_iter().map(service).collect(),
                    calendars: calendars.into_iter().map(calendar).collect(),
                }
            })
            .collect()
    })
}

proptest! {
    /// What storage would hold (the root and each touched part of every commit) loads to what the events fold to,
    /// and an event changes no part it does not name.
    #[test]
    fn load_is_fold(loads in loads()) {
        let mut folded = Catalogue::empty("region");
        let mut stored: BTreeMap<String, Part> = BTreeMap::new();
        for (n, load) in loads.into_iter().enumerate() {
            let decision = decide(&folded, load).expect("made of records that were checked");
            for event in &decision.events {
                let before = folded.clone();
                folded.evolve(event, &meta(i64::try_from(n).expect("few")));
                let touched = Catalogue::touched(event);
                for name in &touched {
                    stored.insert(name.clone(), folded.part(name).expect("put"));
                }
                for name in stored.keys().filter(|name| !touched.contains(name)) {
                    prop_assert_eq!(before.part(name), folded.part(name));
                }
            }
            let changed = decision.events.iter().filter(|event| matches!(event, Event::Put(_))).count();
            prop_assert_eq!(decision.events.is_empty(), changed == 0);
            if changed > 0 {
                let last = Event::Loaded { version: folded.version() };
                prop_assert_eq!(decision.events.last(), Some(&last));
            }
        }
        let loaded = Catalogue::load("region", folded.root(), stored.into_iter().collect());
        prop_assert_eq!(loaded, folded);
    }
}

//! What the nodes' own stores hold when everything is over, against what the clients were told: everything
//! acknowledged is there, once, with its number; nothing is there that nobody asked for or that was refused; and what
//! one entity told another arrived once. It looks at each fact by itself and needs no search, so it decides where the
//! search for an order cannot, and says more plainly what is missing.

use crate::{
    breaches::Breach,
    history::{Call, CaseSeen, Entity, Final, History, Link, Outcome, Phase, Reply, TicketName},
    invariants::Invariant,
    requests::{Effect, Requests},
};
use std::collections::{BTreeMap, BTreeSet};

/// Facts that were compared.
#[derive(Debug, Clone, Copy, Default)]
pub struct Compared {
    pub acknowledged: usize,
    pub links: usize,
}

/// Compares every node's store with what was told.
pub fn compare(history: &History, requests: &Requests<'_>, breaches: &mut Vec<Breach>) -> Compared {
    let told = Told::of(requests);
    let mut compared = Compared::default();
    for node in &history.finals {
        told.acknowledged(node, breaches, &mut compared);
        told.unasked(node, breaches);
        links(node, history, breaches, &mut compared);
    }
    if let Some((first, others)) = history.finals.split_first() {
        for other in others {
            if (&first.cases, &first.queues) != (&other.cases, &other.queues) {
                let text = format!("nodes {} and {} hold different cases or queues", first.node, other.node);
                breaches.push((Invariant::SameState, text));
            }
        }
    }
    compared
}

/// Effects by what they are about.
struct Told<'r, 'a> {
    effects: &'r [Effect<'a>],
    /// Documents that were asked for, by reference.
    documents: BTreeMap<&'a str, Vec<&'r Effect<'a>>>,
    /// Documents of a case that were removed, or may have been.
    removed: BTreeSet<(&'a Entity, u32)>,
    by_entity: BTreeMap<&'a Entity, Vec<&'r Effect<'a>>>,
}

impl<'r, 'a> Told<'r, 'a> {
    fn of(requests: &'r Requests<'a>) -> Self {
        let effects = &requests.effects;
        let mut told = Self {
            effects,
            documents: BTreeMap::new(),
            removed: BTreeSet::new(),
            by_entity: BTreeMap::new(),
        };
        for effect in effects {
            told.by_entity.entry(effect.entity()).or_default().push(effect);
            match effect.call() {
                Call::AddDocument { reference, .. } => {
                    told.documents.entry(reference).or_default().push(effect);
                }
                Call::RemoveDocument { document } if effect.may_be() => {
                    told.removed.insert((effect.entity(), *document));
                }
                _ => {}
            }
        }
        told
    }

    /// Everything acknowledged is there.
    fn acknowledged(&self, node: &Final, breaches: &mut Vec<Breach>, compared: &mut Compared) {
        for effect in self.effects {
            let Some(Outcome::Done { reply, index }) = effect.outcome else { continue };
            if effect.call().reads() {
                continue;
            }
            compared.acknowledged += 1;
            let Some(missing) = self.missing(node, effect, reply) else { continue };
            let id = if effect.doubtful { Invariant::UnknownResolves } else { Invariant::Acknowledged };
            let what = format!("client {} was told {:?} at index {index}", effect.operation.client, reply);
            breaches.push((id, format!("{what} of {}; node {}: {missing}", effect.entity(), node.node)));
        }
    }

    /// What of an acknowledged effect a store lacks.
    fn missing(&self, node: &Final, effect: &Effect<'_>, reply: &Reply) -> Option<String> {
        match effect.entity() {
            Entity::Case(id) => {
                let Some(case) = node.cases.get(id) else { return Some("no such case".into()) };
                match (effect.call(), reply) {
                    (Call::AddDocument { reference, .. }, Reply::DocumentAdded { document }) => {
                        let there = case.documents.contains(&(*document, reference.clone()));
                        let taken = self.removed.contains(&(effect.entity(), *document));
                        (!there && !taken).then(|| format!("document {document} is not {reference}"))
                    }
                    (_, Reply::Advanced { step, .. }) => {
                        (case.steps_last < *step).then(|| format!("it took {} steps", case.steps_last))
                    }
                    _ => None,
                }
            }
            Entity::Queue(office) => {
                let queue = node.queues.get(office);
                let ticket = match reply {
                    Reply::TicketTaken { ticket, .. } | Reply::Ticket(ticket) => ticket,
                    // A queue nobody took a ticket of is not shown where windows are not.
                    Reply::Window(window) => {
                        let windows = queue?.windows.as_ref()?;
                        let there = windows.iter().any(|own| own.number == window.number);
                        return (!there).then(|| format!("window {} never stood anywhere", window.number));
                    }
                    _ => return None,
                };
                let Some(queue) = queue else { return Some("no such queue".into()) };
                if ticket.name.day < queue.day {
                    // A past day's: swept, or about to be.
                    return None;
                }
                let Some(now) = queue.tickets.iter().find(|own| own.name == ticket.name) else {
                    return (!queue.tickets.is_empty()).then(|| format!("no ticket {}", ticket.name.number));
                };
                // A ticket never goes back, unless somebody sends it there.
                let sent = |effect: &&Effect<'_>| sends_back(effect.call()) && effect.may_be();
                let back = self.by_entity.get(effect.entity()).is_some_and(|all| all.iter().any(sent));
                let was = stand(&ticket.phase);
                (stand(&now.phase) < was && (!back || was == LAST))
                    .then(|| format!("ticket {} is {:?}", ticket.name.number, now.phase))
            }
        }
    }

    /// Nothing is there unasked, and nothing twice.
    fn unasked(&self, node: &Final, breaches: &mut Vec<Breach>) {
        let mut seen: BTreeMap<&str, (&str, u32)> = BTreeMap::new();
        for (id, case) in &node.cases {
            let entity = Entity::Case(id.clone());
            let effects = self.by_entity.get(&entity).map_or(&[][..], Vec::as_slice);
            let asked = |is: fn(&Call) -> bool| {
                let found = effects.iter().filter(|effect| is(effect.call()) && effect.may_be());
                u32::try_from(found.count()).unwrap_or(u32::MAX)
            };
            let mut unasked = |text: String| {
                breaches.push((Invariant::NothingUnasked, format!("{entity}, node {}: {text}", node.node)));
            };
            if asked(|call| matches!(call, Call::OpenCase { .. })) == 0 {
                unasked("nobody opened it, or was told so".into());
            }
            let steps = asked(|call| matches!(call, Call::Advance(_)));
            if case.steps_last > steps {
                unasked(format!("{} steps, {steps} asked for", case.steps_last));
            }
            for (number, reference) in &case.documents {
                let asked = self.documents.get(reference.as_str()).map_or(&[][..], Vec::as_slice);
                let here = || asked.iter().filter(|effect| *effect.entity() == entity);
                if !here().any(|effect| effect.may_be()) {
                    let text = format!("{entity}, node {}: document {number} ({reference})", node.node);
                    breaches.push(if here().any(|effect| effect.doubtful) {
                        (Invariant::UnknownResolves, format!("{text} was refused in the end and is there"))
                    } else {
                        (
                            Invariant::NothingUnasked,
                            format!("{text} was refused, not applied or never asked for"),
                        )
                    });
                }
                if let Some((other, before)) = seen.insert(reference, (id, *number)) {
                    let text = format!("node {}: {reference} is document {number} of {id}", node.node);
                    let text = format!("{text} and document {before} of {other}");
                    breaches.push((Invariant::OnceARequest, text));
                }
            }
        }
        for (office, queue) in &node.queues {
            let entity = Entity::Queue(office.clone());
            let effects = self.by_entity.get(&entity).map_or(&[][..], Vec::as_slice);
            let asked = effects
                .iter()
                .filter(|effect| matches!(effect.call(), Call::TakeTicket { .. }) && effect.may_be())
                .count();
            if queue.tickets.len() > asked {
                let text = format!("{} tickets, {asked} asked for", queue.tickets.len());
                breaches.push((Invariant::NothingUnasked, format!("{entity}, node {}: {text}", node.node)));
            }
            let names: BTreeSet<_> = queue.tickets.iter().map(|ticket| &ticket.name).collect();
            if names.len() != queue.tickets.len() {
                let text = format!("{entity}, node {}: a number was given out twice", node.node);
                breaches.push((Invariant::OnceARequest, text));
            }
        }
    }
}

/// Where nothing follows.
const LAST: u8 = 3;

const fn sends_back(call: &Call) -> bool {
    matches!(call, Call::PutOff { .. } | Call::Redirect { .. } | Call::ReturnToQueue { .. })
}

const fn stand(phase: &Phase) -> u8 {
    match phase {
        Phase::Waiting | Phase::PutOff { .. } => 0,
        Phase::Called(_) => 1,
        Phase::InService(_) => 2,
        Phase::Finished(_) => LAST,
    }
}

/// What cases and queues said to each other arrived, once, and both remember the same.
fn links(node: &Final, history: &History, breaches: &mut Vec<Breach>, compared: &mut Compared) {
    let offices: BTreeMap<&str, &str> = history
        .operations
        .iter()
        .filter_map(|operation| match (&operation.entity, &operation.call) {
            (Entity::Case(id), Call::OpenCase { office, .. }) => Some((id.as_str(), office.as_str())),
            _ => None,
        })
        .collect();
    let mut broken = |text: String| {
        breaches.push((Invariant::MessagesOnce, format!("node {}: {text}", node.node)));
    };
    // How often a ticket names a case.
    let mut named: BTreeMap<(&str, &TicketName, &str), usize> = BTreeMap::new();
    for (office, queue) in &node.queues {
        for ticket in &queue.tickets {
            for case in &ticket.cases {
                *named.entry((office, &ticket.name, case)).or_default() += 1;
            }
        }
    }
    for ((office, ticket, id), times) in &named {
        let link = node.cases.get(*id).and_then(|case| case.link.as_ref());
        if *times > 1 {
            broken(format!("ticket {} of {office} names case {id} {times} times", ticket.number));
        }
        if link.is_none_or(|(own, said)| own != *ticket || *said != Link::Linked) {
            broken(format!("ticket {} of {office} names case {id}, which knows {link:?}", ticket.number));
        }
    }
    for (id, case) in &node.cases {
        let CaseSeen { link: Some((ticket, said)), .. } = case else { continue };
        compared.links += 1;
        let Some(office) = offices.get(id.as_str()) else { continue };
        let queue = node.queues.get(*office);
        let swept = queue.is_none_or(|queue| queue.day > ticket.day || queue.tickets.is_empty());
        let times = named.get(&(*office, ticket, id.as_str())).copied().unwrap_or(0);
        match said {
            Link::Pending if !history.setting.links_may_wait => {
                broken(format!("case {id} was never answered about ticket {}", ticket.number));
            }
            Link::Linked if times == 0 && !swept => {
                broken(format!("case {id} is linked to ticket {}, which does not know it", ticket.number));
            }
            Link::Pending | Link::Linked | Link::Refused(_) => {}
        }
    }
}

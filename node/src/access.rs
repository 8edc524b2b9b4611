//! Which kind of identity may call which method: one row per method, deny by default (rule 17, design §8).
//!
//! This is the coarse half, by certificate, where a call is received. The finer half — which person, which
//! office, which command — is `Entity::authorise` on the leader when it decides.

use crate::identity::Kind;
use okno_domain::intake::Class;
use std::{collections::HashMap, sync::LazyLock};

/// A set of kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KindSet(u16);

impl KindSet {
    const fn of(kinds: &[Kind]) -> Self {
        let mut bits = 0;
        let mut at = 0;
        while at < kinds.len() {
            bits |= 1 << kinds[at] as u16;
            at += 1;
        }
        Self(bits)
    }

    pub const fn contains(self, kind: Kind) -> bool {
        self.0 & (1 << kind as u16) != 0
    }
}

/// Where a method is served: the two listeners share nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    Clients,
    Peers,
}

/// What a call means for a node that is short of disk or power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// Changes nothing, or keeps the cluster going.
    Serves,
    /// Goes on with what was begun.
    Completes,
    /// Begins something that will want completing, or can wait.
    Begins,
}

impl Work {
    /// How the gate counts it; `None`: it is always served.
    pub fn class(self) -> Option<Class> {
        match self {
            Self::Serves => None,
            Self::Completes => Some(Class::Completion),
            Self::Begins => Some(Class::New),
        }
    }
}

/// What the caller's kind decides about one method.
#[derive(Debug)]
pub struct Rule {
    pub method: &'static str,
    pub listener: Listener,
    pub kinds: KindSet,
    /// Answers hold personal data: the read is recorded (design §8).
    pub personal: bool,
    /// Answered also while the node is in quarantine or has not joined yet (rule 12).
    pub always: bool,
    /// Answers with a stream, which lives as long as its caller and has no deadline of ours.
    pub stream: bool,
    pub work: Work,
}

const fn rule(method: &'static str, kinds: &[Kind]) -> Rule {
    Rule {
        method,
        listener: Listener::Clients,
        kinds: KindSet::of(kinds),
        personal: false,
        always: false,
        stream: false,
        work: Work::Serves,
    }
}

const fn begins(mut rule: Rule) -> Rule {
    rule.work = Work::Begins;
    rule
}

const fn completes(mut rule: Rule) -> Rule {
    rule.work = Work::Completes;
    rule
}

const fn personal(mut rule: Rule) -> Rule {
    rule.personal = true;
    rule
}

const fn always(mut rule: Rule) -> Rule {
    rule.always = true;
    rule
}

const fn stream(mut rule: Rule) -> Rule {
    rule.stream = true;
    rule
}

const fn peers(mut rule: Rule) -> Rule {
    rule.listener = Listener::Peers;
    rule
}

use Kind::{Admin, Auditor, Board, Connector, Kiosk, Operator, Peer, Portal, Workstation};

/// Everybody who is a client.
const CLIENTS: &[Kind] = &[Operator, Workstation, Kiosk, Board, Connector, Portal, Auditor, Admin];
/// Those who work at or with a window.
const WINDOW: &[Kind] = &[Operator, Workstation];

/// Those through whom visitors make appointments.
const VISITORS: &[Kind] = &[Operator, Workstation, Kiosk, Connector, Portal];

/// Those who keep directory and catalogue; an operator needs the role of an administrator.
const KEEPERS: &[Kind] = &[Operator, Admin];

/// The table. A method that is missing here is served to nobody.
pub const RULES: &[Rule] = &[
    begins(rule("/okno.v1.CaseService/OpenCase", &[Operator, Portal, Connector])),
    completes(rule("/okno.v1.CaseService/AddDocument", &[Operator, Portal, Connector])),
    completes(rule("/okno.v1.CaseService/RemoveDocument", &[Operator, Portal, Connector])),
    // A portal's applicant may withdraw; which steps are whose is the case's to say.
    completes(rule("/okno.v1.CaseService/AdvanceCase", &[Operator, Portal, Connector])),
    completes(rule("/okno.v1.CaseService/TakeOverCase", &[Operator])),
    personal(rule("/okno.v1.CaseService/GetCase", &[Operator, Portal, Connector, Auditor, Admin])),
    personal(rule("/okno.v1.CaseService/ListCases", &[Operator, Auditor, Admin])),
    personal(rule("/okno.v1.CaseService/GetCaseHistory", &[Operator, Portal, Connector, Auditor, Admin])),
    stream(personal(rule("/okno.v1.CaseService/WatchCases", &[Operator, Connector, Auditor, Admin]))),
    begins(rule("/okno.v1.QueueService/TakeTicket", &[Operator, Workstation, Kiosk])),
    begins(rule("/okno.v1.QueueService/CallNext", WINDOW)),
    completes(rule("/okno.v1.QueueService/BeginService", WINDOW)),
    completes(rule("/okno.v1.QueueService/FinishService", WINDOW)),
    rule(
        "/okno.v1.QueueService/ListTickets",
        &[Operator, Workstation, Kiosk, Board, Connector, Auditor, Admin],
    ),
    begins(rule("/okno.v1.QueueService/CallNumber", WINDOW)),
    completes(rule("/okno.v1.QueueService/CallAgain", WINDOW)),
    completes(rule("/okno.v1.QueueService/PutOffTicket", WINDOW)),
    completes(rule("/okno.v1.QueueService/RedirectTicket", WINDOW)),
    completes(rule("/okno.v1.QueueService/BindTicket", WINDOW)),
    completes(rule("/okno.v1.QueueService/ReturnTicket", WINDOW)),
    completes(rule("/okno.v1.QueueService/LeaveQueue", WINDOW)),
    completes(rule("/okno.v1.QueueService/OpenWindow", WINDOW)),
    completes(rule("/okno.v1.QueueService/CloseWindow", WINDOW)),
    completes(rule("/okno.v1.QueueService/StartBreak", WINDOW)),
    rule("/okno.v1.QueueService/ListDesks", &[Operator, Workstation, Board, Connector, Auditor, Admin]),
    completes(rule("/okno.v1.QueueService/CloseDay", &[Operator])),
    begins(rule("/okno.v1.QueueService/BookSlot", VISITORS)),
    completes(rule("/okno.v1.QueueService/CancelBooking", VISITORS)),
    // Whoever has an appointment and has come is not sent away.
    completes(rule("/okno.v1.QueueService/CheckIn", &[Operator, Workstation, Kiosk])),
    // References are the booker's own words.
    personal(rule("/okno.v1.QueueService/ListBookings", &[Operator, Connector, Auditor, Admin])),
    rule("/okno.v1.QueueService/ListSlots", CLIENTS),
    rule("/okno.v1.QueueService/GetQueueStatistics", &[Operator, Connector, Auditor, Admin]),
    stream(rule(
        "/okno.v1.QueueService/WatchBoard",
        &[Operator, Workstation, Kiosk, Board, Connector, Auditor, Admin],
    )),
    // It brings visitors and what goes on with them; which is which the queue says when it decides.
    completes(rule("/okno.v1.QueueService/TellOutsideEvent", &[Connector])),
    stream(rule("/okno.v1.QueueService/WatchQueue", &[Operator, Connector, Auditor, Admin])),
    begins(rule("/okno.v1.CatalogueService/LoadCatalogue", KEEPERS)),
    rule("/okno.v1.CatalogueService/GetService", CLIENTS),
    rule("/okno.v1.CatalogueService/ListServices", CLIENTS),
    rule("/okno.v1.CatalogueService/GetCalendar", CLIENTS),
    begins(rule("/okno.v1.DirectoryService/PutOffice", KEEPERS)),
    begins(rule("/okno.v1.DirectoryService/RemoveOffice", KEEPERS)),
    begins(rule("/okno.v1.DirectoryService/PutWindow", KEEPERS)),
    begins(rule("/okno.v1.DirectoryService/RemoveWindow", KEEPERS)),
    begins(rule("/okno.v1.DirectoryService/PutPerson", KEEPERS)),
    begins(rule("/okno.v1.DirectoryService/RemovePerson", KEEPERS)),
    rule("/okno.v1.DirectoryService/GetOffice", CLIENTS),
    rule("/okno.v1.DirectoryService/ListOffices", CLIENTS),
    rule("/okno.v1.DirectoryService/ListWindows", CLIENTS),
    rule("/okno.v1.DirectoryService/GetPerson", &[Operator, Auditor, Admin]),
    rule("/okno.v1.DirectoryService/ListPeople", &[Operator, Auditor, Admin]),
    begins(rule("/okno.v1.DirectoryService/PutQueueSettings", KEEPERS)),
    rule("/okno.v1.DirectoryService/GetQueueSettings", CLIENTS),
    always(rule("/okno.v1.ClusterService/GetStatus", CLIENTS)),
    always(rule("/okno.v1.ClusterService/ListMembers", CLIENTS)),
    rule("/okno.v1.ClusterService/TransferLeader", &[Admin]),
    rule("/okno.v1.ClusterService/AddMember", &[Admin]),
    rule("/okno.v1.ClusterService/PromoteMember", &[Admin]),
    rule("/okno.v1.ClusterService/RemoveMember", &[Admin]),
    // Shows an entity's state in full, personal data included.
    personal(rule("/okno.v1.ClusterService/ShowEntity", &[Auditor, Admin])),
    rule("/okno.v1.ClusterService/ReleaseEntity", &[Admin]),
    rule("/okno.v1.ClusterService/PlaceMarker", &[Auditor, Admin]),
    rule("/okno.v1.ClusterService/RaiseLevel", &[Admin]),
    always(rule("/okno.v1.ClusterService/GetDigests", &[Auditor, Admin])),
    rule("/okno.v1.ClusterService/ListSystemEvents", &[Operator, Auditor, Admin]),
    stream(always(rule("/okno.v1.ClusterService/WatchNotices", CLIENTS))),
    always(rule("/okno.v1.OperationsService/ListAlarms", &[Operator, Auditor, Admin])),
    always(rule("/okno.v1.OperationsService/GetHealth", &[Auditor, Admin])),
    always(rule("/okno.v1.OperationsService/GetMetrics", &[Auditor, Admin])),
    always(rule("/okno.v1.OperationsService/GetLogFilter", &[Auditor, Admin])),
    always(rule("/okno.v1.OperationsService/SetLogFilter", &[Admin])),
    stream(always(rule("/okno.v1.OperationsService/GetSupportData", &[Admin]))),
    stream(rule("/okno.v1.WorkstationService/Attach", WINDOW)),
    // Leases of messages: which connector works for which channel is the channel's to say.
    stream(rule("/okno.v1.Connectors/AttachConnector", &[Connector])),
    rule("/okno.v1.Connectors/PullMessages", &[Connector]),
    rule("/okno.v1.Connectors/AcknowledgeMessages", &[Connector]),
    rule("/okno.v1.Connectors/SettleMessages", &[Connector]),
    rule("/okno.v1.Connectors/BringLetters", &[Connector]),
    personal(rule("/okno.v1.Connectors/FetchBody", &[Connector])),
    rule("/okno.v1.ExchangeService/AskChannels", &[Operator]),
    rule("/okno.v1.ExchangeService/GiveUpAsk", &[Operator]),
    personal(rule("/okno.v1.ExchangeService/ListExchanges", &[Operator, Auditor, Admin])),
    personal(rule("/okno.v1.ExchangeService/GetMessageBody", &[Operator, Auditor, Admin])),
    rule("/okno.v1.ChannelService/InstallModule", KEEPERS),
    rule("/okno.v1.ChannelService/ListChannels", &[Operator, Auditor, Admin]),
    rule("/okno.v1.ChannelService/ShowChannel", &[Operator, Auditor, Admin]),
    rule("/okno.v1.ChannelService/PauseChannel", KEEPERS),
    rule("/okno.v1.ChannelService/ResumeChannel", KEEPERS),
    rule("/okno.v1.ChannelService/DrainChannel", KEEPERS),
    personal(rule("/okno.v1.ChannelService/ListDeadLetters", &[Operator, Auditor, Admin])),
    rule("/okno.v1.ChannelService/RedriveDeadLetters", KEEPERS),
    rule("/okno.v1.ChannelService/DiscardDeadLetters", KEEPERS),
    personal(rule("/okno.v1.ChannelService/ListParkedLetters", &[Operator, Auditor, Admin])),
    personal(rule("/okno.v1.ChannelService/GetChannelBody", &[Operator, Auditor, Admin])),
    rule("/okno.v1.ChannelService/AssignLetter", KEEPERS),
    rule("/okno.v1.ChannelService/DropLetter", KEEPERS),
    stream(rule("/okno.v1.BackupService/CreateBackup", &[Admin])),
    rule("/okno.v1.BackupService/ListBackups", &[Auditor, Admin]),
    stream(peers(always(rule("/okno.peer.v1.PeerService/Link", &[Peer])))),
    stream(peers(always(rule("/okno.peer.v1.PeerService/SendSnapshot", &[Peer])))),
    always(rule("/grpc.health.v1.Health/Check", CLIENTS)),
    stream(always(rule("/grpc.health.v1.Health/Watch", CLIENTS))),
    stream(always(rule("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", CLIENTS))),
    stream(always(rule("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", CLIENTS))),
];

static BY_METHOD: LazyLock<HashMap<&'static str, usize>> =
    LazyLock::new(|| RULES.iter().enumerate().map(|(place, rule)| (rule.method, place)).collect());

/// The place of a method's rule in [`RULES`]; `None` for a method nobody may call.
pub fn find(method: &str) -> Option<usize> {
    BY_METHOD.get(method).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use std::collections::BTreeSet;

    /// Methods of the packages we serve, from their descriptors.
    fn served() -> BTreeSet<String> {
        let mut methods = BTreeSet::new();
        for set in [
            okno_proto::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ] {
            let set = prost_types::FileDescriptorSet::decode(set).expect("a descriptor set");
            for file in set.file {
                let package = file.package().to_owned();
                for service in &file.service {
                    for method in &service.method {
                        methods.insert(format!("/{package}.{}/{}", service.name(), method.name()));
                    }
                }
            }
        }
        methods
    }

    #[test]
    fn table_is_exactly_the_methods_served() {
        let table: BTreeSet<String> = RULES.iter().map(|rule| rule.method.to_owned()).collect();
        assert_eq!(table.len(), RULES.len(), "a method stands twice");
        assert_eq!(table, served());
    }

    #[test]
    fn denied_by_default() {
        assert!(find("/okno.v1.CaseService/Nothing").is_none());
        assert!(find("").is_none());
        for rule in RULES {
            assert!(rule.kinds != KindSet::of(&[]), "{} is served to nobody", rule.method);
            assert_eq!(rule.kinds.contains(Kind::Peer), rule.listener == Listener::Peers, "{}", rule.method);
        }
    }

    #[test]
    fn what_changes_things_is_work() {
        // By its name, so that a method that is added is not forgotten.
        let changes = [
            "Open", "Add", "Remove", "Advance", "Take", "Call", "Begin", "Finish", "Load", "Put", "Redirect",
            "Bind", "Return", "Leave", "Close", "Start", "Book", "Cancel", "CheckIn", "Tell",
        ];
        for rule in RULES.iter().filter(|rule| rule.method.starts_with("/okno.v1.")) {
            let (service, name) = rule.method.rsplit_once('/').expect("a path");
            let work = changes.iter().any(|change| name.starts_with(change))
                && ["Case", "Queue", "Catalogue", "Directory"].iter().any(|area| service.contains(area));
            assert_eq!(rule.work != Work::Serves, work, "{}", rule.method);
        }
        let of = |method: &str| RULES[find(method).expect("a method")].work;
        assert_eq!(of("/okno.v1.CaseService/OpenCase"), Work::Begins);
        assert_eq!(of("/okno.v1.QueueService/FinishService"), Work::Completes);
    }

    #[test]
    fn who_may_do_what() {
        let check = |method: &str, allowed: &[Kind]| {
            let rule = &RULES[find(method).expect("a method")];
            let found: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| rule.kinds.contains(*kind)).collect();
            assert_eq!(found, allowed, "{method}");
        };
        check("/okno.v1.CaseService/AdvanceCase", &[Operator, Connector, Portal]);
        check("/okno.v1.CatalogueService/LoadCatalogue", &[Operator, Admin]);
        check("/okno.v1.ClusterService/TransferLeader", &[Admin]);
        check("/okno.v1.QueueService/TakeTicket", &[Operator, Workstation, Kiosk]);
        check("/okno.peer.v1.PeerService/Link", &[Peer]);
        // An auditor reads everything and changes nothing.
        for rule in RULES.iter().filter(|rule| rule.kinds.contains(Auditor)) {
            let name = rule.method.rsplit('/').next().unwrap_or_default();
            let reads = ["Get", "List", "Show", "Watch", "Check", "PlaceMarker", "ServerReflectionInfo"];
            assert!(reads.iter().any(|read| name.starts_with(read)), "{name}");
        }
    }
}

//! The unary methods of `okno.v1` as types: a request knows its method, its response and whether it mutates.
//!
//! One line per method; a test holds the table against the descriptors, so that none is missing or misspelt.

use okno_proto::v1::{self, ReadMeta, RequestMeta, WriteMeta};

/// What a call does to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Carries a request id; an attempt's outcome can be unknown.
    Mutates,
    /// May be repeated at will.
    Reads,
}

/// What a response tells about the cluster; 0: nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hints {
    pub served_by: u64,
    pub leader: u64,
    pub applied_index: u64,
}

/// A request of a unary method.
pub trait Call: prost::Message + Clone + 'static {
    type Response: prost::Message + Default + 'static;
    /// `/package.Service/Method`.
    const PATH: &'static str;
    const EFFECT: Effect;
    /// Where the request's identity goes; `None` for reads.
    fn request_meta(&mut self) -> Option<&mut RequestMeta>;
    fn hints(response: &Self::Response) -> Hints;
}

trait AsHints {
    fn as_hints(&self) -> Hints;
}

impl AsHints for Option<WriteMeta> {
    fn as_hints(&self) -> Hints {
        self.as_ref().map_or_else(Hints::default, |meta| Hints {
            served_by: meta.served_by,
            leader: meta.leader,
            applied_index: meta.applied_index,
        })
    }
}

impl AsHints for Option<ReadMeta> {
    fn as_hints(&self) -> Hints {
        self.as_ref().map_or_else(Hints::default, |meta| Hints {
            served_by: meta.served_by,
            leader: 0,
            applied_index: meta.applied_index,
        })
    }
}

macro_rules! call {
    (mutates $service:literal $method:literal $request:ident $response:ident |$r:ident| $hints:expr) => {
        impl Call for v1::$request {
            type Response = v1::$response;
            const PATH: &'static str = concat!("/okno.v1.", $service, "/", $method);
            const EFFECT: Effect = Effect::Mutates;
            fn request_meta(&mut self) -> Option<&mut RequestMeta> {
                Some(self.meta.get_or_insert_default())
            }
            fn hints($r: &Self::Response) -> Hints {
                $hints
            }
        }
    };
    (reads $service:literal $method:literal $request:ident $response:ident |$r:ident| $hints:expr) => {
        impl Call for v1::$request {
            type Response = v1::$response;
            const PATH: &'static str = concat!("/okno.v1.", $service, "/", $method);
            const EFFECT: Effect = Effect::Reads;
            fn request_meta(&mut self) -> Option<&mut RequestMeta> {
                None
            }
            fn hints($r: &Self::Response) -> Hints {
                $hints
            }
        }
    };
}

macro_rules! calls {
    ($($effect:ident $service:literal $method:literal $request:ident $response:ident |$r:ident| $hints:expr;)+) => {
        $(call!($effect $service $method $request $response |$r| $hints);)+
        /// Every path of the table with its effect.
        pub const PATHS: &[(&str, Effect)] = &[$((<v1::$request as Call>::PATH, <v1::$request as Call>::EFFECT),)+];
    };
}

calls! {
    mutates "CaseService" "OpenCase" OpenCaseRequest OpenCaseResponse |r| r.meta.as_hints();
    mutates "CaseService" "AddDocument" AddDocumentRequest AddDocumentResponse |r| r.meta.as_hints();
    mutates "CaseService" "RemoveDocument" RemoveDocumentRequest RemoveDocumentResponse |r| r.meta.as_hints();
    mutates "CaseService" "AdvanceCase" AdvanceCaseRequest AdvanceCaseResponse |r| r.meta.as_hints();
    mutates "CaseService" "TakeOverCase" TakeOverCaseRequest TakeOverCaseResponse |r| r.meta.as_hints();
    reads "CaseService" "GetCase" GetCaseRequest GetCaseResponse |r| r.meta.as_hints();
    reads "CaseService" "ListCases" ListCasesRequest ListCasesResponse |r| r.meta.as_hints();
    reads "CaseService" "GetCaseHistory" GetCaseHistoryRequest GetCaseHistoryResponse |r| r.meta.as_hints();
    mutates "QueueService" "TakeTicket" TakeTicketRequest TakeTicketResponse |r| r.meta.as_hints();
    mutates "QueueService" "CallNext" CallNextRequest CallNextResponse |r| r.meta.as_hints();
    mutates "QueueService" "BeginService" BeginServiceRequest BeginServiceResponse |r| r.meta.as_hints();
    mutates "QueueService" "FinishService" FinishServiceRequest FinishServiceResponse |r| r.meta.as_hints();
    reads "QueueService" "ListTickets" ListTicketsRequest ListTicketsResponse |r| r.meta.as_hints();
    mutates "QueueService" "CallNumber" CallNumberRequest CallNumberResponse |r| r.meta.as_hints();
    mutates "QueueService" "CallAgain" CallAgainRequest CallAgainResponse |r| r.meta.as_hints();
    mutates "QueueService" "PutOffTicket" PutOffTicketRequest PutOffTicketResponse |r| r.meta.as_hints();
    mutates "QueueService" "RedirectTicket" RedirectTicketRequest RedirectTicketResponse |r| r.meta.as_hints();
    mutates "QueueService" "BindTicket" BindTicketRequest BindTicketResponse |r| r.meta.as_hints();
    mutates "QueueService" "ReturnTicket" ReturnTicketRequest ReturnTicketResponse |r| r.meta.as_hints();
    mutates "QueueService" "LeaveQueue" LeaveQueueRequest LeaveQueueResponse |r| r.meta.as_hints();
    mutates "QueueService" "OpenWindow" OpenWindowRequest OpenWindowResponse |r| r.meta.as_hints();
    mutates "QueueService" "CloseWindow" CloseWindowRequest CloseWindowResponse |r| r.meta.as_hints();
    mutates "QueueService" "StartBreak" StartBreakRequest StartBreakResponse |r| r.meta.as_hints();
    reads "QueueService" "ListDesks" ListDesksRequest ListDesksResponse |r| r.meta.as_hints();
    mutates "QueueService" "CloseDay" CloseDayRequest CloseDayResponse |r| r.meta.as_hints();
    mutates "QueueService" "BookSlot" BookSlotRequest BookSlotResponse |r| r.meta.as_hints();
    mutates "QueueService" "CancelBooking" CancelBookingRequest CancelBookingResponse |r| r.meta.as_hints();
    mutates "QueueService" "CheckIn" CheckInRequest CheckInResponse |r| r.meta.as_hints();
    reads "QueueService" "ListBookings" ListBookingsRequest ListBookingsResponse |r| r.meta.as_hints();
    reads "QueueService" "ListSlots" ListSlotsRequest ListSlotsResponse |r| r.meta.as_hints();
    reads "QueueService" "GetQueueStatistics" GetQueueStatisticsRequest GetQueueStatisticsResponse |r| r.meta.as_hints();
    mutates "QueueService" "TellOutsideEvent" TellOutsideEventRequest TellOutsideEventResponse |r| r.meta.as_hints();
    mutates "CatalogueService" "LoadCatalogue" LoadCatalogueRequest LoadCatalogueResponse |r| r.meta.as_hints();
    reads "CatalogueService" "GetService" GetServiceRequest GetServiceResponse |r| r.meta.as_hints();
    reads "CatalogueService" "ListServices" ListServicesRequest ListServicesResponse |r| r.meta.as_hints();
    reads "CatalogueService" "GetCalendar" GetCalendarRequest GetCalendarResponse |r| r.meta.as_hints();
    mutates "DirectoryService" "PutOffice" PutOfficeRequest PutOfficeResponse |r| r.meta.as_hints();
    mutates "DirectoryService" "RemoveOffice" RemoveOfficeRequest RemoveOfficeResponse |r| r.meta.as_hints();
    mutates "DirectoryService" "PutWindow" PutWindowRequest PutWindowResponse |r| r.meta.as_hints();
    mutates "DirectoryService" "RemoveWindow" RemoveWindowRequest RemoveWindowResponse |r| r.meta.as_hints();
    mutates "DirectoryService" "PutPerson" PutPersonRequest PutPersonResponse |r| r.meta.as_hints();
    mutates "DirectoryService" "RemovePerson" RemovePersonRequest RemovePersonResponse |r| r.meta.as_hints();
    reads "DirectoryService" "GetOffice" GetOfficeRequest GetOfficeResponse |r| r.meta.as_hints();
    reads "DirectoryService" "ListOffices" ListOfficesRequest ListOfficesResponse |r| r.meta.as_hints();
    reads "DirectoryService" "ListWindows" ListWindowsRequest ListWindowsResponse |r| r.meta.as_hints();
    reads "DirectoryService" "GetPerson" GetPersonRequest GetPersonResponse |r| r.meta.as_hints();
    reads "DirectoryService" "ListPeople" ListPeopleRequest ListPeopleResponse |r| r.meta.as_hints();
    mutates "DirectoryService" "PutQueueSettings" PutQueueSettingsRequest PutQueueSettingsResponse
        |r| r.meta.as_hints();
    reads "DirectoryService" "GetQueueSettings" GetQueueSettingsRequest GetQueueSettingsResponse
        |r| r.meta.as_hints();
    reads "ClusterService" "GetStatus" GetStatusRequest GetStatusResponse
        |r| Hints { served_by: r.node_id, leader: r.leader, applied_index: r.applied_index };
    reads "ClusterService" "ListMembers" ListMembersRequest ListMembersResponse
        |r| Hints { served_by: r.served_by, ..Hints::default() };
    mutates "ClusterService" "TransferLeader" TransferLeaderRequest TransferLeaderResponse
        |r| Hints { served_by: r.served_by, leader: r.leader, ..Hints::default() };
    mutates "ClusterService" "AddMember" AddMemberRequest AddMemberResponse
        |r| Hints { served_by: r.change.as_ref().map_or(0, |c| c.served_by), ..Hints::default() };
    mutates "ClusterService" "PromoteMember" PromoteMemberRequest PromoteMemberResponse
        |r| Hints { served_by: r.change.as_ref().map_or(0, |c| c.served_by), ..Hints::default() };
    mutates "ClusterService" "RemoveMember" RemoveMemberRequest RemoveMemberResponse
        |r| Hints { served_by: r.change.as_ref().map_or(0, |c| c.served_by), ..Hints::default() };
    reads "ClusterService" "ShowEntity" ShowEntityRequest ShowEntityResponse |r| r.meta.as_hints();
    mutates "ClusterService" "ReleaseEntity" ReleaseEntityRequest ReleaseEntityResponse |r| r.meta.as_hints();
    mutates "ClusterService" "RaiseLevel" RaiseLevelRequest RaiseLevelResponse |r| r.meta.as_hints();
    mutates "ClusterService" "PlaceMarker" PlaceMarkerRequest PlaceMarkerResponse |r| r.meta.as_hints();
    mutates "Connectors" "PullMessages" PullMessagesRequest PullMessagesResponse
        |r| r.meta.as_hints();
    reads "Connectors" "AcknowledgeMessages" AcknowledgeMessagesRequest AcknowledgeMessagesResponse
        |_r| Hints::default();
    mutates "Connectors" "SettleMessages" SettleMessagesRequest SettleMessagesResponse
        |r| r.meta.as_hints();
    mutates "Connectors" "BringLetters" BringLettersRequest BringLettersResponse
        |r| r.meta.as_hints();
    reads "Connectors" "FetchBody" FetchBodyRequest FetchBodyResponse
        |_r| Hints::default();
    mutates "ExchangeService" "AskChannels" AskChannelsRequest AskChannelsResponse
        |r| r.meta.as_hints();
    mutates "ExchangeService" "GiveUpAsk" GiveUpAskRequest GiveUpAskResponse
        |r| r.meta.as_hints();
    reads "ExchangeService" "ListExchanges" ListExchangesRequest ListExchangesResponse
        |r| r.meta.as_hints();
    reads "ExchangeService" "GetMessageBody" GetMessageBodyRequest GetMessageBodyResponse
        |r| r.meta.as_hints();
    mutates "ChannelService" "InstallModule" InstallModuleRequest InstallModuleResponse
        |r| r.meta.as_hints();
    reads "ChannelService" "ListChannels" ListChannelsRequest ListChannelsResponse
        |r| r.meta.as_hints();
    reads "ChannelService" "ShowChannel" ShowChannelRequest ShowChannelResponse
        |r| r.meta.as_hints();
    mutates "ChannelService" "PauseChannel" PauseChannelRequest PauseChannelResponse
        |r| r.meta.as_hints();
    mutates "ChannelService" "ResumeChannel" ResumeChannelRequest ResumeChannelResponse
        |r| r.meta.as_hints();
    mutates "ChannelService" "DrainChannel" DrainChannelRequest DrainChannelResponse
        |r| r.meta.as_hints();
    reads "ChannelService" "ListDeadLetters" ListDeadLettersRequest ListDeadLettersResponse
        |r| r.meta.as_hints();
    mutates "ChannelService" "RedriveDeadLetters" RedriveDeadLettersRequest RedriveDeadLettersResponse
        |r| r.meta.as_hints();
    mutates "ChannelService" "DiscardDeadLetters" DiscardDeadLettersRequest DiscardDeadLettersResponse
        |r| r.meta.as_hints();
    reads "ChannelService" "ListParkedLetters" ListParkedLettersRequest ListParkedLettersResponse
        |r| r.meta.as_hints();
    reads "ChannelService" "GetChannelBody" GetChannelBodyRequest GetChannelBodyResponse
        |r| r.meta.as_hints();
    mutates "ChannelService" "AssignLetter" AssignLetterRequest AssignLetterResponse
        |r| r.meta.as_hints();
    mutates "ChannelService" "DropLetter" DropLetterRequest DropLetterResponse
        |r| r.meta.as_hints();
    reads "BackupService" "ListBackups" ListBackupsRequest ListBackupsResponse
        |r| Hints { served_by: r.served_by, ..Hints::default() };
    reads "ClusterService" "ListSystemEvents" ListSystemEventsRequest ListSystemEventsResponse
        |r| r.meta.as_hints();
    reads "ClusterService" "GetDigests" GetDigestsRequest GetDigestsResponse
        |r| Hints { served_by: r.served_by, ..Hints::default() };
    reads "OperationsService" "ListAlarms" ListAlarmsRequest ListAlarmsResponse
        |r| Hints { served_by: r.served_by, ..Hints::default() };
    reads "OperationsService" "GetHealth" GetHealthRequest GetHealthResponse
        |r| Hints { served_by: r.served_by, ..Hints::default() };
    reads "OperationsService" "GetMetrics" GetMetricsRequest GetMetricsResponse
        |r| Hints { served_by: r.served_by, ..Hints::default() };
    reads "OperationsService" "GetLogFilter" GetLogFilterRequest GetLogFilterResponse
        |r| Hints { served_by: r.served_by, ..Hints::default() };
    reads "OperationsService" "SetLogFilter" SetLogFilterRequest SetLogFilterResponse
        |r| Hints { served_by: r.served_by, ..Hints::default() };
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;
    use std::collections::BTreeMap;

    /// Every unary method of the contracts stands in the table once, and mutates exactly when its request
    /// carries a `RequestMeta`.
    #[test]
    fn table_matches_the_contracts() {
        let set =
            prost_types::FileDescriptorSet::decode(okno_proto::FILE_DESCRIPTOR_SET).expect("own descriptors");
        let mut expected = BTreeMap::new();
        for file in set.file.iter().filter(|f| f.package() == "okno.v1") {
            for service in &file.service {
                for method in service.method.iter().filter(|m| !m.client_streaming() && !m.server_streaming())
                {
                    let mutates = set
                        .file
                        .iter()
                        .flat_map(|f| &f.message_type)
                        .find(|m| method.input_type() == format!(".okno.v1.{}", m.name()))
                        .expect("input type")
                        .field
                        .iter()
                        .any(|f| f.type_name() == ".okno.v1.RequestMeta");
                    expected.insert(format!("/okno.v1.{}/{}", service.name(), method.name()), mutates);
                }
            }
        }
        let found: BTreeMap<String, bool> =
            PATHS.iter().map(|(path, effect)| ((*path).to_owned(), *effect == Effect::Mutates)).collect();
        assert_eq!(found.len(), PATHS.len(), "a method stands twice");
        assert_eq!(found, expected);
    }
}

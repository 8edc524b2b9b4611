//! Refusals: every reason code this crate gives, in one list, with its texts; and their construction.
//!
//! The codes are part of the public interface: stable, never given another meaning. `docs/reasons.md` is made
//! from [`ALL`] and the catalogue's own list. A refusal is built from an entry of the list only, so the list is complete.

use crate::entity::{Refusal, RefusalClass};

/// A reason code with what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason {
    pub code: &'static str,
    pub class: RefusalClass,
    /// For people: Russian first.
    pub text_ru: &'static str,
    pub text_en: &'static str,
}

macro_rules! reasons {
    ($($code:ident $class:ident $ru:literal $en:literal;)+) => {
        $(
            #[doc = $en]
            pub const $code: Reason =
                Reason { code: stringify!($code), class: RefusalClass::$class, text_ru: $ru, text_en: $en };
        )+

        /// Every reason of this module.
        pub const ALL: &[Reason] = &[$($code,)+];
    };
}

reasons! {
    ACCESS_DENIED PermissionDenied
        "Недостаточно прав для этого действия"
        "The caller may not give this command";
    PERSON_UNKNOWN PermissionDenied
        "Сотрудник не заведён в справочнике"
        "No person of the directory has the id of this certificate";
    OFFICE_FOREIGN PermissionDenied
        "Действие разрешено только в своём офисе"
        "The caller does not work in the office this belongs to";
    FIELD_INVALID InvalidArgument
        "Поле заполнено неверно"
        "A field is not as it must be; details name it and what was expected";
    FIELD_TOO_LONG InvalidArgument
        "Значение поля слишком длинное"
        "A field is longer than its bound; details name both";
    APPLICANT_INVALID InvalidArgument
        "Сведения о заявителе заполнены неверно"
        "Details of an applicant are wrong; details name each field and what was expected";
    MESSAGE_UNEXPECTED FailedPrecondition
        "Сообщение не может быть принято"
        "The entity takes no such message";
    TIMER_UNKNOWN FailedPrecondition
        "Неизвестный таймер"
        "The entity has no such timer";
    CASE_EXISTS FailedPrecondition
        "Дело с таким номером уже есть"
        "A case with this id was opened already";
    CASE_UNKNOWN NotFound
        "Дело не найдено"
        "There is no such case";
    CASE_STEP_IMPOSSIBLE FailedPrecondition
        "Этот шаг сейчас невозможен"
        "The step is impossible in the case's state; details name state, step and the possible steps";
    CASE_CLOSED FailedPrecondition
        "Дело завершено, документы к нему больше не принимаются"
        "Documents are no longer added to a case in this state";
    CASE_LIMIT FailedPrecondition
        "Достигнут предел записей в деле"
        "The case has as many entries of this kind as it may; details name the bound";
    DOCUMENT_UNKNOWN NotFound
        "Документ в деле не найден"
        "The case has no document with this number";
    DOCUMENT_TAKEN_IN FailedPrecondition
        "Принятый документ нельзя удалить: он указан в расписке"
        "A document stands on the receipt once the case is accepted, and is not removed";
    SERVICE_UNKNOWN FailedPrecondition
        "Услуга не найдена в каталоге"
        "The catalogue has no such service";
    SERVICE_INACTIVE FailedPrecondition
        "Приём по этой услуге прекращён"
        "No new case is taken for this service";
    RECEIVER_NOT_ELIGIBLE FailedPrecondition
        "Заявитель этой категории не может получить услугу"
        "The service is not rendered to this kind of applicant";
    REPRESENTATIVE_NOT_ALLOWED FailedPrecondition
        "Услуга не предоставляется через представителя"
        "The service is rendered to the applicant in person only";
    SUSPENSION_REASON_UNKNOWN FailedPrecondition
        "Такого основания приостановления у услуги нет"
        "The service has no such suspension reason; details list those it has";
    REQUEST_UNKNOWN NotFound
        "Межведомственный запрос в деле не найден"
        "The case has no interagency request with this number";
    REQUEST_ANSWERED FailedPrecondition
        "Ответ на этот запрос уже получен"
        "The interagency request was answered already";
    STORAGE_NOT_OVER FailedPrecondition
        "Срок хранения результата ещё не истёк"
        "The result's storage term is not over";
    OFFICE_UNKNOWN FailedPrecondition
        "Офис не найден в справочнике"
        "The directory has no such office";
    OFFICE_IN_USE FailedPrecondition
        "На офис ссылаются окна или сотрудники"
        "Windows or people of the directory still name the office";
    WINDOW_UNKNOWN FailedPrecondition
        "Окно не найдено в справочнике"
        "The office has no such window";
    WINDOW_BUSY FailedPrecondition
        "Окно занято другим талоном"
        "The window holds a called ticket or one in service; details name it";
    WINDOW_OTHER FailedPrecondition
        "Талон вызван в другое окно"
        "The ticket is held by another window; details name it";
    WORKSTATION_TAKEN FailedPrecondition
        "Рабочая станция уже закреплена за другим окном"
        "The workstation stands at another window already; details name it";
    DIRECTORY_LIMIT FailedPrecondition
        "Достигнут предел записей справочника"
        "The directory has as many entries of this kind as it may; details name the bound";
    DIRECTORY_ENTRY_UNKNOWN NotFound
        "Записи в справочнике нет"
        "The directory has no such entry";
    QUEUE_EMPTY FailedPrecondition
        "В очереди никого нет"
        "Nobody waits whom this window serves";
    TICKET_UNKNOWN NotFound
        "Талон не найден"
        "The queue has no such ticket";
    TICKET_STATE FailedPrecondition
        "Талон в другом состоянии"
        "The ticket's state does not allow this; details name the state";
    TICKETS_EXHAUSTED FailedPrecondition
        "Номера талонов этой группы на сегодня закончились"
        "All numbers of this letter are given out for the day";
    TICKET_CASES_LIMIT FailedPrecondition
        "По этому талону открыто слишком много дел"
        "As many cases as may be were opened from this ticket";
    CATEGORY_UNKNOWN FailedPrecondition
        "Такой льготной категории в офисе нет"
        "The office has no such priority category; details list those it has";
    FEATURE_LEVEL_LOW FailedPrecondition
        "Действие станет доступно после завершения обновления кластера"
        "The cluster's feature level does not allow this yet: raise it; details name it and the level needed";
    WINDOW_CLOSED FailedPrecondition
        "Окно закрыто"
        "The window is closed";
    WINDOW_ON_BREAK FailedPrecondition
        "В окне перерыв"
        "The window is on a break; details name its end";
    WINDOW_UNATTENDED FailedPrecondition
        "Рабочее место окна не отвечает"
        "The window's workstation is lost: nobody is called there";
    CALLS_TOO_FEW FailedPrecondition
        "Посетителя нужно вызвать ещё раз"
        "The visitor must be called more often before not having come; details name how often";
    TICKET_LIMIT FailedPrecondition
        "Достигнут предел таких действий с талоном"
        "This was done with the ticket as often as it may be; details name the bound";
    TICKET_BOUND FailedPrecondition
        "Талон закреплён за другим окном"
        "The ticket is bound to another window; details name it";
    KIOSK_REPEATS FailedPrecondition
        "Талон уже выдан"
        "The kiosk asks for the ticket it was just given; details name it";
    OFFICE_CLOSED FailedPrecondition
        "Офис в это время закрыт"
        "The office is closed at this time";
    BOOKING_OFF FailedPrecondition
        "Предварительная запись в офисе не ведётся"
        "The office takes no bookings";
    BOOKING_UNKNOWN NotFound
        "Запись на приём не найдена"
        "The queue has no such booking";
    BOOKING_STATE FailedPrecondition
        "Запись на приём в другом состоянии"
        "The booking's state does not allow this; details name the state";
    BOOKING_EARLY FailedPrecondition
        "Отметиться по записи ещё рано"
        "It is too early to check in; details name the moment from which it is possible";
    BOOKING_LATE FailedPrecondition
        "Время записи прошло"
        "The visitor is too late for the slot, or it is too late to cancel";
    BOOKINGS_LIMIT FailedPrecondition
        "Достигнут предел записей на приём"
        "The queue has as many bookings as it may; details name the bound";
    SLOT_PAST FailedPrecondition
        "Это время уже прошло"
        "The slot is in the past";
    SLOT_TAKEN FailedPrecondition
        "Это время уже занято"
        "Somebody has booked the slot";
    SLOT_UNKNOWN FailedPrecondition
        "На это время записаться нельзя"
        "The service has no slot at this moment; details name the step in minutes";
    SLOT_TOO_FAR FailedPrecondition
        "На этот день запись ещё не открыта"
        "The slot is beyond the horizon of booking; details name the horizon in days";
    OUTSIDE_LIMIT FailedPrecondition
        "Достигнут предел сообщений внешней очереди за день"
        "As many events of outside queues were taken today as may be; details name the bound";
    OFFICER_NONE FailedPrecondition
        "В офисе нет сотрудников, которым можно передать дело"
        "The directory has no officer of the office to whom the case could be given";
    ATTENDANCE_STALE FailedPrecondition
        "Сведения о рабочей станции получены от прежнего ведущего узла"
        "A former leader's word on who attends the window; details name its term and the one that rules";
    LEASES_STALE FailedPrecondition
        "Сведения о сроках доставки получены от прежнего ведущего узла"
        "A former leader's clock of deliveries; details name its term and the one that rules";
    OUTSIDE_FOREIGN PermissionDenied
        "Этот коннектор не передаёт события внешней очереди в этот офис"
        "The office's queue settings do not name this connector for the outside system";
    WORK_LIMIT FailedPrecondition
        "Достигнут предел распределённых дел офиса"
        "As many cases of the office are given to officers as may be; details name the bound";
    PERIOD_UNAVAILABLE FailedPrecondition
        "За часть этого месяца статистика по дням уже не хранится"
        "The days of this month are no longer kept apart: ask for the whole month";
    ASK_UNKNOWN FailedPrecondition
        "Такой запрос для услуги не предусмотрен"
        "No process of the service has such an ask; details list those there are";
    ASK_OPEN FailedPrecondition
        "Такой запрос уже направлен, ответ ещё не получен"
        "The same was asked and is not answered yet";
    ASK_UNSATISFIED FailedPrecondition
        "Обязательный запрос ещё не исполнен"
        "A mandatory ask has not succeeded; details name it";
    REQUEST_WITH_CHANNEL FailedPrecondition
        "Ответ на этот запрос придёт по каналу"
        "A channel answers this request; it is not answered by hand while it is open";
    CHANNEL_UNKNOWN NotFound
        "Канал не настроен"
        "There is no such channel";
    CHANNEL_SETTINGS_INVALID InvalidArgument
        "Настройки канала содержат ошибки"
        "Settings of a channel are wrong; details name each key and what was expected";
    CHANNEL_BUSY FailedPrecondition
        "Порядок нельзя менять, пока сообщения в работе"
        "The order is not changed while messages are out: pause the channel first";
    CHANNEL_FOREIGN PermissionDenied
        "Этот коннектор не обслуживает канал"
        "The channel's settings do not name this connector";
    CHANNEL_DRAINING FailedPrecondition
        "Канал завершает работу и не принимает новых запросов"
        "The channel is draining and takes no new requests";
    CHANNEL_FULL FailedPrecondition
        "Очередь канала заполнена"
        "The channel holds as many messages as it may; details name the bound";
    CALL_TOO_LARGE InvalidArgument
        "Слишком много сообщений или байтов в одном вызове"
        "One call brings more than it may; details name the bound";
    CALL_FULL FailedPrecondition
        "В этот вызов больше не помещается: повторите в следующем"
        "What the verdicts before it make fills the commit; bring it in another call";
    BODY_TOO_LARGE InvalidArgument
        "Сообщение больше допустимого размера"
        "A body is larger than it may be; details name the bound";
    MESSAGE_UNKNOWN NotFound
        "Такого сообщения в канале нет"
        "The channel has no such message, or answered it already";
    MESSAGE_STATE FailedPrecondition
        "Сообщение в другом состоянии"
        "The message's state does not allow this; details name the state";
    DELIVERY_LOST FailedPrecondition
        "Сообщение уже не за этим коннектором"
        "The token is not that of the message's newest delivery: it was settled, or handed out anew";
    LEASE_FOREIGN FailedPrecondition
        "Сообщение выдано другому коннектору"
        "Another connector holds the message";
    PROGRESS_LIMIT FailedPrecondition
        "Слишком много сообщений о ходе работы"
        "As many reports of progress as may be were made of this delivery";
    SUBREQUEST_IMPOSSIBLE FailedPrecondition
        "Вложенный запрос невозможен"
        "A request within this request is not possible; details say why";
    LETTER_ID_REUSED FailedPrecondition
        "Под этим номером уже пришло другое сообщение"
        "Another letter came under this outside id";
    LETTER_UNADDRESSED FailedPrecondition
        "Неизвестно, к какому делу относится сообщение"
        "The letter names no case; it is parked for a person";
    LETTER_UNKNOWN NotFound
        "Такого входящего сообщения нет"
        "The channel has no such letter";
    LETTER_STATE FailedPrecondition
        "Входящее сообщение в другом состоянии"
        "The letter's state does not allow this; details name the state";
}

/// Characters of one detail: enough for any code or list of codes.
const DETAIL_MAX: usize = 300;

/// A refusal for a reason, with the texts of the list and no details.
pub fn refuse(reason: Reason) -> Refusal {
    Refusal {
        class: reason.class,
        reason: reason.code.to_owned(),
        text_ru: reason.text_ru.to_owned(),
        text_en: reason.text_en.to_owned(),
        details: Default::default(),
    }
}

impl Refusal {
    /// Adds a detail. A long value is cut: it may be the caller's own text, and refusals are remembered.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        let mut value = value.into();
        if let Some((end, _)) = value.char_indices().nth(DETAIL_MAX) {
            value.truncate(end);
            value.push('…');
        }
        self.details.insert(key.into(), value);
        self
    }
}

/// Every reason code of the domain, the catalogue's included, by code.
pub fn all() -> impl Iterator<Item = &'static Reason> {
    let mut all: Vec<_> = ALL.iter().chain(crate::catalogue::REASONS).collect();
    all.sort_by_key(|reason| reason.code);
    all.into_iter()
}

/// The list as Markdown, for `docs/reasons.md`.
pub fn markdown() -> String {
    let mut text = String::from("| Reason | Class | Meaning | Shown to people |\n|---|---|---|---|\n");
    for Reason { code, class, text_ru, text_en } in all() {
        text.push_str(&format!("| `{code}` | {class:?} | {text_en} | {text_ru} |\n"));
    }
    text
}

//! The table of alarms: how bad each is, what people read, whether workstations are told, and its runbook.
//!
//! A new alarm is a constant, a row in [`KINDS`] and a page in `docs/runbooks/` (a test looks for it).

/// How bad it is; the numbers travel between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Severity {
    /// Look at it in working hours.
    Warning = 2,
    /// Look at it now.
    Alarm = 3,
}

impl Severity {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Alarm => "alarm",
        }
    }

    /// Of a number another node sent; what a newer one may send beyond ours is the worst we know.
    pub const fn of_number(number: u8) -> Self {
        if number <= Self::Warning as u8 { Self::Warning } else { Self::Alarm }
    }
}

/// A row of the table.
#[derive(Debug)]
pub struct Kind {
    pub kind: &'static str,
    pub severity: Severity,
    /// For people at the windows; figures are the reason's to tell.
    pub text_ru: &'static str,
    /// Told to every attached workstation, on whichever node the alarm stands.
    pub tell: bool,
    /// Page in `docs/runbooks/`, without `.md`.
    pub runbook: &'static str,
}

macro_rules! kinds {
    ($($name:ident: $severity:ident, $tell:literal, $runbook:literal, $text:literal;)*) => {
        $(pub const $name: &str = stringify!($name);)*
        /// Every kind.
        pub const KINDS: &[Kind] = &[$(Kind {
            kind: $name,
            severity: Severity::$severity,
            text_ru: $text,
            tell: $tell,
            runbook: $runbook,
        }),*];
    };
}

kinds! {
    // Power (R-R4).
    ON_BATTERY: Warning, true, "on-battery", "Нет электропитания: сервер работает от батареи. Завершайте приём, сохраняйте начатое";
    BATTERY_LOW: Alarm, true, "battery-low", "Батарея сервера на исходе: приём новых обращений остановлен";
    UPS_UNREACHABLE: Warning, false, "ups-unreachable", "Нет связи с источником бесперебойного питания";
    UPS_ON_BATTERY: Warning, false, "on-battery", "Один из источников питания сервера работает от батареи";
    UPS_UNRELIABLE: Warning, false, "ups-unreachable", "Источник питания сервера сообщает неправдоподобное";
    UPS_BATTERY_WEAK: Warning, false, "battery-low", "Батарея источника питания разряжена или требует замены";
    // Disks.
    DISK_LOW: Warning, false, "disk-space", "На диске сервера мало места";
    DISK_FULL: Alarm, true, "disk-space", "На диске сервера нет места: новые обращения не принимаются, начатые можно завершить";
    DISK_STOPPED: Alarm, true, "disk-space", "На диске сервера нет места: запись остановлена";
    DISK_SLOW: Warning, false, "disk-slow", "Диск сервера отвечает медленно";
    SCRUB_DAMAGE: Alarm, false, "damaged-data", "Проверка нашла повреждённые данные";
    // Backups (R-R6).
    BACKUP_OVERDUE: Alarm, false, "backup-overdue", "Резервная копия старше 24 часов";
    BACKUP_DAMAGED: Alarm, false, "backup-damaged", "Проверка нашла повреждения в резервных копиях";
    BACKUP_FAILED: Warning, false, "backup-overdue", "Резервное копирование не удалось";
    BACKUP_TARGET: Warning, false, "backup-overdue", "Место для резервных копий недоступно или лежит на том же диске";
    ARCHIVE_BEHIND: Warning, false, "archive-behind", "Архив журнала отстаёт";
    // The cluster.
    NO_LEADER: Alarm, false, "no-leader", "Нет ведущего сервера: запись временно недоступна";
    MEMBER_DOWN: Warning, false, "member-down", "Нет связи с сервером";
    NODE_QUARANTINED: Alarm, false, "node-quarantined", "Сервер закрыт: данные не прошли проверку";
    CLOCK_DEVIATES: Warning, false, "clock-deviates", "Часы сервера расходятся с часами остальных";
    CLOCK_STEP: Alarm, true, "clock-deviates", "Часы серверов разошлись: изменения не принимаются, пока они не согласованы";
    HASH_DIFFERS: Alarm, false, "damaged-data", "Данные серверов расходятся";
    HASH_TIE: Alarm, true, "damaged-data", "Данные серверов расходятся: приём остановлен";
    // Certificates.
    TLS_CLIENTS_FILES: Warning, false, "certificates", "Новые файлы сертификатов для клиентов не приняты";
    TLS_PEERS_FILES: Warning, false, "certificates", "Новые файлы сертификатов для серверов не приняты";
    TLS_CLIENTS_REVOCATION_LISTS: Alarm, false, "certificates", "Список отозванных сертификатов клиентов просрочен: новые подключения не принимаются";
    TLS_PEERS_REVOCATION_LISTS: Alarm, false, "certificates", "Список отозванных сертификатов серверов просрочен: новые подключения не принимаются";
    TLS_CLIENTS_REVOCATION_ENDS: Warning, false, "certificates", "Список отозванных сертификатов клиентов скоро истекает";
    TLS_PEERS_REVOCATION_ENDS: Warning, false, "certificates", "Список отозванных сертификатов серверов скоро истекает";
    TLS_CLIENTS_CERTIFICATE: Warning, false, "certificates", "Сертификат сервера для клиентов скоро истекает";
    TLS_PEERS_CERTIFICATE: Warning, false, "certificates", "Сертификат сервера для связи с другими скоро истекает";
    // Integration channels (R-I1).
    CONNECTOR_FAILS: Warning, false, "connector-fails", "Программа обмена с внешней системой завершается снова и снова: запросы этой системе ждут";
    // The node's own records.
    SECURITY_LOG: Alarm, false, "security-log", "Журнал событий безопасности не записывается: чтение персональных данных не выполняется";
}

/// The row of a kind.
pub fn find(kind: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|row| row.kind == kind)
}

/// The row of what the cluster part says as `KIND: words`; the table's name, so that it lives for ever.
pub fn of_text(text: &str) -> (Option<&'static Kind>, &str) {
    match text.split_once(": ") {
        Some((kind, words)) => match find(kind) {
            Some(row) => (Some(row), words),
            None => (None, text),
        },
        None => (find(text), text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn kinds_stand_once_and_texts_are_russian() {
        let names: BTreeSet<&str> = KINDS.iter().map(|row| row.kind).collect();
        assert_eq!(names.len(), KINDS.len());
        for row in KINDS {
            assert!(row.text_ru.chars().any(|letter| ('а'..='я').contains(&letter)), "{}", row.kind);
        }
    }

    #[test]
    fn severities_travel_as_numbers() {
        for severity in [Severity::Warning, Severity::Alarm] {
            assert_eq!(Severity::of_number(severity as u8), severity);
        }
        assert_eq!(Severity::of_number(200), Severity::Alarm);
    }

    #[test]
    fn the_clusters_texts_name_a_kind() {
        let (row, words) = of_text("HASH_TIE: row digest at index 7");
        assert_eq!((row.map(|row| row.kind), words), (Some(HASH_TIE), "row digest at index 7"));
        assert!(of_text("nothing known").0.is_none());
    }
}

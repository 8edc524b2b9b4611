//! What governs an office's queue. Fields that are absent on the wire have the domain's defaults; those that are there
//! and out of bounds are refused by the directory, with the bounds.

use super::{Converted, date};
use crate::failure::Failure;
use okno_domain::directory::{
    BookingSettings, DayHours, OutsideSystem, PriorityCategory, QueueSettings, ServiceGroup, ServiceSlots,
};
use okno_proto::v1;

/// A number that fits its field; whether it may be so large is the directory's to say.
fn number<T: TryFrom<u32>>(path: &str, value: u32) -> Converted<T> {
    T::try_from(value).map_err(|_| Failure::field(path, "слишком большое число", "expected a smaller number"))
}

fn number_or<T: TryFrom<u32>>(path: &str, value: Option<u32>, default: T) -> Converted<T> {
    value.map_or(Ok(default), |value| number(path, value))
}

pub fn from(settings: Option<v1::QueueSettings>) -> Converted<QueueSettings> {
    let settings = settings.ok_or_else(|| Failure::field("settings", "обязательное поле", "required"))?;
    let default = QueueSettings::default();
    let groups = settings.groups.into_iter().map(|group| ServiceGroup {
        letter: group.letter,
        name: group.name,
        services: group.services,
    });
    let categories = settings.categories.into_iter().map(|category| {
        let weight = number("settings.categories.weight", category.weight)?;
        Ok(PriorityCategory { code: category.code, weight })
    });
    let hours = settings.hours.into_iter().map(|hours| {
        Ok(DayHours {
            weekday: number("settings.hours.weekday", hours.weekday)?,
            opens_minute: number("settings.hours.opens_minute", hours.opens_minute)?,
            closes_minute: number("settings.hours.closes_minute", hours.closes_minute)?,
        })
    });
    let closed_days = settings.closed_days.iter().map(|day| date("settings.closed_days", day));
    Ok(QueueSettings {
        office: settings.office,
        groups: groups.collect(),
        categories: categories.collect::<Converted<_>>()?,
        fairness_minutes: number_or(
            "settings.fairness_minutes",
            settings.fairness_minutes,
            default.fairness_minutes,
        )?,
        norm_minutes: number_or("settings.norm_minutes", settings.norm_minutes, default.norm_minutes)?,
        calls_before_no_show: number_or(
            "settings.calls_before_no_show",
            settings.calls_before_no_show,
            default.calls_before_no_show,
        )?,
        put_off_minutes_max: number_or(
            "settings.put_off_minutes_max",
            settings.put_off_minutes_max,
            default.put_off_minutes_max,
        )?,
        put_offs_max: number_or("settings.put_offs_max", settings.put_offs_max, default.put_offs_max)?,
        unattended_grace_seconds: settings
            .unattended_grace_seconds
            .unwrap_or(default.unattended_grace_seconds),
        break_minutes_max: number_or(
            "settings.break_minutes_max",
            settings.break_minutes_max,
            default.break_minutes_max,
        )?,
        hours: hours.collect::<Converted<_>>()?,
        closed_days: closed_days.collect::<Converted<_>>()?,
        close_after_minutes: number_or(
            "settings.close_after_minutes",
            settings.close_after_minutes,
            default.close_after_minutes,
        )?,
        booking: booking_from(settings.booking.unwrap_or_default())?,
        auto_call: settings.auto_call.unwrap_or(default.auto_call),
        kiosk_pause_seconds: number_or(
            "settings.kiosk_pause_seconds",
            settings.kiosk_pause_seconds,
            default.kiosk_pause_seconds,
        )?,
        outside: settings
            .outside
            .into_iter()
            .map(|outside| OutsideSystem { system: outside.system, connectors: outside.connectors })
            .collect(),
    })
}

fn booking_from(booking: v1::BookingSettings) -> Converted<BookingSettings> {
    let default = BookingSettings::default();
    let services = booking.services.into_iter().map(|slots| {
        let step_minutes = number("settings.booking.services.step_minutes", slots.step_minutes)?;
        Ok(ServiceSlots { service: slots.service, step_minutes })
    });
    let of = |name: &str, value, default| number_or(&format!("settings.booking.{name}"), value, default);
    Ok(BookingSettings {
        enabled: booking.enabled.unwrap_or(default.enabled),
        step_minutes: of("step_minutes", booking.step_minutes, default.step_minutes)?,
        services: services.collect::<Converted<_>>()?,
        horizon_days: of("horizon_days", booking.horizon_days, default.horizon_days)?,
        early_minutes: of("early_minutes", booking.early_minutes, default.early_minutes)?,
        late_minutes: of("late_minutes", booking.late_minutes, default.late_minutes)?,
        late_joins_queue: booking.late_joins_queue.unwrap_or(default.late_joins_queue),
        weight: number_or("settings.booking.weight", booking.weight, default.weight)?,
        cancel_minutes: of("cancel_minutes", booking.cancel_minutes, default.cancel_minutes)?,
    })
}

/// Those in force, defaults included.
pub fn shown(office: &str, settings: &QueueSettings) -> v1::QueueSettings {
    v1::QueueSettings {
        office: office.to_owned(),
        groups: settings
            .groups
            .iter()
            .map(|group| v1::ServiceGroup {
                letter: group.letter.clone(),
                name: group.name.clone(),
                services: group.services.clone(),
            })
            .collect(),
        categories: settings
            .categories
            .iter()
            .map(|category| v1::PriorityCategory {
                code: category.code.clone(),
                weight: u32::from(category.weight),
            })
            .collect(),
        fairness_minutes: Some(u32::from(settings.fairness_minutes)),
        norm_minutes: Some(u32::from(settings.norm_minutes)),
        calls_before_no_show: Some(u32::from(settings.calls_before_no_show)),
        put_off_minutes_max: Some(u32::from(settings.put_off_minutes_max)),
        put_offs_max: Some(u32::from(settings.put_offs_max)),
        unattended_grace_seconds: Some(settings.unattended_grace_seconds),
        break_minutes_max: Some(u32::from(settings.break_minutes_max)),
        hours: settings
            .hours
            .iter()
            .map(|hours| v1::DayHours {
                weekday: u32::from(hours.weekday),
                opens_minute: u32::from(hours.opens_minute),
                closes_minute: u32::from(hours.closes_minute),
            })
            .collect(),
        closed_days: settings.closed_days.iter().map(ToString::to_string).collect(),
        close_after_minutes: Some(u32::from(settings.close_after_minutes)),
        booking: Some(booking(&settings.booking)),
        auto_call: Some(settings.auto_call),
        kiosk_pause_seconds: Some(u32::from(settings.kiosk_pause_seconds)),
        outside: settings
            .outside
            .iter()
            .map(|outside| v1::OutsideSystem {
                system: outside.system.clone(),
                connectors: outside.connectors.clone(),
            })
            .collect(),
    }
}

fn booking(booking: &BookingSettings) -> v1::BookingSettings {
    v1::BookingSettings {
        enabled: Some(booking.enabled),
        step_minutes: Some(u32::from(booking.step_minutes)),
        services: booking
            .services
            .iter()
            .map(|slots| v1::ServiceSlots {
                service: slots.service.clone(),
                step_minutes: u32::from(slots.step_minutes),
            })
            .collect(),
        horizon_days: Some(u32::from(booking.horizon_days)),
        early_minutes: Some(u32::from(booking.early_minutes)),
        late_minutes: Some(u32::from(booking.late_minutes)),
        late_joins_queue: Some(booking.late_joins_queue),
        weight: Some(u32::from(booking.weight)),
        cancel_minutes: Some(u32::from(booking.cancel_minutes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_is_default_and_what_is_shown_is_taken_as_it_was() {
        let wire = v1::QueueSettings { office: "tikhaya".into(), ..v1::QueueSettings::default() };
        let mut settings = from(Some(wire)).expect("nothing is wrong");
        assert_eq!(settings, QueueSettings { office: "tikhaya".into(), ..QueueSettings::default() });
        settings.groups.push(ServiceGroup {
            letter: "Ж".into(),
            name: "Земля".into(),
            services: vec!["paper".into()],
        });
        settings.categories.push(PriorityCategory { code: "veterans".into(), weight: 60 });
        settings.hours.push(DayHours { weekday: 1, opens_minute: 480, closes_minute: 1_200 });
        settings.closed_days.push(jiff::civil::date(2026, 5, 9));
        settings.booking.services.push(ServiceSlots { service: "paper".into(), step_minutes: 20 });
        settings.booking.enabled = false;
        settings.auto_call = true;
        settings.outside.push(OutsideSystem { system: "hall2".into(), connectors: vec!["smev".into()] });
        assert_eq!(from(Some(shown("tikhaya", &settings))), Ok(settings));
    }

    #[test]
    fn what_does_not_fit_is_refused_by_field() {
        let refused = |settings: v1::QueueSettings| match from(Some(settings)) {
            Err(Failure::Refused(refusal)) => refusal.details.into_keys().next().unwrap_or_default(),
            other => panic!("{other:?}"),
        };
        let large = v1::QueueSettings { norm_minutes: Some(70_000), ..v1::QueueSettings::default() };
        assert_eq!(refused(large), "settings.norm_minutes");
        let day = v1::QueueSettings { closed_days: vec!["9 мая".into()], ..v1::QueueSettings::default() };
        assert_eq!(refused(day), "settings.closed_days");
        let booking = v1::BookingSettings { weight: Some(300), ..v1::BookingSettings::default() };
        let weight = v1::QueueSettings { booking: Some(booking), ..v1::QueueSettings::default() };
        assert_eq!(refused(weight), "settings.booking.weight");
        assert!(from(None).is_err());
    }
}

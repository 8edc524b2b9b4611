//! Standing alarms: conditions an operator must see until they are gone. Each clears by itself when its cause is
//! gone; nothing is acknowledged by hand.

use parking_lot::Mutex;
use std::{collections::BTreeMap, time::SystemTime};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    pub reason: String,
    pub since: SystemTime,
}

/// The alarms of this node, by name. Names are few and fixed, so the map is bounded by the program's text.
#[derive(Debug, Default)]
pub struct Alarms {
    standing: Mutex<BTreeMap<String, Alarm>>,
}

impl Alarms {
    pub fn raise(&self, name: &str, reason: &str) {
        let mut standing = self.standing.lock();
        match standing.get_mut(name) {
            Some(alarm) => reason.clone_into(&mut alarm.reason),
            None => {
                tracing::warn!(alarm = name, reason, "alarm");
                standing
                    .insert(name.to_owned(), Alarm { reason: reason.to_owned(), since: SystemTime::now() });
            }
        }
    }

    pub fn clear(&self, name: &str) {
        if self.standing.lock().remove(name).is_some() {
            tracing::info!(alarm = name, "alarm over");
        }
    }

    pub fn list(&self) -> Vec<(String, Alarm)> {
        self.standing.lock().iter().map(|(name, alarm)| (name.clone(), alarm.clone())).collect()
    }
}

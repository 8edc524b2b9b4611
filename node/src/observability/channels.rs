//! Figures of channels: counted now and then from their roots, with the rest of the population, and of this node's own part
//! in their traffic. The label `channel` is a code of the settings' files, of which a region has dozens.

use super::metrics::Sample;
use okno_domain::channel::Breaker;
use okno_runtime::{
    channels::{ChannelHead, KeeperFigures},
    query::Query,
};
use okno_storage::error::StorageError;
use std::collections::BTreeMap;

/// Channels shown; far more than a region has.
const CHANNELS_MAX: usize = 500;

pub fn look(query: &Query) -> Result<Vec<Sample>, StorageError> {
    let view = query.snapshot()?;
    let mut samples = Vec::new();
    for code in view.channels(None, CHANNELS_MAX)? {
        if let Some(head) = view.channel_head(&code)? {
            samples.extend(of_channel(&head, view.time_ms));
        }
    }
    Ok(samples)
}

fn of_channel(head: &ChannelHead, now_ms: i64) -> Vec<Sample> {
    let counts = &head.root.counts;
    let oldest_ms = counts.oldest_ms.map_or(0, |at| now_ms.saturating_sub(at).max(0));
    let label = format!("channel=\"{}\"", head.code);
    let waiting = counts.live.saturating_sub(counts.out).saturating_sub(counts.asking);
    let states =
        [("waiting", waiting), ("out", counts.out), ("asking", counts.asking), ("dead", counts.dead)];
    let mut samples: Vec<Sample> = states
        .into_iter()
        .map(|(state, count)| {
            let labels = format!("{label},state=\"{state}\"");
            Sample::labelled("okno_channel_messages", labels, count.into())
        })
        .collect();
    let breaker = match head.root.account.breaker {
        Breaker::Closed { .. } => 0.0,
        Breaker::HalfOpen { .. } => 1.0,
        Breaker::Open { .. } => 2.0,
    };
    let root = &head.root;
    for (name, value) in [
        ("okno_channel_oldest_seconds", oldest_ms as f64 / 1e3),
        ("okno_channel_letters_parked", counts.parked.into()),
        ("okno_channel_breaker", breaker),
        ("okno_channel_paused", f64::from(u8::from(root.mode != okno_domain::channel::Mode::Open))),
        ("okno_channel_handed_out_total", root.handed_total as f64),
        ("okno_channel_failed_total", root.failed_total as f64),
        ("okno_channel_ended_total", root.ended_total as f64),
    ] {
        samples.push(Sample::labelled(name, label.clone(), value));
    }
    // Each is a fault of another: of the way to the connector, of its work, of the connector itself.
    let lapses = root.account.lapses;
    for (reason, count) in [("unheard", lapses.unheard), ("overdue", lapses.overdue), ("gone", lapses.gone)] {
        let labels = format!("{label},reason=\"{reason}\"");
        samples.push(Sample::labelled("okno_channel_lapsed_total", labels, count as f64));
    }
    samples
}

/// Of this node: streams it serves, and deliveries whose clock it keeps.
pub fn own(attached: &BTreeMap<String, usize>, leases: &[KeeperFigures]) -> Vec<Sample> {
    let streams = attached.iter().map(|(channel, count)| {
        Sample::labelled("okno_channel_streams", format!("channel=\"{channel}\""), *count as f64)
    });
    let leases = leases.iter().flat_map(|of| {
        [("delivered", of.delivered), ("working", of.working)].map(|(phase, count)| {
            let labels = format!("channel=\"{}\",phase=\"{phase}\"", of.channel);
            Sample::labelled("okno_channel_leases", labels, count as f64)
        })
    });
    streams.chain(leases).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observability::described;
    use okno_domain::channel::{Lapses, Root, Settings};
    use std::sync::Arc;

    #[test]
    fn every_figure_is_described_and_counts_add_up() {
        let mut root = Root::default();
        (root.counts.live, root.counts.out, root.counts.asking, root.counts.dead) = (9, 3, 2, 4);
        root.account.breaker = Breaker::Open { until_ms: 5, trips: 1 };
        root.counts.oldest_ms = Some(7_500);
        root.account.lapses = Lapses { unheard: 1, overdue: 2, gone: 3 };
        let head = ChannelHead {
            code: "egrn".into(),
            root,
            settings: Arc::new(Settings::default()),
            head_index: 1,
            applied_index: 1,
        };
        let leases = [KeeperFigures { channel: "egrn".into(), delivered: 1, working: 2 }];
        let mut samples = of_channel(&head, 10_000);
        samples.extend(own(&BTreeMap::from([("egrn".to_owned(), 2)]), &leases));
        for sample in &samples {
            assert!(described::find(&sample.name).is_some(), "{}", sample.name);
        }
        let value = |name: &str, labels: &str| {
            let found = samples.iter().find(|one| one.name == name && one.labels == labels);
            found.unwrap_or_else(|| panic!("{name} {labels}")).value
        };
        assert_eq!(value("okno_channel_messages", "channel=\"egrn\",state=\"waiting\""), 4.0);
        assert_eq!(value("okno_channel_messages", "channel=\"egrn\",state=\"dead\""), 4.0);
        assert_eq!(value("okno_channel_oldest_seconds", "channel=\"egrn\""), 2.5);
        for (reason, count) in [("unheard", 1.0), ("overdue", 2.0), ("gone", 3.0)] {
            let labels = format!("channel=\"egrn\",reason=\"{reason}\"");
            assert_eq!(value("okno_channel_lapsed_total", &labels), count);
        }
        assert_eq!(value("okno_channel_breaker", "channel=\"egrn\""), 2.0);
        assert_eq!(value("okno_channel_leases", "channel=\"egrn\",phase=\"working\""), 2.0);
    }
}

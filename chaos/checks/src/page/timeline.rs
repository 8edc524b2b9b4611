//! A drill over time, as SVG: what clients got acknowledged, the longest latency, and the faults behind both.
//!
//! Throughput from zero, because its height is what matters; latency on a logarithmic scale, because a fault makes it
//! a thousandfold. A strip between the two shows where nothing was acknowledged at all.

use super::text::{Escaped, count, decimal, duration};
use crate::report::{Mark, Timeline};
use std::fmt::Write;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
/// Numbers of the marks stand above the panels.
const TOP: f64 = 26.0;
const THROUGHPUT_HEIGHT: f64 = 130.0;
const STRIP_HEIGHT: f64 = 7.0;
const GAP: f64 = 16.0;
const LATENCY_HEIGHT: f64 = 100.0;
const BOTTOM: f64 = 24.0;
/// Columns drawn at most: more could not be told apart, and a long run must not make a page of megabytes.
const COLUMNS_MAX: usize = 480;
/// Marks drawn and listed at most; the rest are counted.
const MARKS_MAX: usize = 60;
/// Numbers nearer to each other than this would overlap: the later one is left to the list.
const NUMBER_APART: f64 = 15.0;

/// Buckets as they are drawn.
struct Column {
    acknowledged: u64,
    /// `None`: nothing was acknowledged.
    latency_ms: Option<f64>,
}

struct Columns {
    each_ms: u64,
    columns: Vec<Column>,
}

impl Columns {
    /// Merges buckets until they fit; acknowledged writes are added up, latencies keep their maximum.
    fn of(timeline: &Timeline) -> Option<Self> {
        let buckets = timeline.acknowledged.len();
        if buckets == 0 || timeline.bucket_ms == 0 {
            return None;
        }
        let merged = buckets.div_ceil(COLUMNS_MAX);
        let columns = timeline.acknowledged.chunks(merged).enumerate().map(|(at, chunk)| {
            let latencies = timeline.latency_max_ms.iter().skip(at * merged).take(merged);
            let latency = latencies.copied().filter(|ms| ms.is_finite() && *ms > 0.0).fold(0.0, f64::max);
            Column { acknowledged: chunk.iter().sum(), latency_ms: Some(latency).filter(|ms| *ms > 0.0) }
        });
        Some(Self { each_ms: timeline.bucket_ms.saturating_mul(merged as u64), columns: columns.collect() })
    }

    fn end_ms(&self) -> u64 {
        self.each_ms.saturating_mul(self.columns.len() as u64)
    }

    fn rate(&self, column: &Column) -> f64 {
        column.acknowledged as f64 * 1_000.0 / self.each_ms as f64
    }

    fn rate_max(&self) -> f64 {
        self.columns.iter().map(|column| self.rate(column)).fold(0.0, f64::max)
    }

    /// Stretches without an acknowledged write, between the first and the last that was: (from, to) in columns.
    fn silences(&self) -> Vec<(usize, usize)> {
        let busy: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .filter(|(_, column)| column.acknowledged > 0)
            .map(|(at, _)| at)
            .collect();
        busy.windows(2).filter(|pair| pair[1] > pair[0] + 1).map(|pair| (pair[0] + 1, pair[1])).collect()
    }
}

/// The next larger number whose half is round too.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 1.2, 1.6, 2.0, 2.4, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0];
    steps.into_iter().map(|step| step * power).find(|step| *step >= value).unwrap_or(10.0 * power)
}

/// Between two vertical lines, at most eight of them.
fn seconds_step(end_ms: u64) -> u64 {
    let steps = [100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000, 600_000, 3_600_000];
    steps.into_iter().find(|step| end_ms / step <= 10).unwrap_or_else(|| end_ms / 8 + 1)
}

/// A line of the throughput without axes, for the table of all drills.
pub fn spark(timeline: &Timeline) -> String {
    const SPARK_WIDTH: f64 = 150.0;
    const SPARK_HEIGHT: f64 = 24.0;
    let Some(columns) = Columns::of(timeline) else { return String::new() };
    let top = columns.rate_max().max(1.0);
    let step = SPARK_WIDTH / columns.columns.len() as f64;
    let mut out = format!(
        "<svg class=\"spark\" viewBox=\"0 0 {SPARK_WIDTH} {SPARK_HEIGHT}\" role=\"img\" aria-label=\"throughput\">"
    );
    let scale = SPARK_WIDTH / columns.end_ms().max(1) as f64;
    for mark in timeline.marks.iter().take(MARKS_MAX) {
        let from = (mark.at_ms as f64 * scale).min(SPARK_WIDTH - 1.0);
        let width = mark.until_ms.map_or(1.0, |until| until.saturating_sub(mark.at_ms) as f64 * scale);
        let width = width.clamp(1.0, SPARK_WIDTH - from);
        let _ = write!(
            out,
            "<rect class=\"band\" x=\"{from:.1}\" y=\"0\" width=\"{width:.1}\" height=\"{SPARK_HEIGHT}\"/>"
        );
    }
    let _ = write!(out, "<path class=\"rate\" d=\"M0 {SPARK_HEIGHT}");
    for (at, column) in columns.columns.iter().enumerate() {
        let y = SPARK_HEIGHT - columns.rate(column) / top * (SPARK_HEIGHT - 2.0);
        let _ = write!(out, "L{:.1} {y:.1}L{:.1} {y:.1}", at as f64 * step, (at + 1) as f64 * step);
    }
    let _ = write!(out, "L{SPARK_WIDTH} {SPARK_HEIGHT}Z\"/></svg>");
    out
}

/// The drawing with its list of marks.
pub fn draw(page: &mut String, timeline: &Timeline) {
    let Some(columns) = Columns::of(timeline) else { return };
    let plot = Plot::new(&columns);
    page.push_str("<h3>Over time</h3><figure class=\"timeline\">");
    let _ = write!(
        page,
        "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"Throughput and longest latency over time\">",
        plot.height()
    );
    plot.bands(page, &timeline.marks);
    plot.axes(page);
    plot.throughput(page);
    plot.latency(page);
    plot.lines(page, &timeline.marks);
    plot.hovers(page);
    page.push_str("</svg>");
    list(page, &timeline.marks);
    page.push_str("</figure>");
}

struct Plot<'a> {
    columns: &'a Columns,
    end_ms: u64,
    rate_top: f64,
    /// Decades of the latency axis: from 10^low to 10^high ms.
    low: f64,
    high: f64,
}

impl<'a> Plot<'a> {
    fn new(columns: &'a Columns) -> Self {
        let latencies = || columns.columns.iter().filter_map(|column| column.latency_ms);
        let largest = latencies().fold(10.0, f64::max);
        let smallest = latencies().fold(largest, f64::min);
        let low = smallest.log10().floor().clamp(-1.0, 1.0);
        let high = largest.log10().ceil().max(low + 1.0);
        Self { columns, end_ms: columns.end_ms().max(1), rate_top: round_up(columns.rate_max()), low, high }
    }

    fn height(&self) -> f64 {
        Self::latency_bottom() + BOTTOM
    }
    fn rate_bottom() -> f64 {
        TOP + THROUGHPUT_HEIGHT
    }
    fn latency_top() -> f64 {
        Self::rate_bottom() + STRIP_HEIGHT + GAP
    }
    fn latency_bottom() -> f64 {
        Self::latency_top() + LATENCY_HEIGHT
    }

    /// What lies behind the end is drawn at the end.
    fn x(&self, ms: u64) -> f64 {
        LEFT + ms.min(self.end_ms) as f64 / self.end_ms as f64 * (WIDTH - LEFT - RIGHT)
    }
    fn x_of(&self, column: usize) -> f64 {
        self.x(self.columns.each_ms.saturating_mul(column as u64))
    }
    fn y_rate(&self, rate: f64) -> f64 {
        Self::rate_bottom() - rate / self.rate_top * THROUGHPUT_HEIGHT
    }
    fn y_latency(&self, ms: f64) -> f64 {
        let part = (ms.log10() - self.low) / (self.high - self.low);
        Self::latency_bottom() - part.clamp(0.0, 1.0) * LATENCY_HEIGHT
    }

    fn axes(&self, page: &mut String) {
        for part in 0..=2 {
            let rate = self.rate_top * f64::from(part) / 2.0;
            self.level(page, self.y_rate(rate), &decimal(rate));
        }
        let mut power = self.low;
        while power <= self.high {
            let ms = 10f64.powf(power);
            let label = if ms >= 1_000.0 {
                format!("{} s", decimal(ms / 1_000.0))
            } else {
                format!("{} ms", decimal(ms))
            };
            self.level(page, self.y_latency(ms), &label);
            power += 1.0;
        }
        let step = seconds_step(self.end_ms);
        let mut at = 0;
        while at <= self.end_ms {
            let x = self.x(at);
            let _ = write!(
                page,
                "<path class=\"grid\" d=\"M{x:.1} {TOP}V{:.1}\"/><text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\" \
                 text-anchor=\"middle\">{} s</text>",
                Self::latency_bottom(),
                Self::latency_bottom() + 15.0,
                decimal(at as f64 / 1_000.0)
            );
            at += step;
        }
        for (y, title) in [(TOP, "writes/s"), (Self::latency_top(), "longest latency")] {
            let _ = write!(
                page,
                "<text class=\"title\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"start\">{title}</text>",
                LEFT + 6.0,
                y + 12.0
            );
        }
    }

    fn level(&self, page: &mut String, y: f64, label: &str) {
        let _ = write!(
            page,
            "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{:.1}\"/><text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" \
             text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            Escaped(label)
        );
    }

    fn throughput(&self, page: &mut String) {
        let _ = write!(page, "<path class=\"rate\" d=\"M{LEFT} {:.1}", Self::rate_bottom());
        for (at, column) in self.columns.columns.iter().enumerate() {
            let y = self.y_rate(self.columns.rate(column));
            let _ = write!(page, "L{:.1} {y:.1}L{:.1} {y:.1}", self.x_of(at), self.x_of(at + 1));
        }
        let _ = write!(page, "L{:.1} {:.1}Z\"/>", self.x(self.end_ms), Self::rate_bottom());
        for (from, to) in self.columns.silences() {
            let (x, end) = (self.x_of(from), self.x_of(to));
            let silent_ms = self.columns.each_ms.saturating_mul((to - from) as u64);
            let _ = write!(
                page,
                "<rect class=\"silence\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{STRIP_HEIGHT}\">\
                 <title>nothing acknowledged for {}</title></rect>",
                Self::rate_bottom() + 1.0,
                end - x,
                duration(silent_ms)
            );
        }
    }

    /// One line per stretch with answers; a column of its own is a dash, so that it is seen.
    fn latency(&self, page: &mut String) {
        let mut path = String::new();
        let mut drawing = false;
        for (at, column) in self.columns.columns.iter().enumerate() {
            match column.latency_ms {
                Some(ms) => {
                    let move_or_line = if drawing { 'L' } else { 'M' };
                    let y = self.y_latency(ms);
                    let _ = write!(
                        path,
                        "{move_or_line}{:.1} {y:.1}L{:.1} {y:.1}",
                        self.x_of(at),
                        self.x_of(at + 1)
                    );
                    drawing = true;
                }
                None => drawing = false,
            }
        }
        if !path.is_empty() {
            let _ = write!(page, "<path class=\"latency\" d=\"{path}\"/>");
        }
    }

    /// Faults that last, behind everything.
    fn bands(&self, page: &mut String, marks: &[Mark]) {
        for mark in marks.iter().take(MARKS_MAX) {
            let Some(until) = mark.until_ms else { continue };
            let x = self.x(mark.at_ms);
            let _ = write!(
                page,
                "<rect class=\"band\" x=\"{x:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"/>",
                (self.x(until) - x).max(1.0),
                Self::latency_bottom() - TOP
            );
        }
    }

    /// Where each mark begins, with its number in the list.
    fn lines(&self, page: &mut String, marks: &[Mark]) {
        let mut last = f64::NEG_INFINITY;
        for (number, mark) in marks.iter().take(MARKS_MAX).enumerate() {
            let x = self.x(mark.at_ms);
            let _ = write!(page, "<path class=\"mark\" d=\"M{x:.1} {TOP}V{:.1}\"/>", Self::latency_bottom());
            if x - last < NUMBER_APART {
                continue;
            }
            last = x;
            let _ = write!(
                page,
                "<circle class=\"dot\" cx=\"{x:.1}\" cy=\"13\" r=\"9\"/><text class=\"number\" x=\"{x:.1}\" \
                 y=\"17\" text-anchor=\"middle\">{}<title>{}</title></text>",
                number + 1,
                Escaped(&mark.what)
            );
        }
    }

    /// Invisible columns that tell their figures.
    fn hovers(&self, page: &mut String) {
        for (at, column) in self.columns.columns.iter().enumerate() {
            let x = self.x_of(at);
            let latency = column
                .latency_ms
                .map_or_else(|| "none answered".to_owned(), |ms| format!("{} ms", decimal(ms)));
            let _ = write!(
                page,
                "<rect class=\"hover\" x=\"{x:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"><title>{}: {} \
                 writes/s, longest {latency}</title></rect>",
                self.x_of(at + 1) - x,
                Self::latency_bottom() - TOP,
                duration(self.columns.each_ms.saturating_mul(at as u64)),
                decimal(self.columns.rate(column))
            );
        }
    }
}

fn list(page: &mut String, marks: &[Mark]) {
    if marks.is_empty() {
        return;
    }
    page.push_str("<ol class=\"marks\">");
    for mark in marks.iter().take(MARKS_MAX) {
        let _ = write!(page, "<li><span class=\"at\">{}", duration(mark.at_ms));
        if let Some(until) = mark.until_ms {
            let _ = write!(page, ", for {}", duration(until.saturating_sub(mark.at_ms)));
        }
        let _ = write!(page, "</span> {}</li>", Escaped(&mark.what));
    }
    page.push_str("</ol>");
    if let Some(more) = marks.len().checked_sub(MARKS_MAX).filter(|more| *more > 0) {
        let _ = write!(page, "<p class=\"note\">{} more are in the JSON.</p>", count(more as u64));
    }
}

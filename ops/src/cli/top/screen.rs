//! Draws the view on a terminal.

use super::model::{NodeRow, View};
use ratatui::{
    Frame,
    layout::{Constraint, Layout},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Borders, Cell, Paragraph, Row, Table, Wrap},
};

/// Alarms shown at a time; the rest is told as a number.
const ALARMS_SHOWN: usize = 8;

/// How many columns there are, and how many of them tell what a node does; the rest tell what it lives on.
const COLUMNS: usize = 17;
const DOING: usize = 10;

pub const HEADINGS: [&str; COLUMNS] = [
    "NODE",
    "ROLE",
    "READY",
    "APPLIED",
    "LAG",
    "WRITE/S",
    "READ/S",
    "P50",
    "P99",
    "FSYNC",
    "ACTORS",
    "QUEUED",
    "CPU",
    "MEMORY",
    "DISK FREE",
    "BACKUP",
    "UPS",
];
/// For what is usual; a longer figure is cut at its end. The first [`DOING`] fit into 80 columns.
const WIDTHS: [u16; COLUMNS] = [4, 11, 5, 9, 6, 7, 6, 7, 8, 7, 7, 6, 5, 8, 9, 6, 10];
/// Between two columns.
const GAP: u16 = 1;

/// Where the columns of one table begin and end; the node's number leads each.
#[derive(Clone, Copy)]
struct Part {
    from: usize,
    to: usize,
}

impl Part {
    fn places(self) -> impl Iterator<Item = usize> {
        std::iter::once(0).chain(self.from..self.to)
    }

    fn width(self) -> u16 {
        self.places().map(|place| WIDTHS[place] + GAP).sum::<u16>() - GAP
    }

    fn table(self, nodes: &[NodeRow]) -> Table<'static> {
        let rows: Vec<Row<'static>> = nodes.iter().map(|node| node_row(node, self)).collect();
        Table::new(rows, self.places().map(|place| Constraint::Length(WIDTHS[place])))
            .column_spacing(GAP)
            .header(
                Row::new(self.places().map(|place| HEADINGS[place]))
                    .style(Style::default().add_modifier(Modifier::DIM)),
            )
            .block(Block::default().borders(Borders::BOTTOM))
    }
}

/// One table where the terminal is wide enough, else two, one below the other.
fn parts(width: u16) -> Vec<Part> {
    let all = Part { from: 1, to: COLUMNS };
    if width >= all.width() {
        vec![all]
    } else {
        vec![Part { from: 1, to: DOING }, Part { from: DOING, to: COLUMNS }]
    }
}

pub fn draw(frame: &mut Frame<'_>, view: &View, note: &str) {
    let parts = parts(frame.area().width);
    // Headings, and the line below.
    let height = u16::try_from(view.nodes.len()).unwrap_or(u16::MAX).saturating_add(2);
    let constraints = std::iter::once(Constraint::Length(2))
        .chain(parts.iter().map(|_| Constraint::Length(height)))
        .chain([Constraint::Min(1), Constraint::Length(1)]);
    let areas = Layout::vertical(constraints).split(frame.area());
    let leader = if view.leader == 0 { "none".to_owned() } else { view.leader.to_string() };
    let head = format!(
        "Okno   leader {leader}   term {}   level {}   {:.0} writes/s",
        view.term, view.level, view.writes_per_second
    );
    frame.render_widget(Paragraph::new(head).style(Style::default().add_modifier(Modifier::BOLD)), areas[0]);
    for (part, area) in parts.iter().zip(&areas[1..]) {
        frame.render_widget(part.table(&view.nodes), *area);
    }
    let said = Paragraph::new(alarms(view)).wrap(Wrap { trim: false });
    frame.render_widget(said, areas[1 + parts.len()]);
    let foot = format!("q ends   {note}   cluster {}", view.cluster);
    let foot = Paragraph::new(foot).style(Style::default().add_modifier(Modifier::DIM));
    frame.render_widget(foot, areas[2 + parts.len()]);
}

fn alarms(view: &View) -> Vec<Line<'static>> {
    let mut lines: Vec<Line<'static>> = view
        .nodes
        .iter()
        .filter(|node| !node.error.is_empty())
        .map(|node| {
            let text = format!("{}: {}", node.endpoint, node.error);
            Line::from(Span::styled(text, Style::default().fg(Color::Yellow)))
        })
        .collect();
    if view.alarms.is_empty() {
        lines.push(Line::from(Span::styled("no alarms", Style::default().fg(Color::Green))));
    }
    for alarm in view.alarms.iter().take(ALARMS_SHOWN) {
        let colour = if alarm.severity == "alarm" { Color::Red } else { Color::Yellow };
        let text = format!("node {}  {}  {}", alarm.node_id, alarm.kind, alarm.reason);
        lines.push(Line::from(Span::styled(text, Style::default().fg(colour))));
    }
    if view.alarms.len() > ALARMS_SHOWN {
        lines.push(Line::from(format!("and {} more", view.alarms.len() - ALARMS_SHOWN)));
    }
    lines
}

fn node_row(node: &NodeRow, part: Part) -> Row<'static> {
    let colour = match (node.ready, node.role.as_str()) {
        (None | Some(false), _) => Color::Red,
        (Some(true), "leader") => Color::Cyan,
        _ => Color::Reset,
    };
    let cells = cells(node);
    Row::new(part.places().map(|place| Cell::from(cells[place].clone()))).style(Style::default().fg(colour))
}

/// The cells of a row, in the order of the headings.
pub fn cells(node: &NodeRow) -> [String; COLUMNS] {
    let number = |value: Option<f64>| value.map(|value| format!("{value:.0}")).unwrap_or_else(dash);
    let millis = |value: Option<f64>| value.map(|value| format!("{value:.1}ms")).unwrap_or_else(dash);
    let role = if node.phase == "serving" || node.phase.is_empty() { &node.role } else { &node.phase };
    let ups = match (node.on_battery, node.ups_charge_ratio) {
        (None, _) => dash(),
        (Some(on), charge) => {
            let charge = charge.map(|charge| format!(" {:.0}%", charge * 100.0)).unwrap_or_default();
            format!("{}{charge}", if on { "BATT" } else { "mains" })
        }
    };
    [
        if node.node_id == 0 { "?".into() } else { node.node_id.to_string() },
        role.clone(),
        node.ready.map_or_else(dash, |ready| if ready { "yes" } else { "NO" }.to_owned()),
        node.applied_index.to_string(),
        node.lag.map_or_else(dash, |lag| lag.to_string()),
        number(node.writes_per_second),
        number(node.reads_per_second),
        millis(node.p50_ms),
        millis(node.p99_ms),
        millis(node.fsync_ms),
        number(node.entities_resident),
        number(node.callers_waiting.map(|waiting| waiting + node.messages_waiting.unwrap_or_default())),
        node.cpu_cores.map_or_else(dash, |cores| format!("{:.0}%", cores * 100.0)),
        node.memory_bytes.map_or_else(dash, bytes),
        node.disk_free_bytes.map_or_else(dash, bytes),
        node.backup_age_seconds.map_or_else(dash, age),
        ups,
    ]
}

fn dash() -> String {
    "–".to_owned()
}

fn bytes(value: f64) -> String {
    let mut value = value;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1_024.0 {
            return format!("{value:.0} {unit}");
        }
        value /= 1_024.0;
    }
    format!("{value:.1} TiB")
}

fn age(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0}s"),
        s if s < 7_200.0 => format!("{:.0}m", s / 60.0),
        s => format!("{:.0}h", s / 3_600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::top::model::AlarmRow;
    use ratatui::{Terminal, backend::TestBackend};

    fn shown(view: &View, width: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, 16)).expect("a terminal");
        terminal.draw(|frame| draw(frame, view, "every 1s")).expect("drawn");
        let buffer = terminal.backend().buffer().clone();
        let lines = (0..buffer.area.height).map(|y| {
            let line: String = (0..buffer.area.width).map(|x| buffer[(x, y)].symbol().to_owned()).collect();
            line.trim_end().to_owned()
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn members_load_and_alarms_are_on_the_screen() {
        let leader = NodeRow {
            endpoint: "a:7400".into(),
            node_id: 1,
            phase: "serving".into(),
            role: "leader".into(),
            ready: Some(true),
            applied_index: 12_345,
            lag: Some(0),
            writes_per_second: Some(812.4),
            p99_ms: Some(12.34),
            disk_free_bytes: Some(3.0 * 1024.0 * 1024.0 * 1024.0),
            backup_age_seconds: Some(3.0 * 3_600.0),
            ups_charge_ratio: Some(0.73),
            on_battery: Some(true),
            ..NodeRow::default()
        };
        let silent =
            NodeRow { endpoint: "b:7400".into(), error: "cannot be reached".into(), ..NodeRow::default() };
        let view = View {
            cluster: "kuzbass".into(),
            leader: 1,
            term: 4,
            level: 2,
            writes_per_second: 812.4,
            nodes: vec![leader, silent],
            alarms: vec![AlarmRow {
                node_id: 1,
                kind: "ON_BATTERY".into(),
                severity: "warning".into(),
                reason: "mains lost".into(),
            }],
        };
        let text = shown(&view, 140);
        for expected in [
            "Okno   leader 1   term 4   level 2   812 writes/s",
            "leader",
            "12345",
            "12.3ms",
            "3 GiB",
            "3h",
            "BATT 73%",
            "b:7400: cannot be reached",
            "node 1  ON_BATTERY  mains lost",
            "q ends   every 1s   cluster kuzbass",
        ] {
            assert!(text.contains(expected), "{expected:?} is missing:\n{text}");
        }
        assert!(shown(&View::default(), 40).contains("no alarms"), "narrow and empty");

        // On the smallest terminal that is usual nothing is cut, and all columns are there.
        let small = shown(&view, 80);
        for heading in HEADINGS {
            assert!(small.contains(heading), "{heading} is missing:\n{small}");
        }
        for expected in ["12345", "12.3ms", "3 GiB", "3h", "BATT 73%", "b:7400: cannot be reached"] {
            assert!(small.contains(expected), "{expected:?} is missing:\n{small}");
        }
        assert_eq!(small.lines().filter(|line| line.starts_with("NODE")).count(), 2, "two tables:\n{small}");
        assert!(Part { from: 1, to: DOING }.width() <= 80 && Part { from: DOING, to: COLUMNS }.width() <= 80);
    }
}

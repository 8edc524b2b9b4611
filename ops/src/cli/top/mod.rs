//! `oknoctl top`: the cluster at a glance, again and again until `q`. It asks over gRPC only, so it works wherever
//! other commands do, and costs a node four calls a turn.

mod model;
mod screen;

use super::{Failure, Session, alarms, every, output};
use crate::exposition::Exposition;
use clap::Args;
use futures::future::join;
use model::{Moment, Said, View};
use okno_client::v1::{GetHealthRequest, GetMetricsRequest, GetStatusRequest};
use ratatui::crossterm::{
    event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
    tty::IsTty,
};
use std::time::{Duration, Instant};

/// Below this the figures would be mostly of what `top` itself does.
const EVERY_MIN: Duration = Duration::from_millis(200);
/// How often keys are looked for.
const KEYS_EVERY: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub struct TopArgs {
    /// Time between two looks
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = humantime::parse_duration)]
    every: Duration,
    /// Look twice, print, end; with -o json for programs
    #[arg(long)]
    once: bool,
}

pub async fn run(session: &Session, args: TopArgs) -> Result<(), Failure> {
    if args.every < EVERY_MIN {
        return Err(Failure::Usage(format!("--every: expected at least {EVERY_MIN:?}")));
    }
    let endpoints: Vec<String> = match session.endpoint() {
        Some(index) => session.client.endpoints().nth(index).into_iter().map(str::to_owned).collect(),
        None => session.client.endpoints().map(str::to_owned).collect(),
    };
    let begun = Instant::now();
    let before = look(session, begun).await;
    if args.once {
        tokio::time::sleep(args.every).await;
        let after = look(session, begun).await;
        let view = View::between(&endpoints, &before, &after);
        return print(session, &view);
    }
    if session.format == output::Format::Json {
        return Err(Failure::Usage("-o json goes with --once".into()));
    }
    if !std::io::stdout().is_tty() {
        return Err(Failure::Usage("not a terminal: use --once".into()));
    }
    // Restores the terminal in every case, a panic included.
    let mut terminal = ratatui::init();
    let outcome = follow(session, &endpoints, begun, before, args.every, &mut terminal).await;
    ratatui::restore();
    outcome
}

async fn follow(
    session: &Session,
    endpoints: &[String],
    begun: Instant,
    mut before: Moment,
    every: Duration,
    terminal: &mut ratatui::DefaultTerminal,
) -> Result<(), Failure> {
    let broken = |error: std::io::Error| Failure::Broken(format!("the terminal: {error}"));
    let note = format!("every {}", humantime::format_duration(every));
    let mut view = View::between(endpoints, &before, &before);
    loop {
        terminal.draw(|frame| screen::draw(frame, &view, &note)).map_err(broken)?;
        let until = Instant::now() + every;
        while Instant::now() < until {
            if event::poll(Duration::ZERO).map_err(broken)? {
                match event::read().map_err(broken)? {
                    Event::Key(key) if key.kind == KeyEventKind::Press => {
                        let interrupt = key.modifiers.contains(KeyModifiers::CONTROL)
                            && matches!(key.code, KeyCode::Char('c' | 'd'));
                        if interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                            return Ok(());
                        }
                    }
                    Event::Resize(..) => {
                        terminal.draw(|frame| screen::draw(frame, &view, &note)).map_err(broken)?;
                    }
                    _ => {}
                }
            }
            tokio::time::sleep(KEYS_EVERY).await;
        }
        let after = look(session, begun).await;
        view = View::between(endpoints, &before, &after);
        before = after;
    }
}

/// One look at everybody.
async fn look(session: &Session, begun: Instant) -> Moment {
    let (statuses, (figures, healths)) = join(
        every::ask(session, GetStatusRequest {}),
        join(every::ask(session, GetMetricsRequest {}), every::ask(session, GetHealthRequest {})),
    )
    .await;
    let at = begun.elapsed().as_secs_f64();
    let mut said = Vec::new();
    for ((status, figures), health) in statuses.into_iter().zip(figures).zip(healths) {
        let mut one = Said::default();
        match status.answer {
            Ok(status) => one.status = Some(status),
            Err(error) => one.error = format!("{}: {}", error.reason(), error.problem().message),
        }
        // A node of another version may show what this one does not read: the rest is shown all the same.
        one.figures = figures.answer.ok().and_then(|figures| Exposition::parse(&figures.text).ok());
        one.health = health.answer.ok();
        said.push(one);
    }
    let alarms = alarms::gather(session).await.map(|found| found.alarms).unwrap_or_default();
    Moment { at, said, alarms }
}

fn print(session: &Session, view: &View) -> Result<(), Failure> {
    match session.format {
        output::Format::Json => {
            let text = serde_json::to_string_pretty(view)
                .map_err(|error| Failure::Broken(format!("the view has no JSON form: {error}")))?;
            output::line(&text);
        }
        output::Format::Table => {
            output::line(&output::table(screen::HEADINGS, view.nodes.iter().map(screen::cells)));
            for alarm in &view.alarms {
                output::line(&format!("node {}  {}  {}", alarm.node_id, alarm.kind, alarm.reason));
            }
        }
    }
    if view.nodes.iter().any(|node| node.node_id != 0) {
        Ok(())
    } else {
        Err(Failure::Broken("no endpoint answers".to_owned()))
    }
}

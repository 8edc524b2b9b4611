//! The hall board, and a workstation that dies (R-Q3, R-R1), told while it happens: its window is left to others, its
//! visitor goes back to the head of the queue, and when it returns it takes up where it was.

use super::cluster::DevCluster;
use super::desk::Desk;
use super::fixtures;
use super::ledger::Ledger;
use super::terminal::{Terminal, decimal};
use anyhow::{Context, Result, bail};
use okno_client::{Board, v1 as proto};
use std::time::{Duration, Instant};

/// A called visitor stands before a window that nobody attends for so long here: the story is short.
const GRACE_SECONDS: u32 = 3;
/// A window is marked within 30 s; a person reads along.
const MARKED_WITHIN: Duration = Duration::from_secs(45);
const POLL: Duration = Duration::from_millis(100);
/// The window that calls the visitor instead.
const OTHER_WINDOW: &str = "1";
const BOARD: &str = "board-tikhaya";

pub struct Hall<'a> {
    pub terminal: &'a Terminal,
    pub kiosk: &'a Desk,
    pub officer: &'a Desk,
    pub ledger: &'a Ledger,
    pub service: &'a proto::Service,
}

impl Hall<'_> {
    pub async fn tell(&self, cluster: &DevCluster) -> Result<()> {
        let (office, window) = (fixtures::STORY_OFFICE, fixtures::STORY_WINDOW);
        let say = |text: String| self.terminal.say(&text);
        self.settings(cluster).await?;
        for window in [OTHER_WINDOW, window] {
            self.officer.clear_window(office, window, self.ledger).await.context("clearing a window")?;
        }

        let mut watch = cluster.desk("board", BOARD)?.board(office);
        let mut board = Board::default();
        let picture = watch.next().await.context("watching the board")?;
        board.take(&picture);
        say(format!("Табло зала показывает узел {}", picture.served_by));

        let station = cluster.desk("workstation", fixtures::STORY_WORKSTATION)?;
        let attached =
            tokio::task::spawn_local(async move { station.attach(fixtures::STORY_WORKSTATION).await });
        self.wait("the workstation's window", |desk| desk.attached && !desk.unattended).await?;
        let ticket = self
            .kiosk
            .take_ticket(self.ledger, office, &self.service.code)
            .await
            .context("taking a ticket")?;
        loop {
            let called = self
                .officer
                .call_next(self.ledger, office, window)
                .await
                .context("calling the next visitor")?;
            if called.number == ticket.number {
                break;
            }
            self.officer.begin_service(self.ledger, &called, window).await.context("beginning to serve")?;
            self.officer.finish_service(self.ledger, &called, window).await.context("finishing to serve")?;
        }
        let spoken = loop {
            let shown = board
                .entries()
                .into_iter()
                .find(|entry| entry.ticket.as_ref().is_some_and(|shown| shown.number == ticket.number));
            if let Some(entry) = shown {
                break entry.spoken.clone();
            }
            board.take(&watch.next().await.context("watching the board")?);
        };
        say(format!("Табло: {} → окно {window}; в зале звучит «{spoken}»", ticket.number));

        attached.abort();
        let died = Instant::now();
        say(format!("Рабочее место окна {window} внезапно отключилось"));
        self.wait("the window that is left alone", |desk| desk.unattended).await?;
        let seconds = decimal(died.elapsed().as_secs_f64(), 1);
        say(format!("Через {seconds} с окно {window} отмечено: за ним никого нет"));
        self.wait("the visitor who goes back", |desk| desk.ticket.is_none()).await?;
        let again = self
            .officer
            .call_next(self.ledger, office, OTHER_WINDOW)
            .await
            .context("calling the visitor elsewhere")?;
        if again.number != ticket.number {
            bail!("ticket {} was not at the head of the queue: {} was", ticket.number, again.number);
        }
        say(format!("Посетитель вернулся в начало очереди и вызван к окну {OTHER_WINDOW}"));
        self.officer.begin_service(self.ledger, &again, OTHER_WINDOW).await.context("beginning to serve")?;
        self.officer.finish_service(self.ledger, &again, OTHER_WINDOW).await.context("finishing to serve")?;

        let station = cluster.desk("workstation", fixtures::STORY_WORKSTATION)?;
        let attached =
            tokio::task::spawn_local(async move { station.attach(fixtures::STORY_WORKSTATION).await });
        self.wait("the window that is attended again", |desk| !desk.unattended).await?;
        say(format!("Рабочее место вернулось, окно {window} снова принимает"));
        attached.abort();
        Ok(())
    }

    async fn settings(&self, cluster: &DevCluster) -> Result<()> {
        let settings = proto::QueueSettings {
            office: fixtures::STORY_OFFICE.into(),
            unattended_grace_seconds: Some(GRACE_SECONDS),
            ..proto::QueueSettings::default()
        };
        let admin = cluster.desk("admin", "dev")?;
        admin.put_queue_settings(settings).await.context("the settings of the office's queue")
    }

    /// Waits until the story's window is as wanted.
    async fn wait(&self, what: &str, wanted: impl Fn(&proto::Desk) -> bool) -> Result<()> {
        let until = Instant::now() + MARKED_WITHIN;
        loop {
            let desk = self
                .officer
                .window(fixtures::STORY_OFFICE, fixtures::STORY_WINDOW)
                .await
                .with_context(|| format!("reading {what}"))?;
            if desk.as_ref().is_some_and(&wanted) {
                return Ok(());
            }
            if Instant::now() >= until {
                bail!("{what}: not within {MARKED_WITHIN:?}: {desk:?}");
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

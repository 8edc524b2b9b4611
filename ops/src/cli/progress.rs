//! Progress of long work on a terminal; silent where standard error is none, or output is for machines.

use super::output::Format;
use crate::backup::{Phase, Watch};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{io::IsTerminal, sync::Mutex, sync::PoisonError};

pub struct Bar {
    bar: ProgressBar,
    phase: Mutex<String>,
}

impl Bar {
    pub fn new(format: Format) -> Self {
        let bar = ProgressBar::no_length();
        let shown = format == Format::Table && std::io::stderr().is_terminal();
        bar.set_draw_target(if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() });
        Self { bar, phase: Mutex::default() }
    }

    pub fn show(&self, phase: &str, done: u64, total: u64) {
        let mut current = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if *current != phase {
            phase.clone_into(&mut current);
            let entries = phase == Phase::Chain.name() || phase == Phase::Replay.name();
            let template = match (total, entries) {
                (0, _) => "{msg:8} {spinner} {elapsed}",
                (_, true) => "{msg:8} {wide_bar} {human_pos}/{human_len} entries  {eta}",
                (_, false) => "{msg:8} {wide_bar} {bytes}/{total_bytes}  {bytes_per_sec}  {eta}",
            };
            self.bar
                .set_style(ProgressStyle::with_template(template).expect("a constant that is well formed"));
            self.bar.set_message(phase.to_owned());
            self.bar.reset();
        }
        if total > 0 {
            self.bar.set_length(total);
        }
        self.bar.set_position(done);
    }

    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl Watch for Bar {
    fn progress(&self, phase: Phase, done: u64, total: u64) {
        self.show(phase.name(), done, total);
    }
}

//! How far planning has come, on a terminal; nothing elsewhere.

use crate::planning::Step;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar for the step at hand.
pub(super) struct Progress(ProgressBar);

impl Progress {
    pub(super) fn new() -> Self {
        // Hidden where standard error is no terminal. Drawn between measurements only: a
        // thread that drew by itself would run beside what is measured.
        let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        Self(bar)
    }

    pub(super) fn show(&self, step: &Step) {
        self.0.set_length(step.all as u64);
        self.0.set_position(step.done as u64);
        self.0.set_message(step.what.clone());
    }

    pub(super) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

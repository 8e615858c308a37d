//! How far profiling has come, on a terminal; nothing elsewhere.

use crate::profiler::Status;
use fugato_core::Nanos;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Steps of the bar, which moves with time and not with points.
const STEPS: u64 = 1_000;

/// A bar, with the time left.
pub(super) struct Progress(ProgressBar);

impl Progress {
    pub(super) fn new() -> Self {
        // Hidden where standard error is no terminal. Drawn between visits only: a thread
        // that drew by itself would run beside what is measured.
        let bar = ProgressBar::with_draw_target(Some(STEPS), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{bar:30} {msg}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        Self(bar)
    }

    pub(super) fn show(&self, status: &Status<'_>) {
        let (spent, left) = (status.spent.as_nanos(), status.left.as_nanos());
        let all = spent.saturating_add(left).max(1);
        let part = u128::from(STEPS) * u128::from(spent) / u128::from(all);
        self.0.set_position(u64::try_from(part).unwrap_or(STEPS));
        self.0.set_message(message(status));
    }

    pub(super) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

fn message(status: &Status<'_>) -> String {
    let Status { model, point, .. } = status;
    let seconds = status
        .left
        .as_nanos()
        .div_ceil(Nanos::from_millis(1_000).as_nanos());
    let beside = match point.neighbours {
        0 => String::new(),
        busy => format!(", {busy} busy"),
    };
    let (covered, points) = (status.covered, status.points);
    let cut = status
        .legs
        .map_or_else(String::new, |legs| format!(" in {legs} legs"));
    let place = format!(
        "{model}{cut} batch {} share {}{beside}",
        point.batch, point.share
    );
    if covered < points {
        format!("{covered}/{points} points, about {seconds} s left: {place}")
    } else {
        format!("settling what is open, at most {seconds} s left: {place}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fugato_core::profile::PointKey;

    #[test]
    fn it_says_what_runs_and_how_long_it_takes() {
        let mut status = Status {
            model: "resnet50",
            legs: None,
            point: PointKey {
                batch: 8,
                share: 1,
                neighbours: 1,
            },
            covered: 3,
            points: 15,
            spent: Nanos::from_millis(1_000),
            left: Nanos::from_millis(12_345),
        };
        assert_eq!(
            message(&status),
            "3/15 points, about 13 s left: resnet50 batch 8 share 1, 1 busy"
        );
        status.legs = Some(12);
        assert_eq!(
            message(&status),
            "3/15 points, about 13 s left: resnet50 in 12 legs batch 8 share 1, 1 busy"
        );
        status.legs = None;
        status.covered = 15;
        status.point.neighbours = 0;
        assert_eq!(
            message(&status),
            "settling what is open, at most 13 s left: resnet50 batch 8 share 1"
        );
    }
}

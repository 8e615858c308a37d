//! When to start another worker, and when to stop doing so.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Restarts within [`WINDOW`] after which none follows. A request or a model that ends every
/// worker does so again and again: whoever watches the supervisor is to hear of it.
pub(super) const MOST: usize = 5;

/// The time over which restarts count. Workers that take minutes to load their models and
/// then end are a loop too.
pub(super) const WINDOW: Duration = Duration::from_secs(600);

/// The pause before the second restart within the window, and twice as long before each
/// further one; there is none before the first, since clients wait.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// The restarts so far.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    total: u64,
    recent: VecDeque<Instant>,
}

impl Restarts {
    /// How many there were.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Counts one more at `now`, where one is allowed; gives the pause before it.
    pub(super) fn another(&mut self, now: Instant) -> Option<Duration> {
        while let Some(first) = self.recent.front()
            && now.saturating_duration_since(*first) >= WINDOW
        {
            self.recent.pop_front();
        }
        let before = self.recent.len();
        if before >= MOST {
            return None;
        }
        self.recent.push_back(now);
        self.total += 1;
        let doublings = u32::try_from(before).unwrap_or(u32::MAX).checked_sub(1);
        Some(doublings.map_or(Duration::ZERO, |times| FIRST_PAUSE * 2u32.pow(times)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses(restarts: &mut Restarts, at: &[Instant]) -> Vec<Option<u128>> {
        let pause = |at: &Instant| restarts.another(*at);
        at.iter()
            .map(pause)
            .map(|pause| pause.map(|pause| pause.as_millis()))
            .collect()
    }

    #[test]
    fn pauses_grow_and_end_within_the_window() {
        let begun = Instant::now();
        let mut restarts = Restarts::default();
        let at = [begun; MOST + 1];
        let expected = [Some(0), Some(250), Some(500), Some(1000), Some(2000), None];
        assert_eq!(pauses(&mut restarts, &at), expected);
        assert_eq!(restarts.total(), 5);
        // Those who loop slowly have no more of them.
        let mut restarts = Restarts::default();
        let slow: Vec<Instant> = (0..6).map(|n| begun + WINDOW / 6 * n).collect();
        assert_eq!(pauses(&mut restarts, &slow).last(), Some(&None));
    }

    #[test]
    fn restarts_outside_the_window_are_forgotten() {
        let begun = Instant::now();
        let mut restarts = Restarts::default();
        let rare: Vec<Instant> = (0..20).map(|n| begun + WINDOW * n).collect();
        assert_eq!(pauses(&mut restarts, &rare), [Some(0); 20]);
        assert_eq!(restarts.total(), 20);
    }
}

//! Who ran how often of late.

use crate::flat::FlatMap;
use crate::id::ModelId;
use std::collections::{BTreeMap, VecDeque};

/// Sessions that are looked back on.
const SESSIONS: usize = 10;

/// Runs of each model in the last [`SESSIONS`] sessions, this one among them.
#[derive(Debug)]
pub(super) struct Scoreboard {
    /// The present one last.
    sessions: VecDeque<BTreeMap<ModelId, u32>>,
    total: FlatMap<ModelId, u32>,
}

impl Default for Scoreboard {
    fn default() -> Self {
        Self {
            sessions: VecDeque::from([BTreeMap::new()]),
            total: FlatMap::default(),
        }
    }
}

impl Scoreboard {
    /// Begins another session.
    pub(super) fn turn(&mut self) {
        self.sessions.push_back(BTreeMap::new());
        if self.sessions.len() > SESSIONS {
            let oldest = self.sessions.pop_front().unwrap_or_default();
            for (model, runs) in oldest {
                let total = self.total.entry(model);
                *total -= runs;
                if *total == 0 {
                    self.total.remove(model);
                }
            }
        }
    }

    /// Notes a run.
    pub(super) fn ran(&mut self, model: ModelId) {
        if let Some(session) = self.sessions.back_mut() {
            *session.entry(model).or_default() += 1;
            *self.total.entry(model) += 1;
        }
    }

    /// The runs of a model.
    pub(super) fn runs(&self, model: ModelId) -> u32 {
        self.total.get(model).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_count_for_ten_sessions() {
        let mut board = Scoreboard::default();
        board.ran(ModelId(1));
        for _ in 1..SESSIONS {
            board.turn();
        }
        board.ran(ModelId(1));
        assert_eq!(board.runs(ModelId(1)), 2);
        board.turn();
        assert_eq!(board.runs(ModelId(1)), 1, "the first is ten sessions ago");
        assert_eq!(board.runs(ModelId(2)), 0);
        for _ in 0..SESSIONS {
            board.turn();
        }
        assert!(board.total.keys().is_empty());
    }
}

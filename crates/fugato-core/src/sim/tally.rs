//! What is counted while a simulation runs.

use super::device::Used;
use super::histogram::Histogram;
use crate::time::{Nanos, Timestamp};

/// What happened in the measured time, for one policy; tallies of several devices add up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// The measured time.
    pub window: Nanos,
    /// Slices times measured time, of all devices, in slice-nanoseconds.
    pub device_time: u128,
    /// By model of the workload.
    pub models: Vec<ModelTally>,
    /// Actions of the schedulers, warm-up included.
    pub actions: u64,
    /// The hash of all actions; of several devices, of their hashes in order.
    pub action_hash: u64,
}

/// What happened to the requests of one model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelTally {
    /// Requests that arrived in the measured time; of a saturated model, that ended in it.
    pub requests: u64,
    /// Completed within the objective; of a saturated model, completed.
    pub good: u64,
    /// Completed, and too late; or not ended long after the end.
    pub late: u64,
    /// Refused on arrival.
    pub rejected: u64,
    /// Accepted, and given up before they ran.
    pub dropped: u64,
    /// Of tasks that failed.
    pub failed: u64,
    /// Latencies of completed requests, from arrival to end.
    pub latencies: Histogram,
    /// What it had of the devices in the measured time.
    pub used: Used,
}

impl Tally {
    /// Adds what happened on other devices in the same time, for the same models.
    ///
    /// # Panics
    /// Where the other's models are not those of this one.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(
            self.models.len(),
            other.models.len(),
            "tallies of other models"
        );
        self.window = self.window.max(other.window);
        self.device_time += other.device_time;
        self.actions += other.actions;
        self.action_hash = self.action_hash.rotate_left(1) ^ other.action_hash;
        for (model, other) in self.models.iter_mut().zip(&other.models) {
            model.merge(other);
        }
    }

    /// The tally among `models` models, of which its own are these.
    ///
    /// # Panics
    /// Where a model is not among them.
    #[must_use]
    pub fn spread(self, models: usize, own: &[usize]) -> Self {
        let mut spread = vec![ModelTally::default(); models];
        for (model, &place) in self.models.into_iter().zip(own) {
            spread[place] = model;
        }
        Self {
            models: spread,
            ..self
        }
    }
}

impl ModelTally {
    /// Counts how a request ended.
    pub(super) fn completed(&mut self, received: Timestamp, at: Timestamp, within: Option<Nanos>) {
        let took = at - received;
        self.latencies.record(took);
        if within.is_none_or(|slo| took <= slo) {
            self.good += 1;
        } else {
            self.late += 1;
        }
    }

    fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.good += other.good;
        self.late += other.late;
        self.rejected += other.rejected;
        self.dropped += other.dropped;
        self.failed += other.failed;
        self.latencies.merge(&other.latencies);
        self.used = self.used.plus(other.used);
    }

    /// The part of its requests that were good; `None` without any.
    pub fn attainment(&self) -> Option<f64> {
        (self.requests > 0).then(|| self.good as f64 / self.requests as f64)
    }
}

impl Used {
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            held: self.held + other.held,
            useful: self.useful + other.useful,
            runs: self.runs + other.runs,
            items: self.items + other.items,
        }
    }

    pub(super) fn minus(self, earlier: Self) -> Self {
        Self {
            held: self.held - earlier.held,
            useful: self.useful - earlier.useful,
            runs: self.runs - earlier.runs,
            items: self.items - earlier.items,
        }
    }
}

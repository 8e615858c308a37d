//! The streams of a lane: a set for each priority that its models have.
//!
//! **Invariant:** legs of a lane run in the order in which they came, whatever the priorities of
//! their models: one that is on other streams than the leg before it waits for that.

use super::super::backend::{Backend, Fault, FaultKind};
use super::super::priority::Priorities;
use super::Core;
use super::model::LaneKey;
use super::run::Tools;
use crate::urgency::Urgency;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

/// What the thread of a lane works with.
pub(super) struct LaneTools<B: Backend> {
    lane: LaneKey,
    /// Whether the thread is one of the device.
    has_entered: bool,
    by_priority: BTreeMap<i32, Arc<Tools<B>>>,
    /// The priority of what was given to the device last.
    last: Option<i32>,
    /// By which streams of one priority wait for those of another.
    passed: Option<B::Event>,
}

impl<B: Backend> LaneTools<B> {
    /// Of a lane that has no streams yet.
    pub(super) fn new(lane: LaneKey) -> Self {
        Self {
            lane,
            has_entered: false,
            by_priority: BTreeMap::new(),
            last: None,
            passed: None,
        }
    }

    /// What a model of such an urgency is run with, after all that the lane was given before.
    pub(super) fn of(&mut self, core: &Core<B>, urgency: Urgency) -> Result<Arc<Tools<B>>, Fault> {
        let backend = &core.backend;
        if !self.has_entered {
            backend.enter()?;
            self.has_entered = true;
        }
        let priority = core.priorities()?.of(urgency);
        let tools = match self.by_priority.entry(priority) {
            Entry::Occupied(known) => Arc::clone(known.get()),
            Entry::Vacant(vacant) => {
                let (partition, _) = self.lane;
                let atoms = core.spec.partitions[usize::from(partition.0)].atoms;
                let made = Tools::new(backend, (self.lane, atoms), priority)?;
                Arc::clone(vacant.insert(Arc::new(made)))
            }
        };
        if let Some(last) = self.last.filter(|&last| last != priority)
            && let Some(before) = self.by_priority.get(&last)
        {
            let passed = match &mut self.passed {
                Some(passed) => passed,
                none => none.insert(backend.event()?),
            };
            backend.record(passed, &before.compute)?;
            backend.wait(&tools.compute, passed)?;
        }
        self.last = Some(priority);
        Ok(tools)
    }
}

impl<B: Backend> Core<B> {
    /// The priorities of the device's streams. One that does not tell has none, and a warning says
    /// so once.
    fn priorities(&self) -> Result<Priorities, Fault> {
        if let Some(known) = self.priorities.get() {
            return Ok(*known);
        }
        let asked = match self.backend.priorities() {
            Err(fault) if fault.kind == FaultKind::Lost => return Err(fault),
            asked => asked,
        };
        Ok(*self.priorities.get_or_init(|| {
            asked.unwrap_or_else(|fault| {
                tracing::warn!(%fault, "all streams of the device have the same priority");
                Priorities::NONE
            })
        }))
    }
}

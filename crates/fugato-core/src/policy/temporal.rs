//! `temporal`: one model at a time on the whole device, in turns whose lengths are in
//! proportion to the models' objectives.
//!
//! # Source
//! Temporal sharing as D-STACK (TCC 2024, section on scheduling baselines) and GSLICE
//! (SoCC 2020) compare with it: time slices proportional to the SLO. Ours differs where a
//! paper says nothing: the slices of all models fill one cycle of the largest objective (a
//! session of D-STACK's) unless another is set; runs are not preempted, so what a turn
//! overruns is owed and paid in the turns that follow (deficit round robin, Shreedhar and
//! Varghese, SIGCOMM 1995): over many turns each model that always has requests gets just
//! its part of the time. A model without requests gives its turn away and saves nothing up.
//! Requests that cannot end in time are dropped as by `edf`; where deadlines are only
//! observed, none are.
//!
//! | symbol | here |
//! |---|---|
//! | slice of model i, `cycle * SLO_i / sum SLO` | `Slot::slice` |
//! | deficit | `Slot::credit` |

use super::turn::{Turn, whole_device};
use super::{Backlog, CapacityRule, Policy, QueueOrder, Ran, ServiceBound, Verdict};
use crate::id::{DeviceId, ModelId};
use crate::sched::{ReadyHead, View};
use crate::time::Nanos;
use std::collections::BTreeMap;

/// The cycle where no model has an objective.
const CYCLE: Nanos = Nanos::from_millis(100);

/// The policy `temporal`.
#[derive(Debug)]
pub struct Temporal {
    cycle: Option<Nanos>,
    devices: BTreeMap<DeviceId, Cycle>,
}

/// The turns on one device.
#[derive(Debug, Default)]
struct Cycle {
    /// Of [`View::configuration`].
    configuration: Option<u64>,
    /// Rising by model.
    slots: Vec<Slot>,
    /// Whose turn it is.
    turn: usize,
}

/// A model's part of a cycle.
#[derive(Clone, Copy, Debug)]
struct Slot {
    model: ModelId,
    slice: i64,
    /// Time that it may still run, in nanoseconds; what it owes where negative.
    credit: i64,
}

impl Temporal {
    /// Turns of all models fill a `cycle`, or one as long as the largest objective.
    pub const fn new(cycle: Option<Nanos>) -> Self {
        Self {
            cycle,
            devices: BTreeMap::new(),
        }
    }
}

impl Policy for Temporal {
    fn name(&self) -> &'static str {
        "temporal"
    }

    fn capacity(&self) -> CapacityRule {
        CapacityRule::Exclusive
    }

    /// None in launches: a turn holds as many as fit into it. In time, a model waits for a
    /// cycle and one run of each other model at most.
    fn service_bound(&self) -> Option<ServiceBound> {
        None
    }

    fn queue_order(&self) -> QueueOrder {
        QueueOrder::Arrival
    }

    /// Its own: the turns of the others come whatever waits for them.
    fn backlog(&self) -> Backlog {
        Backlog::Own
    }

    fn decide(&mut self, view: &View<'_>) -> Verdict {
        if let Some(verdict) = view.continue_first() {
            return verdict;
        }
        let verdict = view.devices().find_map(|device| {
            let (at, start) = whole_device(view, device)?;
            view.first_ready(device)?;
            let cycle = self.devices.entry(device).or_default();
            cycle.plan(view, device, self.cycle);
            let head = cycle.next(view, device)?;
            let turn = Turn { head, at, start };
            let most = view.max_batch(head.model);
            match turn.grows_until(view, most) {
                Some(until) => Some(Verdict::Park {
                    model: head.model,
                    until: Some(until),
                }),
                None => Some(turn.verdict(view, most, view.planned_batch(head.model))),
            }
        });
        verdict.unwrap_or(Verdict::WAIT)
    }

    fn ran(&mut self, ran: &Ran) {
        let cycle = self.devices.get_mut(&ran.device);
        if let Some(slot) = cycle.and_then(|cycle| cycle.slot(ran.model)) {
            slot.credit -= signed(ran.took);
        }
    }
}

impl Cycle {
    fn slot(&mut self, model: ModelId) -> Option<&mut Slot> {
        let place = self.slots.binary_search_by_key(&model, |slot| slot.model);
        self.slots.get_mut(place.ok()?)
    }

    /// Cuts the slices anew where models or objectives have changed.
    fn plan(&mut self, view: &View<'_>, device: DeviceId, cycle: Option<Nanos>) {
        if self.configuration == Some(view.configuration()) {
            return;
        }
        self.configuration = Some(view.configuration());
        let whose = self.slots.get(self.turn).map(|slot| slot.model);
        let models: Vec<ModelId> = view.models(device).collect();
        let longest = models.iter().filter_map(|&model| view.slo(model)).max();
        let longest = longest.unwrap_or(CYCLE);
        let cycle = cycle.unwrap_or(longest);
        // A model without an objective is in no hurry.
        let slo = |model| view.slo(model).unwrap_or(longest).as_nanos().max(1);
        let all: u64 = models.iter().map(|&model| slo(model)).sum();
        let slots = models.iter().map(|&model| {
            let slice = signed(cycle.scaled(slo(model), all)).max(1);
            let known = self.slots.iter().find(|slot| slot.model == model);
            let credit = known.map_or(0, |slot| slot.credit.min(slice));
            Slot {
                model,
                slice,
                credit,
            }
        });
        self.slots = slots.collect();
        let turn = self.slots.iter().position(|slot| Some(slot.model) >= whose);
        self.turn = turn.unwrap_or(0);
    }

    /// The head of the model whose turn it is, where it can start.
    ///
    /// # Cost
    /// The models up to the next one that is ready and owes nothing; at most twice all.
    fn next(&mut self, view: &View<'_>, device: DeviceId) -> Option<ReadyHead> {
        let on_lanes: Vec<_> = view.on_lanes(device).collect();
        let runs = |model| on_lanes.iter().any(|&(other, _)| other == model);
        let left = |slot: &Slot| {
            let own = on_lanes.iter().filter(|&&(model, _)| model == slot.model);
            let spent: i64 = own.filter_map(|&(_, run)| run).map(signed).sum();
            slot.credit - spent
        };
        for again in [true, false] {
            for _ in 0..self.slots.len() {
                let slot = self.slots.get_mut(self.turn)?;
                match view.head(slot.model) {
                    Some(head) if left(slot) > 0 => return Some(head),
                    // Its turn goes on when the leg that holds its slot ends.
                    None if runs(slot.model) && view.waits(slot.model) && left(slot) > 0 => {
                        return None;
                    }
                    None if !view.waits(slot.model) => slot.credit = slot.credit.min(0),
                    _ => {}
                }
                self.turn = (self.turn + 1) % self.slots.len();
                let next = &mut self.slots[self.turn];
                next.credit += next.slice;
            }
            if again {
                self.pass_turns(view, left);
            }
        }
        None
    }

    /// Lets so many cycles go by in which nobody can run that one of those who wait is out of
    /// debt.
    fn pass_turns(&mut self, view: &View<'_>, left: impl Fn(&Slot) -> i64) {
        let ready = self
            .slots
            .iter()
            .filter(|slot| view.head(slot.model).is_some());
        let cycles = ready
            .map(|slot| ((slot.slice - left(slot)) / slot.slice).max(0))
            .min();
        let cycles = cycles.unwrap_or(0);
        for slot in &mut self.slots {
            slot.credit = slot
                .credit
                .saturating_add(cycles.saturating_mul(slot.slice));
            if !view.waits(slot.model) {
                slot.credit = slot.credit.min(0);
            }
        }
    }
}

fn signed(time: Nanos) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

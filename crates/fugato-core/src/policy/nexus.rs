//! `nexus`: models packed into duty cycles, each with the batch that its rate fills in one
//! cycle; what would hold up a planned batch is dropped early.
//!
//! # Source
//! Nexus (Shen et al., SOSP 2019, sections on squishy bin packing and on early drop). A
//! session (a model with rate r and objective L) takes whole devices while its rate fills
//! batches of B, the largest with `2 l(B) <= L`; what is left of it joins others in a cycle:
//! the largest b with `l(b) + b / r <= L` gives the cycle `d = b / r`, and sessions share the
//! shortest of their cycles if their batches for it fit in it. The fullest first, each on the
//! fullest device that holds it. Ours differs: the number of devices is given, so where none
//! holds a session it goes to the least full one, and a device whose sessions have no cycle
//! in which all are in time plans for one that serves what comes late enough in it (the rest is
//! dropped early); rates are observed here, not told by a frontend; a device does not wait for the end of a cycle that ends early;
//! prefix batching and the splitting of query latencies are left out. Early drop is
//! [`super::turn`]'s.
//!
//! | symbol | here |
//! |---|---|
//! | l(b) | `Session::runs` |
//! | r, L | `Session::rate`, `Session::objective` |
//! | duty cycle d | `Session::cycle`, [`cycle_of`] |
//! | occupancy | `Session::occupancy` |

use super::turn::{Turn, whole_device};
use super::{Backlog, CapacityRule, Policy, QueueOrder, ServiceBound, Verdict};
use crate::id::{BatchSize, DeviceId, ModelId, Share};
use crate::sched::View;
use crate::time::{Nanos, Timestamp};
use std::collections::BTreeMap;

/// How often models are packed anew: a few times in the second that rates are counted over.
const PLAN_EVERY: Nanos = Nanos::from_millis(250);

/// Rates are counted over about a second.
const RATE_OVER: Nanos = Nanos::from_millis(1_000);

/// Stands in for the objective of a model that has none, in seconds.
const NO_OBJECTIVE_S: f64 = 1.0;

/// Rounds in which the batches of an overloaded device and its cycle are fitted to each other:
/// longer cycles gather larger batches, of which there are a dozen.
const ROUNDS: u32 = 16;

/// The policy `nexus`.
#[derive(Debug, Default)]
pub struct Nexus {
    configuration: Option<u64>,
    due: Timestamp,
    /// When a rate of each model was first seen.
    asked: BTreeMap<ModelId, Timestamp>,
    nodes: BTreeMap<DeviceId, Node>,
}

/// What one device runs, in turns.
#[derive(Clone, Debug, Default)]
struct Node {
    /// Rising by model.
    cycle: Vec<Planned>,
    /// Whose turn comes next.
    next: usize,
}

#[derive(Clone, Copy, Debug)]
struct Planned {
    model: ModelId,
    batch: BatchSize,
}

/// What is to be packed.
#[derive(Clone, Debug)]
struct Session {
    model: ModelId,
    /// Items per second.
    rate: f64,
    /// In seconds.
    objective: f64,
    max_batch: BatchSize,
    /// Batches and their run times in seconds, rising; empty where nothing is known.
    runs: Vec<(BatchSize, f64)>,
}

impl Policy for Nexus {
    fn name(&self) -> &'static str {
        "nexus"
    }

    fn capacity(&self) -> CapacityRule {
        CapacityRule::Exclusive
    }

    /// None: every model has its turn once in its device's cycle, but a new plan may move it
    /// to another device's.
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
        if self.configuration != Some(view.configuration()) || view.now() >= self.due {
            self.configuration = Some(view.configuration());
            self.due = view.now() + PLAN_EVERY;
            self.plan(view);
        }
        let verdict = view.devices().find_map(|device| {
            let (at, start) = whole_device(view, device)?;
            view.first_ready(device)?;
            let node = self.nodes.get_mut(&device)?;
            let count = node.cycle.len();
            let turns = (0..count).map(|step| (node.next + step) % count);
            let (place, head) = turns
                .filter_map(|place| Some((place, view.head(node.cycle[place].model)?)))
                .next()?;
            let turn = Turn { head, at, start };
            let batch = node.cycle[place].batch;
            node.next = place;
            if let Some(until) = turn.grows_until(view, batch) {
                return Some(Verdict::Park {
                    model: head.model,
                    until: Some(until),
                });
            }
            let verdict = turn.verdict(view, batch, Some(batch));
            if let Verdict::Launch { .. } = verdict {
                node.next = (place + 1) % count;
            }
            Some(verdict)
        });
        verdict.unwrap_or(Verdict::WAIT)
    }
}

impl Nexus {
    /// What the rate of a model that was first asked for less than a second ago is to be
    /// multiplied by, as it is counted over a whole one.
    fn since_asked(&mut self, view: &View<'_>, model: ModelId, rate: f64) -> f64 {
        if rate <= 0.0 {
            return 1.0;
        }
        let first = *self.asked.entry(model).or_insert(view.now());
        let seconds = (view.now() - first + PLAN_EVERY).as_secs_f64();
        (RATE_OVER.as_secs_f64() / seconds).max(1.0)
    }

    /// Packs all models onto the devices that are present.
    ///
    /// # Cost
    /// O(models^2) look-ups of run times, and ten predictions per model.
    fn plan(&mut self, view: &View<'_>) {
        let devices: Vec<DeviceId> = view.devices().collect();
        self.asked.retain(|&model, _| view.knows(model));
        let mut sessions: BTreeMap<ModelId, (Session, Vec<DeviceId>)> = BTreeMap::new();
        for &device in &devices {
            for model in view.models(device) {
                let known = sessions.entry(model);
                let known = known.or_insert_with(|| {
                    let mut session = Session::of(view, device, model);
                    session.rate *= self.since_asked(view, model, session.rate);
                    (session, Vec::new())
                });
                known.1.push(device);
            }
        }
        let mut bins: BTreeMap<DeviceId, Vec<Session>> = BTreeMap::new();
        bins.extend(devices.iter().map(|&device| (device, Vec::new())));
        let mut left = whole_devices(sessions.into_values().collect(), &mut bins);
        left.sort_by(|(a, _), (b, _)| {
            let fullest = b.occupancy().total_cmp(&a.occupancy());
            fullest.then(a.model.cmp(&b.model))
        });
        for (session, hosts) in left {
            pack(session, &hosts, &mut bins);
        }
        let nodes = bins.into_iter().map(|(device, sessions)| {
            let known = self.nodes.get(&device);
            let whose = known.and_then(|node| Some(node.cycle.get(node.next)?.model));
            (device, Node::of(&sessions, whose))
        });
        self.nodes = nodes.collect();
    }
}

impl Node {
    /// The cycle of these sessions, going on with the turn of `whose`.
    fn of(sessions: &[Session], whose: Option<ModelId>) -> Self {
        let batches = cycle_of(sessions).unwrap_or_else(|| overloaded(sessions));
        let models = sessions.iter().map(|session| session.model);
        let planned = models.zip(batches);
        let mut cycle: Vec<Planned> = planned
            .map(|(model, batch)| Planned { model, batch })
            .collect();
        cycle.sort_by_key(|planned| planned.model);
        let next = cycle
            .iter()
            .position(|planned| Some(planned.model) >= whose);
        Self {
            next: next.unwrap_or(0),
            cycle,
        }
    }
}

/// Gives sessions that fill whole devices those, while another is left for the others; gives
/// back what is left of all sessions.
fn whole_devices(
    sessions: Vec<(Session, Vec<DeviceId>)>,
    bins: &mut BTreeMap<DeviceId, Vec<Session>>,
) -> Vec<(Session, Vec<DeviceId>)> {
    let mut left = Vec::new();
    let mut empty = bins.len();
    for (mut session, hosts) in sessions {
        for device in &hosts {
            let filled = session.throughput();
            let bin = bins.get_mut(device).filter(|bin| bin.is_empty());
            if let Some(bin) = bin.filter(|_| session.rate >= filled && empty > 1) {
                empty -= 1;
                bin.push(Session {
                    rate: filled,
                    ..session.clone()
                });
                session.rate -= filled;
            }
        }
        left.push((session, hosts));
    }
    left
}

/// Puts a session on the fullest device that holds it besides what is there, or on the least
/// full one where none does.
fn pack(session: Session, hosts: &[DeviceId], bins: &mut BTreeMap<DeviceId, Vec<Session>>) {
    let load = |bin: &Vec<Session>| bin.iter().map(Session::occupancy).sum::<f64>();
    let mut fullest: Option<(f64, DeviceId)> = None;
    let mut emptiest: Option<(f64, DeviceId)> = None;
    for &device in hosts {
        let Some(bin) = bins.get_mut(&device) else {
            continue;
        };
        // A part of it fills the device already.
        if bin.iter().any(|other| other.model == session.model) {
            continue;
        }
        let full = load(bin);
        bin.push(session.clone());
        let fits = cycle_of(bin).is_some();
        bin.pop();
        if fits && fullest.is_none_or(|(most, _)| full > most) {
            fullest = Some((full, device));
        }
        if emptiest.is_none_or(|(least, _)| full < least) {
            emptiest = Some((full, device));
        }
    }
    let chosen = fullest.or(emptiest).map(|(_, device)| device);
    if let Some(bin) = chosen.and_then(|device| bins.get_mut(&device)) {
        bin.push(session);
    }
}

/// The batch of each session in one cycle of all: the shortest of their own cycles. `None`
/// where the batches do not fit in it.
fn cycle_of(sessions: &[Session]) -> Option<Vec<BatchSize>> {
    let cycles = sessions.iter().map(Session::cycle);
    let cycle = cycles.min_by(f64::total_cmp)?;
    let mut busy = 0.0;
    let mut batches = Vec::with_capacity(sessions.len());
    for session in sessions {
        let (batch, run) = session.filled_in(cycle)?;
        busy += run;
        if busy > cycle || run + cycle > session.objective {
            return None;
        }
        batches.push(batch);
    }
    Some(batches)
}

/// The batch of each session on a device that cannot serve them all: what comes while it is still
/// in time for its turn, in a cycle as long as all these batches take. What comes earlier in the
/// cycle is dropped when the turn comes.
fn overloaded(sessions: &[Session]) -> Vec<BatchSize> {
    let mut batches: Vec<(BatchSize, f64)> = sessions.iter().map(Session::smallest).collect();
    for _ in 0..ROUNDS {
        let cycle: f64 = batches.iter().map(|&(_, run)| run).sum();
        let next: Vec<_> = sessions
            .iter()
            .map(|session| session.in_time_after(cycle))
            .collect();
        let same = next.iter().map(|&(batch, _)| batch);
        if same.eq(batches.iter().map(|&(batch, _)| batch)) {
            break;
        }
        batches = next;
    }
    batches.into_iter().map(|(batch, _)| batch).collect()
}

impl Session {
    fn of(view: &View<'_>, device: DeviceId, model: ModelId) -> Self {
        let max = view.max_batch(model);
        // One and a half between the powers of two: finer steps than that are noise.
        let powers = (0..31).flat_map(|power| [1_u32 << power, (1_u32 << power) * 3 / 2]);
        let mut batches: Vec<u32> = powers.take_while(|&batch| batch < max.0).collect();
        batches.push(max.0);
        batches.dedup();
        let whole = (view.slices(device), Share(0));
        let careful = view.admission_quantile();
        let runs = batches.into_iter().filter_map(|batch| {
            let run = view.predict_at(model, BatchSize(batch), whole, careful)?;
            Some((BatchSize(batch), run.time.as_secs_f64()))
        });
        Self {
            model,
            max_batch: max,
            rate: view.rate(model),
            objective: view.slo(model).map_or(NO_OBJECTIVE_S, Nanos::as_secs_f64),
            runs: runs.collect(),
        }
    }

    /// The largest batch of which two fit into the objective; the smallest where none does.
    fn saturated(&self) -> Option<(BatchSize, f64)> {
        let fits = |&&(_, run): &&(BatchSize, f64)| 2.0 * run <= self.objective;
        let largest = self.runs.iter().rev().find(fits);
        largest.or(self.runs.first()).copied()
    }

    fn largest(&self) -> BatchSize {
        self.saturated().map_or(self.max_batch, |(batch, _)| batch)
    }

    /// Items per second of a device that runs nothing else; without bound where nothing is
    /// known.
    fn throughput(&self) -> f64 {
        let largest = self.saturated();
        largest.map_or(f64::INFINITY, |(batch, run)| f64::from(batch.0) / run)
    }

    fn smallest(&self) -> (BatchSize, f64) {
        self.runs.first().copied().unwrap_or((self.max_batch, 0.0))
    }

    /// The cycle in which its rate fills the largest batch that is in time after one; where even
    /// a single item takes longer to come, what the objective leaves.
    fn cycle(&self) -> f64 {
        let in_time = self.runs.iter().rev().find(|&&(batch, run)| {
            run + f64::from(batch.0) / self.rate <= self.objective && 2.0 * run <= self.objective
        });
        match (in_time, self.runs.first()) {
            (Some(&(batch, run)), _) => (f64::from(batch.0) / self.rate).max(run),
            (None, Some(&(_, run))) => (self.objective - run).max(run),
            (None, None) => f64::INFINITY,
        }
    }

    /// The batch that its rate fills in a cycle, and its time. `None` where it is larger than any
    /// that is known.
    fn filled_in(&self, cycle: f64) -> Option<(BatchSize, f64)> {
        if self.runs.is_empty() {
            return Some((self.max_batch, 0.0));
        }
        if self.rate <= 0.0 {
            // Nobody asks: if somebody does, it is served, and planned for the next time.
            return Some((self.largest(), 0.0));
        }
        let fills = |&&(batch, _): &&(BatchSize, f64)| f64::from(batch.0) >= self.rate * cycle;
        self.runs.iter().find(fills).copied()
    }

    /// The smallest batch that holds what comes in the last part of a cycle in which it is still
    /// in time, and its time; the largest where none does.
    fn in_time_after(&self, cycle: f64) -> (BatchSize, f64) {
        if self.rate <= 0.0 {
            return (self.largest(), 0.0);
        }
        let holds = |&&(batch, run): &&(BatchSize, f64)| {
            f64::from(batch.0) >= self.rate * cycle.min(self.objective - run)
        };
        let found = self.runs.iter().find(holds).or(self.runs.last());
        found.copied().unwrap_or((self.max_batch, 0.0))
    }

    /// The part of a device that it takes by itself.
    fn occupancy(&self) -> f64 {
        let cycle = self.cycle();
        self.filled_in(cycle).map_or(1.0, |(_, run)| run / cycle)
    }
}

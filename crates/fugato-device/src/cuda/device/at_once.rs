//! Groups of a leg side by side: a session for each, captured on streams that fork and join
//! into one graph of ours for each slot and batch.
//!
//! The graphs are made as a model is loaded, in the lanes that are made ready then, and run on
//! the lane's stream like the leg's one session, which is there besides: it runs the batches that
//! have no graph, and the leg where anything below goes wrong.
//!
//! **Invariant:** a graph serves only after what it consists of was looked at, and after it
//! answered two inputs as its sessions then did by themselves, and about as the leg's one session
//! did, with other sessions run in between and nothing left of any answer where it puts its own;
//! and both again after the last capture.
//! Sessions that are in graphs run by themselves only while no graph of theirs does: before their
//! model is known to anybody.

mod trial;

use super::super::backend::{Backend, Fault, FaultKind, How};
use super::super::graph::GraphNodes;
use super::Core;
use super::answers::Filling;
use super::model::LoadedModel;
use super::run::Tools;
use super::session::{Batch, LaneSessions, With};
use fugato_core::SlotIndex;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

/// Runs of each session before its capture, over the same places: the runtime takes memory and
/// makes plans in the first two, and the third shows that it is done.
const WARM_UPS: usize = 3;

/// Captures of one run, as long as memory of the device goes meanwhile: others take some for as
/// long as they bring models up, and what a session takes is there after the first.
pub(super) const CAPTURES: usize = 8;

/// A buffer set and a batch in it.
type Key = (SlotIndex, u32);

/// The groups of a leg on one lane.
pub(super) struct AtOnce<B: Backend> {
    // In the order in which they go: graphs use the memory of what is bound, and of sessions.
    graphs: HashMap<Key, B::Graph>,
    /// `stages[stage][group]`; the group of a number is on the stream of that number.
    stages: Vec<Vec<Group<B>>>,
    streams: Vec<Arc<B::Stream>>,
    /// Whether it was said that some of it runs in another partition.
    told_elsewhere: bool,
}

/// A group: a part of the model, in a session of its own.
struct Group<B: Backend> {
    bound: HashMap<Key, B::Binding>,
    session: B::Session,
    part: usize,
}

/// The events by which streams fork from the first and join it again.
struct Forks<B: Backend> {
    fork: B::Event,
    /// One for each stream.
    joins: Vec<B::Event>,
}

/// The answers of a leg, by output.
type Answers = Vec<Vec<u8>>;

impl<B: Backend> AtOnce<B> {
    /// Enqueues the run of a slot and batch; `None` where there is no graph of it.
    pub(super) fn launch(
        &self,
        (backend, stream): With<'_, B>,
        key: Key,
    ) -> Option<Result<(), Fault>> {
        let graph = self.graphs.get(&key)?;
        Some(backend.launch(graph, stream))
    }

    fn forks(&self, backend: &B) -> Result<Forks<B>, Fault> {
        let joins = self.streams.iter().map(|_| backend.event());
        Ok(Forks {
            fork: backend.event()?,
            joins: joins.collect::<Result<_, _>>()?,
        })
    }

    /// The stream that all others fork from and join.
    fn trunk(&self) -> Result<&Arc<B::Stream>, Fault> {
        let none = || Fault::other("a leg has no groups");
        self.streams.first().ok_or_else(none)
    }

    /// Enqueues all groups once: those of a stage each on a stream, all of them after the stage
    /// before. What comes on the first stream afterwards comes after all of them.
    fn enqueue(
        &mut self,
        backend: &B,
        (forks, key): (&Forks<B>, Key),
        how: How,
    ) -> Result<(), Fault> {
        let unbound = || Fault::other("a group is bound to no such batch");
        let (first, others) = self.streams.split_first().ok_or_else(unbound)?;
        for stage in &mut self.stages {
            let others = &others[..stage.len().saturating_sub(1).min(others.len())];
            if !others.is_empty() {
                backend.record(&forks.fork, first)?;
            }
            for other in others {
                backend.wait(other, &forks.fork)?;
            }
            for group in &mut *stage {
                let binding = group.bound.get_mut(&key).ok_or_else(unbound)?;
                backend.run(binding, how)?;
            }
            for (other, join) in others.iter().zip(&forks.joins) {
                backend.record(join, other)?;
                backend.wait(first, join)?;
            }
        }
        Ok(())
    }
}

impl<B: Backend> LoadedModel<B> {
    /// Notes that the groups of a leg run one after the other, and says once for the model why.
    pub(super) fn tell_in_turn(&self, leg: usize, reason: &Fault) {
        if let Some(in_turn) = self.in_turn.get(leg) {
            in_turn.store(true, Ordering::Relaxed);
        }
        if !self.told_in_turn.swap(true, Ordering::Relaxed) {
            let (_, origin) = B::describe(&self.model);
            tracing::warn!(
                model = %origin.display(),
                leg,
                %reason,
                "groups of the leg, and maybe of others, run one after the other"
            );
        }
    }

    /// As [`tell_in_turn`](Self::tell_in_turn), of all legs that have groups at once.
    pub(super) fn tell_all_in_turn(&self, reason: &Fault) {
        for leg in (0..self.legs()).filter(|&leg| self.is_at_once(leg)) {
            self.tell_in_turn(leg, reason);
        }
    }

    /// Whether groups of a leg are to run side by side.
    fn is_at_once(&self, leg: usize) -> bool {
        !self.course.at_once[leg].is_empty() && !self.in_turn[leg].load(Ordering::Relaxed)
    }

    /// How many legs run their groups side by side in every lane that has the model.
    pub(super) fn legs_at_once(&self) -> usize {
        let lanes = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let has = |leg: usize| {
            lanes.values().all(|lane| {
                let lane = lane.lock().unwrap_or_else(PoisonError::into_inner);
                lane.at_once[leg].is_some()
            })
        };
        match lanes.is_empty() {
            true => 0,
            false => (0..self.legs()).filter(|&leg| has(leg)).count(),
        }
    }
}

impl<B: Backend> Tools<B> {
    /// Makes graphs of the legs that have groups at once, for all slots and the likeliest
    /// batches. What stands against it is told, and leaves that leg as it is without.
    ///
    /// Of a model that nobody else knows of, on this lane's thread.
    ///
    /// # Errors
    /// Where the device is lost, or does not come to the end of what it was given.
    pub(super) fn put_side_by_side(
        &self,
        core: &Core<B>,
        model: &LoadedModel<B>,
        lane: &mut LaneSessions<B>,
    ) -> Result<(), Fault> {
        for leg in (0..model.legs()).filter(|&leg| model.is_at_once(leg)) {
            match self.sessions_of_groups(&core.backend, model, leg) {
                Ok(made) => lane.at_once[leg] = Some(made),
                Err(fault) => self.in_turn(core, (model, &mut *lane), leg, fault)?,
            }
        }
        let mut batches = Vec::new();
        for rows in model.warm_batches() {
            for (index, slot) in (0..).map(SlotIndex).zip(&model.slots) {
                batches.push(Batch { index, slot, rows });
            }
        }
        for batch in &batches {
            if let Err(fault) = self.make_graphs(core, (model, &mut *lane), batch) {
                self.all_in_turn(core, (model, &mut *lane), &fault)?;
            }
        }
        // Their sessions have run over other batches and slots since.
        for batch in &batches {
            if let Err(fault) = self.try_graphs(core, (model, &mut *lane), batch) {
                self.all_in_turn(core, (model, &mut *lane), &fault)?;
            }
        }
        self.fill(core, model, Filling::Zeros, None)
    }

    /// Gives all graphs and their sessions up: the model, and not its graphs, refuses what it was
    /// tried with.
    fn all_in_turn(
        &self,
        core: &Core<B>,
        (model, lane): (&LoadedModel<B>, &mut LaneSessions<B>),
        fault: &Fault,
    ) -> Result<(), Fault> {
        (0..model.legs())
            .try_for_each(|leg| self.in_turn(core, (model, &mut *lane), leg, fault.clone()))
    }

    /// Gives a leg's graphs and their sessions up.
    fn in_turn(
        &self,
        core: &Core<B>,
        (model, lane): (&LoadedModel<B>, &mut LaneSessions<B>),
        leg: usize,
        fault: Fault,
    ) -> Result<(), Fault> {
        if fault.kind == FaultKind::Lost {
            return Err(fault);
        }
        if model.course.at_once[leg].is_empty() {
            return Ok(());
        }
        // What was enqueued uses their memory.
        self.settle(core, &self.compute)?;
        let streams = lane.at_once[leg]
            .iter()
            .flat_map(|at_once| &at_once.streams);
        for stream in streams {
            match self.settle(core, stream) {
                // Its capture was broken off: nothing of that runs, and all before was waited
                // for.
                Err(fault) if fault.kind == FaultKind::Capture => {}
                settled => settled?,
            }
        }
        lane.at_once[leg] = None;
        model.tell_in_turn(leg, &fault);
        Ok(())
    }

    /// A session for each group of a leg.
    fn sessions_of_groups(
        &self,
        backend: &B,
        model: &LoadedModel<B>,
        leg: usize,
    ) -> Result<AtOnce<B>, Fault> {
        let stages = &model.course.at_once[leg];
        // Before sessions are made, which takes longer, what no session helps.
        if let Some(slot) = model.slots.first() {
            let batch = Batch {
                index: SlotIndex(0),
                slot,
                rows: model.limits.max_batch,
            };
            for &part in stages.iter().flatten() {
                model.places(part, &batch)?;
            }
        }
        let width = stages.iter().map(Vec::len).max().unwrap_or(0);
        let streams = (0..width).map(|_| self.stream(backend));
        let streams: Vec<_> = streams.collect::<Result<_, _>>()?;
        let group = |(&part, stream): (&usize, _)| {
            Ok(Group {
                bound: HashMap::new(),
                session: model.group_session((backend, stream), part)?,
                part,
            })
        };
        let stage = |stage: &Vec<usize>| stage.iter().zip(&streams).map(group).collect();
        Ok(AtOnce {
            graphs: HashMap::new(),
            stages: stages.iter().map(stage).collect::<Result<_, Fault>>()?,
            streams,
            told_elsewhere: false,
        })
    }

    /// Makes the graphs of all legs for a slot and batch, and tries them.
    ///
    /// # Errors
    /// Where the model, run in the sessions of its legs, fails, or the device does.
    fn make_graphs(
        &self,
        core: &Core<B>,
        (model, lane): (&LoadedModel<B>, &mut LaneSessions<B>),
        batch: &Batch<'_, B>,
    ) -> Result<(), Fault> {
        if lane.at_once.iter().all(Option::is_none) {
            return Ok(());
        }
        self.fill(core, model, Filling::First, Some(batch))?;
        for leg in 0..model.legs() {
            if let Some(at_once) = &mut lane.at_once[leg]
                && let Err(fault) = self.capture(core, (model, at_once), batch)
            {
                self.in_turn(core, (model, &mut *lane), leg, fault)?;
            }
            self.pass_on(core, (model, &mut *lane), leg, batch)?;
        }
        // The graphs' first input is then not the last that their sessions ran with, so that
        // none finds in them what is right.
        self.fill(core, model, Filling::Second, Some(batch))?;
        for leg in 0..model.legs() {
            if let Some(at_once) = &mut lane.at_once[leg]
                && let Err(fault) = self.run_groups(core, at_once, batch)
            {
                self.in_turn(core, (model, &mut *lane), leg, fault)?;
            }
            self.pass_on(core, (model, &mut *lane), leg, batch)?;
        }
        self.try_graphs(core, (model, lane), batch)
    }

    /// Runs a leg in its one session, for what the next leg reads.
    fn pass_on(
        &self,
        core: &Core<B>,
        (model, lane): (&LoadedModel<B>, &mut LaneSessions<B>),
        leg: usize,
        batch: &Batch<'_, B>,
    ) -> Result<(), Fault> {
        let with = (&core.backend, &self.compute);
        core.watched(self.lane, || model.run_in_one(with, lane, leg, batch))?;
        self.settle(core, &self.compute)
    }

    /// Has the groups of a leg run by themselves.
    fn run_groups(
        &self,
        core: &Core<B>,
        at_once: &mut AtOnce<B>,
        batch: &Batch<'_, B>,
    ) -> Result<(), Fault> {
        let forks = at_once.forks(&core.backend)?;
        let with = (&forks, (batch.index, batch.rows));
        core.watched(self.lane, || {
            at_once.enqueue(&core.backend, with, How::Eager)
        })?;
        self.settle(core, at_once.trunk()?)
    }

    /// Captures the run of a slot and batch over what lies there.
    fn capture(
        &self,
        core: &Core<B>,
        (model, at_once): (&LoadedModel<B>, &mut AtOnce<B>),
        batch: &Batch<'_, B>,
    ) -> Result<(), Fault> {
        let backend = &core.backend;
        let key = (batch.index, batch.rows);
        for group in at_once.stages.iter_mut().flatten() {
            let places = model.places(group.part, batch)?;
            let binding = backend.bind(&group.session, &places)?;
            group.bound.insert(key, binding);
        }
        // For the first run of each session.
        let mut turn = at_once.graphs.is_empty().then(|| backend.turn());
        for _ in 0..WARM_UPS {
            self.run_groups(core, at_once, batch)?;
            drop(turn.take());
        }
        let trunk = Arc::clone(at_once.trunk()?);
        let mut taken = 0;
        for _ in 0..CAPTURES {
            // An event that a capture has seen is not used outside of it.
            let forks = at_once.forks(backend)?;
            let turn = backend.turn();
            // From here on nobody makes a session, which would take memory too.
            let free = backend.memory_free()?;
            let captured = backend.capture_streams(&turn, &trunk, &mut || {
                at_once.enqueue(backend, (&forks, key), How::Recorded)
            })?;
            taken = free.saturating_sub(backend.memory_free()?);
            drop(turn);
            if taken == 0 {
                return self.accept(core, (model, at_once), key, captured);
            }
        }
        Err(refused(format!(
            "{taken} bytes of the device's memory went as it was captured, and some each of \
             {CAPTURES} times, as after {WARM_UPS} runs none should"
        )))
    }

    /// Makes what was captured ready to run, if it may.
    fn accept(
        &self,
        core: &Core<B>,
        (model, at_once): (&LoadedModel<B>, &mut AtOnce<B>),
        key: Key,
        captured: B::Captured,
    ) -> Result<(), Fault> {
        let nodes = core.backend.contents(&captured, at_once.trunk()?)?;
        look_at(&nodes)?;
        if nodes.kernels_of_partition < nodes.kernels {
            let GraphNodes {
                kernels,
                kernels_of_partition,
                ..
            } = nodes;
            if !self.has_all(core) {
                return Err(refused(format!(
                    "{} of its {kernels} kernels run outside of its partition, on others' \
                     multiprocessors",
                    kernels - kernels_of_partition
                )));
            }
            if !at_once.told_elsewhere {
                at_once.told_elsewhere = true;
                let (_, origin) = B::describe(&model.model);
                tracing::warn!(
                    model = %origin.display(),
                    kernels,
                    in_partition = kernels_of_partition,
                    "a graph of groups side by side has kernels outside of its partition, which \
                     is the whole device"
                );
            }
        }
        let graph = core.backend.make_graph(captured, &self.compute)?;
        at_once.graphs.insert(key, graph);
        Ok(())
    }
}

/// Why what was captured must not serve, if anything.
fn look_at(nodes: &GraphNodes) -> Result<(), Fault> {
    let GraphNodes {
        host,
        pageable,
        to_host,
        ..
    } = *nodes;
    if host > 0 {
        return Err(refused(format!("its graph calls the host {host} times")));
    }
    if pageable > 0 {
        let why = "host memory that may be gone when it runs";
        return Err(refused(format!(
            "its graph copies {pageable} times from or to {why}"
        )));
    }
    if to_host > 0 {
        let why = "whoever reads it there reads it as the graph is captured";
        return Err(refused(format!(
            "its graph copies {to_host} times to the host: {why}"
        )));
    }
    Ok(())
}

fn refused(detail: String) -> Fault {
    Fault {
        kind: FaultKind::Capture,
        detail,
    }
}

//! Groups of a leg side by side: a session for each, captured on streams that fork and join
//! into one graph of ours for each slot and batch.
//!
//! The graphs are made as a model is loaded, in the lanes that are made ready then, and run on
//! the lane's stream like the leg's one session, which is there besides: it runs the batches that
//! have no graph, and the leg where anything below goes wrong.
//!
//! **Invariant:** a graph serves only after what it consists of was looked at, and after it
//! answered two inputs as its sessions do by themselves, with other sessions run in between.
//! Sessions that are in graphs run by themselves only while no graph of theirs does: before their
//! model is known to anybody.

use super::super::backend::{Backend, Fault, FaultKind, How, Place};
use super::super::graph::GraphNodes;
use super::answers::{Filling, apart};
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

/// What is left in the places of answers before a graph is to write them: no number in any type
/// of floats.
const NO_ANSWER: u8 = 0xFF;

/// A buffer set and a batch in it.
type Key = (SlotIndex, u32);

/// The groups of a leg on one lane.
pub(super) struct AtOnce<B: Backend> {
    // In the order in which they go: graphs use the memory of what is bound, and of sessions.
    graphs: HashMap<Key, B::Graph>,
    /// `stages[stage][group]`; the group of a number is on the stream of that number.
    stages: Vec<Vec<Group<B>>>,
    streams: Vec<Arc<B::Stream>>,
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
        backend: &B,
        model: &LoadedModel<B>,
        lane: &mut LaneSessions<B>,
    ) -> Result<(), Fault> {
        for leg in (0..model.legs()).filter(|&leg| model.is_at_once(leg)) {
            match self.sessions_of_groups(backend, model, leg) {
                Ok(made) => lane.at_once[leg] = Some(made),
                Err(fault) => self.in_turn(backend, (model, &mut *lane), leg, fault)?,
            }
        }
        for rows in model.warm_batches() {
            for (index, slot) in (0..).map(SlotIndex).zip(&model.slots) {
                let batch = Batch { index, slot, rows };
                match self.make_graphs(backend, (model, &mut *lane), &batch) {
                    Ok(()) => {}
                    Err(fault) => {
                        // The model, and not its graphs, refuses what it was tried with.
                        for leg in 0..model.legs() {
                            self.in_turn(backend, (model, &mut *lane), leg, fault.clone())?;
                        }
                    }
                }
            }
        }
        self.fill(backend, model, Filling::Zeros, None)
    }

    /// Gives a leg's graphs and their sessions up.
    fn in_turn(
        &self,
        backend: &B,
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
        self.settle(backend, &self.compute)?;
        let streams = lane.at_once[leg]
            .iter()
            .flat_map(|at_once| &at_once.streams);
        for stream in streams {
            match self.settle(backend, stream) {
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
        })
    }

    /// Makes the graphs of all legs for a slot and batch, and tries them.
    ///
    /// # Errors
    /// Where the model, run in the sessions of its legs, fails, or the device does.
    fn make_graphs(
        &self,
        backend: &B,
        (model, lane): (&LoadedModel<B>, &mut LaneSessions<B>),
        batch: &Batch<'_, B>,
    ) -> Result<(), Fault> {
        if lane.at_once.iter().all(Option::is_none) {
            return Ok(());
        }
        let with = (backend, &self.compute);
        self.fill(backend, model, Filling::First, Some(batch))?;
        for leg in 0..model.legs() {
            if let Some(at_once) = &mut lane.at_once[leg]
                && let Err(fault) = self.capture(backend, (model, at_once), batch)
            {
                self.in_turn(backend, (model, &mut *lane), leg, fault)?;
            }
            // What the next leg reads.
            model.run_in_one(with, lane, leg, batch)?;
            self.settle(backend, &self.compute)?;
        }
        let mut first: Vec<Option<Answers>> = (0..model.legs()).map(|_| None).collect();
        for filling in [Filling::First, Filling::Second] {
            self.fill(backend, model, filling, Some(batch))?;
            for (leg, before) in first.iter_mut().enumerate() {
                if let Some(at_once) = &mut lane.at_once[leg] {
                    let tried = self.compare(backend, (model, at_once), (leg, batch));
                    let tried = tried.and_then(|answers| match before.replace(answers) {
                        Some(known) if Some(&known) == before.as_ref() => Err(indifferent()),
                        _ => Ok(()),
                    });
                    if let Err(fault) = tried {
                        self.in_turn(backend, (model, &mut *lane), leg, fault)?;
                    }
                }
                // The other session in between.
                model.run_in_one(with, lane, leg, batch)?;
                self.settle(backend, &self.compute)?;
            }
        }
        Ok(())
    }

    /// Captures the run of a slot and batch over what lies there.
    fn capture(
        &self,
        backend: &B,
        (model, at_once): (&LoadedModel<B>, &mut AtOnce<B>),
        batch: &Batch<'_, B>,
    ) -> Result<(), Fault> {
        let key = (batch.index, batch.rows);
        for group in at_once.stages.iter_mut().flatten() {
            let places = model.places(group.part, batch)?;
            let binding = backend.bind(&group.session, &places)?;
            group.bound.insert(key, binding);
        }
        let (forks, trunk) = (at_once.forks(backend)?, Arc::clone(at_once.trunk()?));
        for _ in 0..WARM_UPS {
            at_once.enqueue(backend, (&forks, key), How::Eager)?;
            self.settle(backend, &trunk)?;
        }
        // An event that a capture has seen is not used outside of it.
        let forks = at_once.forks(backend)?;
        let captured = backend.capture_streams(&trunk, &mut || {
            at_once.enqueue(backend, (&forks, key), How::Recorded)
        })?;
        look_at(&backend.contents(&captured)?)?;
        let graph = backend.make_graph(captured, &self.compute)?;
        at_once.graphs.insert(key, graph);
        Ok(())
    }

    /// Holds what a graph answers against what its sessions do, over what lies in the slot.
    fn compare(
        &self,
        backend: &B,
        (model, at_once): (&LoadedModel<B>, &mut AtOnce<B>),
        (leg, batch): (usize, &Batch<'_, B>),
    ) -> Result<Answers, Fault> {
        let key = (batch.index, batch.rows);
        let forks = at_once.forks(backend)?;
        let mut places = Vec::new();
        for &part in model.course.legs[leg].iter().flatten() {
            places.extend(model.places(part, batch)?.outputs);
        }
        let read = |place: &Place<'_, B::Memory>| {
            backend.read((place.memory, place.offset), place.bytes, &self.compute)
        };
        at_once.enqueue(backend, (&forks, key), How::Eager)?;
        self.settle(backend, at_once.trunk()?)?;
        let expected: Answers = places.iter().map(read).collect::<Result<_, _>>()?;
        for place in &places {
            let blank = vec![NO_ANSWER; place.bytes];
            backend.write(&blank, (place.memory, place.offset), &self.compute)?;
        }
        match at_once.launch((backend, &self.compute), key) {
            Some(launched) => launched?,
            None => return Err(Fault::other("there is no such graph")),
        }
        self.settle(backend, &self.compute)?;
        for (place, expected) in places.iter().zip(&expected) {
            apart(place.element, &read(place)?, expected).map_err(|apart| {
                let name = place.name.to_string_lossy();
                refused(format!("its graph gives another `{name}`: {apart}"))
            })?;
        }
        Ok(expected)
    }

    /// Writes inputs to try a model with, into the slot of a batch, or for no batch into the host
    /// memory of all slots.
    fn fill(
        &self,
        backend: &B,
        model: &LoadedModel<B>,
        filling: Filling,
        batch: Option<&Batch<'_, B>>,
    ) -> Result<(), Fault> {
        let slots = match batch {
            Some(batch) => std::slice::from_ref(batch.slot),
            None => &model.slots[..],
        };
        for slot in slots {
            let mut staged = slot.staged.lock().unwrap_or_else(PoisonError::into_inner);
            for (input, (port, staged)) in model.inputs.iter().zip(&mut *staged).enumerate() {
                let bytes = match batch {
                    Some(batch) => port.bytes(batch.rows).ok_or_else(|| port.too_large())?,
                    None => staged.as_ref().len(),
                };
                filling.fill(port.spec.element, input, &mut staged.as_mut()[..bytes]);
            }
        }
        let Some(batch) = batch else { return Ok(()) };
        self.upload(backend, model, batch, &self.compute)?;
        self.settle(backend, &self.compute)
    }
}

/// Why what was captured must not serve, if anything.
fn look_at(nodes: &GraphNodes) -> Result<(), Fault> {
    let GraphNodes { host, pageable, .. } = *nodes;
    if host > 0 {
        return Err(refused(format!("its graph calls the host {host} times")));
    }
    if pageable > 0 {
        let why = "host memory that may be gone when it runs";
        return Err(refused(format!(
            "its graph copies {pageable} times from or to {why}"
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

fn indifferent() -> Fault {
    refused("it answers two inputs alike, which shows nothing of its graph".to_owned())
}

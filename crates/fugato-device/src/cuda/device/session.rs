//! A model's sessions on one lane, one for each part, and how a leg is run in them: by a
//! graph where there is one for its slot and batch.
//!
//! **Invariant:** what runs a leg neither makes sessions nor drops any, which takes seconds and
//! waits for others who do, nor waits for the [turn](Backend::turn): a device that hangs is told
//! by how long a leg runs. A session that goes wrong is laid by, and
//! [`make_ready`](LoadedModel::make_ready) replaces it.

use super::super::backend::{
    Backend, Fault, FaultKind, GraphId, How, Place, Places, SessionOptions,
};
use super::at_once::AtOnce;
use super::model::{LaneKey, LoadedModel, OnHost};
use super::slot::Slot;
use crate::course::{Source, Target};
use fugato_core::SlotIndex;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{CStr, CString};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

/// Eager runs of a batch in a slot before its runs are captured: a batch that comes once or
/// twice is not worth the three runs that a capture takes.
const EAGER_RUNS: u32 = 2;

/// A model on one lane's stream, by part.
pub(super) struct LaneSessions<B: Backend> {
    /// By leg: its groups side by side, where they are.
    pub(super) at_once: Vec<Option<AtOnce<B>>>,
    parts: Vec<PartSession<B>>,
    /// What went wrong as it ran, until it can be dropped.
    dead: Vec<Box<dyn Send>>,
}

struct PartSession<B: Backend> {
    // Before the session, whose memory captured runs use.
    bound: HashMap<(SlotIndex, u32), Bound<B>>,
    session: Option<Made<B>>,
}

struct Made<B: Backend> {
    session: B::Session,
    /// Whether its runs may be captured.
    graphs: bool,
    has_run: bool,
}

struct Bound<B: Backend> {
    binding: B::Binding,
    eager_runs: u32,
    is_captured: bool,
}

/// How a leg was run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Its groups side by side, in a graph of ours.
    AtOnce,
    /// In its one session, all by graphs of the runtime's.
    Captured,
    /// In its one session, some of it operator by operator.
    Eager,
}

/// When the runs of a batch are captured into a graph of the runtime's.
pub(super) enum Capture<'t, B: Backend> {
    /// Not now.
    Not,
    /// Now, by whoever has the turn.
    Now(&'t B::Turn),
    /// When the batch has come a few times, unless that would have to wait.
    WhenWorth,
}

impl<B: Backend> Clone for Capture<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Capture<'_, B> {}

/// What a lane runs with.
pub(super) type With<'a, B> = (&'a B, &'a Arc<<B as Backend>::Stream>);

/// A slot's buffers and a batch in them.
pub(super) struct Batch<'a, B: Backend> {
    pub(super) index: SlotIndex,
    pub(super) slot: &'a Slot<B>,
    pub(super) rows: u32,
}

impl<B: Backend> LoadedModel<B> {
    /// What a lane has of the model, which only that lane's thread uses.
    pub(super) fn on_lane(&self, lane: LaneKey) -> Arc<Mutex<LaneSessions<B>>> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let part = |_| PartSession::default();
        let empty = || {
            Arc::new(Mutex::new(LaneSessions {
                at_once: self.course.legs.iter().map(|_| None).collect(),
                parts: self.course.parts.iter().map(part).collect(),
                dead: Vec::new(),
            }))
        };
        Arc::clone(sessions.entry(lane).or_insert_with(empty))
    }

    /// Makes the sessions of a leg on the lane where there are none. On the lane's thread.
    pub(super) fn make_ready(
        &self,
        with: With<'_, B>,
        lane: &mut LaneSessions<B>,
        leg: usize,
    ) -> Result<(), Fault> {
        lane.dead.clear();
        let mut parts = self.course.legs[leg].iter().flatten();
        parts.try_for_each(|&part| self.make_part_ready(with, &mut lane.parts[part], part))
    }

    fn make_part_ready(
        &self,
        (backend, stream): With<'_, B>,
        on_lane: &mut PartSession<B>,
        part: usize,
    ) -> Result<(), Fault> {
        if on_lane.session.is_some() {
            return Ok(());
        }
        let file = self.course.parts[part].file.as_ref();
        let make = |graphs| {
            let options = SessionOptions {
                tuning: self.tuning,
                graphs,
            };
            backend.session((&self.model, file), &self.weights, stream, options)
        };
        let wanted = self.tuning.graphs && !self.eager[part].load(Ordering::Relaxed);
        let (session, graphs) = match make(wanted) {
            Ok(session) => (session, wanted),
            // Some models cannot be captured at all: those with control flow, say.
            Err(fault) if wanted && may_be_capture(&fault) => {
                let session = make(false)?;
                self.tell_eager(part, &fault);
                (session, false)
            }
            Err(fault) => return Err(fault),
        };
        match backend.on_host(&session) {
            Ok(kinds) => self.note_on_host(part, OnHost { kinds, graphs }),
            Err(fault) => self.tell_unplaced(&fault),
        }
        on_lane.session = Some(Made {
            session,
            graphs,
            has_run: false,
        });
        Ok(())
    }

    /// The turn, where a leg is about to run a session for the first time, which has to have it.
    pub(super) fn first_turn(
        &self,
        backend: &B,
        lane: &LaneSessions<B>,
        leg: usize,
    ) -> Option<B::Turn> {
        let mut parts = self.course.legs[leg].iter().flatten();
        let is_new = |&part: &usize| {
            let made = lane.parts[part].session.as_ref();
            made.is_some_and(|made| !made.has_run)
        };
        parts.any(is_new).then(|| backend.turn())
    }

    /// Enqueues a run of a leg over what is in a slot, its groups side by side where there is a
    /// graph of that.
    ///
    /// # Errors
    /// Where it fails; [`LaneSessions::is_mendable`] says whether it may run after
    /// [`make_ready`](Self::make_ready).
    pub(super) fn run_leg(
        &self,
        with: With<'_, B>,
        lane: &mut LaneSessions<B>,
        leg: usize,
        batch: &Batch<'_, B>,
    ) -> Result<Way, Fault> {
        let at_once = lane.at_once[leg].as_ref();
        match at_once.and_then(|at_once| at_once.launch(with, (batch.index, batch.rows))) {
            Some(Ok(())) => return Ok(Way::AtOnce),
            Some(Err(fault)) => {
                if fault.kind != FaultKind::Lost {
                    lane.dead.push(Box::new(lane.at_once[leg].take()));
                    self.tell_in_turn(leg, &fault);
                }
                return Err(fault);
            }
            None => {}
        }
        self.run_in_turn(with, lane, leg, (batch, Capture::WhenWorth))
    }

    /// Enqueues a run of a leg operator by operator, in its one session.
    pub(super) fn run_in_one(
        &self,
        with: With<'_, B>,
        lane: &mut LaneSessions<B>,
        leg: usize,
        batch: &Batch<'_, B>,
    ) -> Result<(), Fault> {
        let (backend, _) = with;
        let mut parts = self.course.legs[leg].iter().flatten();
        parts.try_for_each(|&part| {
            let (bound, _) = self.bound(backend, (part, &mut lane.parts[part]), batch)?;
            backend.run(&mut bound.binding, How::Eager)
        })
    }

    /// A session for a group of a leg, whose runs can be captured together with others.
    pub(super) fn group_session(
        &self,
        (backend, stream): With<'_, B>,
        part: usize,
    ) -> Result<B::Session, Fault> {
        let options = SessionOptions {
            tuning: self.tuning,
            graphs: true,
        };
        let file = self.course.parts[part].file.as_ref();
        backend.session((&self.model, file), &self.weights, stream, options)
    }

    /// Enqueues a run of a leg in its one session, by a graph of the runtime's where there is one
    /// or one is captured.
    ///
    /// # Errors
    /// As [`run_leg`](Self::run_leg).
    pub(super) fn run_in_turn(
        &self,
        with: With<'_, B>,
        lane: &mut LaneSessions<B>,
        leg: usize,
        (batch, capture): (&Batch<'_, B>, Capture<'_, B>),
    ) -> Result<Way, Fault> {
        let mut parts = self.course.legs[leg].iter().flatten();
        parts.try_fold(Way::Captured, |ran, &part| {
            match self.run_part(with, (part, &mut *lane), (batch, capture))? {
                true => Ok(ran),
                false => Ok(Way::Eager),
            }
        })
    }

    /// As [`run_in_turn`](Self::run_in_turn), of a part; says whether it was by a graph.
    fn run_part(
        &self,
        (backend, _): With<'_, B>,
        (part, lane): (usize, &mut LaneSessions<B>),
        (batch, capture): (&Batch<'_, B>, Capture<'_, B>),
    ) -> Result<bool, Fault> {
        let number = u32::from(batch.index.0) * (self.limits.max_batch + 1) + batch.rows;
        let graph = GraphId(number);
        let (bound, graphs) = self.bound(backend, (part, &mut lane.parts[part]), batch)?;
        let is_worth = graphs && !bound.is_captured && bound.eager_runs >= EAGER_RUNS;
        let own;
        let turn = match capture {
            Capture::Now(turn) => Some(turn),
            Capture::WhenWorth if is_worth => {
                own = backend.try_turn();
                own.as_ref()
            }
            Capture::WhenWorth | Capture::Not => None,
        };
        let ran = if graphs && bound.is_captured {
            backend.run(&mut bound.binding, How::Replay(graph))
        } else if graphs && let Some(turn) = turn {
            backend.capture(turn, &mut bound.binding, graph)
        } else {
            bound.eager_runs = (bound.eager_runs + 1).min(EAGER_RUNS);
            backend.run(&mut bound.binding, How::Eager)?;
            lane.parts[part].note_run();
            return Ok(false);
        };
        match ran {
            Ok(()) => {
                bound.is_captured = true;
                lane.parts[part].note_run();
                Ok(true)
            }
            Err(fault) if fault.kind == FaultKind::Lost => Err(fault),
            Err(fault) => {
                // Whatever a capture broke off has left is gone with its session.
                lane.dead
                    .push(Box::new(std::mem::take(&mut lane.parts[part])));
                self.tell_eager(part, &fault);
                Err(fault)
            }
        }
    }

    /// The binding of a slot to a session that is there, and whether its runs may be captured.
    fn bound<'l>(
        &self,
        backend: &B,
        (part, on_lane): (usize, &'l mut PartSession<B>),
        batch: &Batch<'_, B>,
    ) -> Result<(&'l mut Bound<B>, bool), Fault> {
        let made = on_lane.session.as_ref();
        let made = made.ok_or_else(|| Fault::other("the lane has no session"))?;
        let bound = match on_lane.bound.entry((batch.index, batch.rows)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => vacant.insert(Bound {
                binding: backend.bind(&made.session, &self.places(part, batch)?)?,
                eager_runs: 0,
                is_captured: false,
            }),
        };
        Ok((bound, made.graphs))
    }

    /// Where a part finds what it reads in a slot, and puts what it gives.
    pub(super) fn places<'a>(
        &'a self,
        part: usize,
        &Batch { slot, rows, .. }: &Batch<'a, B>,
    ) -> Result<Places<'a, B::Memory>, Fault> {
        let part = &self.course.parts[part];
        let input = |(name, source): &'a (CString, Source)| match *source {
            Source::Input(input) => {
                let place = (&self.inputs[input], &slot.inputs[input]);
                Place::of_port(name, place, rows)
            }
            Source::Output(output) => self.output_place((name, output), slot, rows),
            Source::Kept(kept) => self.kept_place((name, kept), slot, rows),
        };
        let output = |(name, target): &'a (CString, Target)| match *target {
            Target::Output(output) => self.output_place((name, output), slot, rows),
            Target::Kept(kept) => self.kept_place((name, kept), slot, rows),
        };
        Ok(Places {
            inputs: part.inputs.iter().map(input).collect::<Result<_, _>>()?,
            outputs: part.outputs.iter().map(output).collect::<Result<_, _>>()?,
        })
    }

    fn output_place<'a>(
        &'a self,
        (name, output): (&'a CStr, usize),
        slot: &'a Slot<B>,
        rows: u32,
    ) -> Result<Place<'a, B::Memory>, Fault> {
        Place::of_port(name, (&self.outputs[output], &slot.outputs[output]), rows)
    }

    fn kept_place<'a>(
        &'a self,
        (name, kept): (&'a CStr, usize),
        slot: &'a Slot<B>,
        rows: u32,
    ) -> Result<Place<'a, B::Memory>, Fault> {
        let place = self.course.kept[kept].place.as_ref();
        let place = place
            .zip(slot.kept.as_ref())
            .ok_or_else(|| Fault::other(format!("`{}` has no place", name.to_string_lossy())))?;
        Ok(Place::of_kept(name, place, rows))
    }

    /// Says once for the model that it is not known what of it runs on the host.
    fn tell_unplaced(&self, fault: &Fault) {
        if !self.told_unplaced.swap(true, Ordering::Relaxed) {
            let (_, origin) = B::describe(&self.model);
            tracing::warn!(
                model = %origin.display(),
                %fault,
                "the runtime does not tell which operators of the model run on the CPU"
            );
        }
    }

    /// Notes that a part's runs are not captured, and says once for the model why.
    fn tell_eager(&self, part: usize, reason: &Fault) {
        self.eager[part].store(true, Ordering::Relaxed);
        if !self.told.swap(true, Ordering::Relaxed) {
            let (_, origin) = B::describe(&self.model);
            tracing::warn!(
                model = %origin.display(),
                legs = self.legs(),
                %reason,
                "runs of the model, or of one of its legs, cannot be captured into graphs; they \
                 are eager"
            );
        }
    }
}

impl<B: Backend> PartSession<B> {
    fn note_run(&mut self) {
        if let Some(made) = &mut self.session {
            made.has_run = true;
        }
    }
}

impl<B: Backend> Default for PartSession<B> {
    fn default() -> Self {
        Self {
            bound: HashMap::new(),
            session: None,
        }
    }
}

impl<B: Backend> LaneSessions<B> {
    /// Whether something went wrong that [`LoadedModel::make_ready`] replaces.
    pub(super) fn is_mendable(&self) -> bool {
        !self.dead.is_empty()
    }
}

/// Whether a session may come about once its runs need not be captured.
fn may_be_capture(fault: &Fault) -> bool {
    match fault.kind {
        FaultKind::Capture | FaultKind::Refused | FaultKind::Other => true,
        FaultKind::OutOfMemory | FaultKind::Lost => false,
    }
}

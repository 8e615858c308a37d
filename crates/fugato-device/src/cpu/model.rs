//! A model loaded on the CPU: its sessions, slots and output pools. How a leg of it is run
//! is in `leg`.

use super::crew::Crew;
use super::output::{OutputPool, OutputShape};
use super::slot::Slot;
use super::ways::Ways;
use super::{LoadOptions, Place};
use crate::batch::{BatchLimits, Failed, batched, full_bytes, zeros};
use crate::capi::{Options, OrtError, Session};
use crate::clock::MonotonicClock;
use crate::course::{Course, Placing};
use crate::device::{LegWork, RequestInputs, RunErrorKind, RunSplit, TaskOutputs};
use crate::store::{Cuts, LoadCause, StoredModel};
use crate::tensor::TensorSpec;
use fugato_core::device::{AtomSet, LaneClass};
use fugato_core::sched::Start;
use fugato_core::{
    BatchSize, DeviceId, LaneId, LegIndex, ModelId, Nanos, PartitionId, SlotIndex, TaskId,
    Timestamp,
};
use ort::sys::GraphOptimizationLevel;
use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::sync::{Arc, Mutex, PoisonError};

/// Where a tensor may begin in a slot's memory, in bytes: a cache line, and the widest vector
/// register.
const ALIGN: usize = 64;

/// How long loading looks for the faster way to run groups: what it did not find then is found while
/// the model is served.
const TRY_FOR: Nanos = Nanos::from_millis(2_000);

/// Which session of a model: `None` is the one of a single thread, which lanes of any
/// single core share; the others have threads pinned to their atoms, in their class.
pub(super) type SessionKey = Option<(AtomSet, LaneClass)>;

type SessionCell = Arc<Mutex<Option<Arc<Session>>>>;

/// A model loaded on the CPU.
pub(super) struct LoadedModel {
    stored: StoredModel,
    pub(super) batched: bool,
    max_batch: u32,
    spin: Nanos,
    pub(super) course: Course,
    pub(super) inputs: Vec<Input>,
    pub(super) outputs: Vec<Output>,
    pub(super) slots: Vec<Mutex<Slot>>,
    /// By part and place.
    sessions: Mutex<HashMap<(usize, SessionKey), SessionCell>>,
    /// How groups run; `None`: at once, wherever there are threads for it.
    pub(super) ways: Option<Ways>,
    /// What has all its sessions for a place.
    ready: Mutex<HashSet<(Ride, SessionKey)>>,
}

pub(super) struct Input {
    pub(super) spec: TensorSpec,
    /// Bytes of a full batch, where the shape is known.
    pub(super) full_bytes: usize,
}

pub(super) struct Output {
    pub(super) spec: TensorSpec,
    /// `None`: the runtime allocates it, since only running tells its shape.
    pub(super) pool: Option<Arc<OutputPool>>,
}

/// What of a model a lane runs at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Ride {
    /// A leg.
    Leg(usize),
    /// All of it in one go.
    Unsplit,
}

impl Ride {
    pub(super) fn of(start: &Start) -> Self {
        match start.unsplit {
            true => Self::Unsplit,
            false => Self::Leg(usize::from(start.leg.0)),
        }
    }
}

/// What a leg gave.
pub(super) struct Ran {
    /// Whether groups ran at once in it.
    pub(super) at_once: bool,
    pub(super) outputs: TaskOutputs,
    pub(super) split: RunSplit,
    pub(super) bytes_copied_in: u64,
    pub(super) bytes_copied_out: u64,
}

impl LoadedModel {
    /// A model without sessions yet, cut as said.
    pub(super) fn new(
        stored: &StoredModel,
        options: &LoadOptions,
        cuts: Option<&Cuts>,
        spin: Nanos,
    ) -> Result<Self, LoadCause> {
        let info = stored.info();
        let batched = match options.max_batch {
            0 => return Err(LoadCause::Zero { what: "max_batch" }),
            max_batch => batched(info, max_batch, options.batches)?,
        };
        if options.slots == 0 {
            return Err(LoadCause::Zero { what: "slots" });
        }
        let course = match cuts {
            Some(cuts) => {
                let placing = Placing {
                    rows_max: batched.then_some(options.max_batch),
                    align: ALIGN,
                    sums_in_place: true,
                };
                let course = Course::cut(stored.cut(cuts)?, placing);
                match options.unsplit {
                    true => course.or_unsplit(info),
                    false => course,
                }
            }
            None => Course::whole(info),
        };
        let inputs = info.inputs.iter().map(|spec| Input {
            full_bytes: full_bytes(spec, batched, options.max_batch),
            spec: spec.clone(),
        });
        let is_input = |spec: &TensorSpec| info.inputs.iter().any(|input| input.name == spec.name);
        let outputs = info.outputs.iter().map(|spec| Output {
            // An output that is an input itself is handed over by the runtime as it is,
            // not written to a buffer.
            pool: (!is_input(spec))
                .then(|| pool(spec, batched, options))
                .flatten(),
            spec: spec.clone(),
        });
        let slot = || Slot::new(info.inputs.len(), info.outputs.len(), &course);
        let slots: Vec<_> = (0..options.slots).map(|_| Mutex::new(slot())).collect();
        Ok(Self {
            batched,
            max_batch: options.max_batch,
            spin,
            inputs: inputs.collect(),
            outputs: outputs.collect(),
            slots,
            sessions: Mutex::default(),
            ways: options.finds_ways.then(Ways::default),
            ready: Mutex::default(),
            course,
            stored: stored.clone(),
        })
    }

    /// How many legs there are.
    pub(super) fn legs(&self) -> usize {
        self.course.legs.len()
    }

    /// Whether any stage has groups that may run at once.
    pub(super) fn has_groups(&self) -> bool {
        let mut stages = self.course.legs.iter().flatten();
        stages.any(|stage| stage.len() > 1)
    }

    /// The stages of a ride, with what the first is counted as over all legs.
    pub(super) fn stages(&self, ride: Ride) -> (usize, Vec<&[usize]>) {
        match ride {
            Ride::Leg(leg) => {
                let stages = self.course.legs[leg].iter();
                let stages = stages.map(Vec::as_slice).collect();
                (self.course.first_stage(leg), stages)
            }
            Ride::Unsplit => (0, vec![self.course.unsplit.as_slice()]),
        }
    }

    /// Makes the sessions of a ride for `place` where they are missing. On this thread:
    /// their own threads inherit its niceness.
    pub(super) fn make_ready(&self, ride: Ride, place: &Place) -> Result<(), OrtError> {
        let key = (ride, place.session_key());
        let ready = || self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if ready().contains(&key) {
            return Ok(());
        }
        let in_use = self.stored.pages();
        let made = self.make_sessions(ride, place);
        // Also of what could not be made.
        self.stored.give_other_pages_back(&in_use);
        made?;
        ready().insert(key);
        Ok(())
    }

    fn make_sessions(&self, ride: Ride, place: &Place) -> Result<(), OrtError> {
        for stage in self.stages(ride).1 {
            let key = session_key(stage, place);
            for &part in stage {
                self.session(part, (place, key))?;
            }
            let Some(ways) = self.ways.as_ref().filter(|_| stage.len() > 1) else {
                continue;
            };
            let mut parts = stage.iter();
            let made = parts.try_for_each(|&part| {
                let session = self.session(part, (place, place.session_key()));
                session.map(drop)
            });
            if let Err(error) = made {
                let threads = place.threads();
                tracing::warn!(%error, threads, "groups of the model's plan run at once only");
                ways.only_at_once(threads);
            }
        }
        Ok(())
    }

    /// The session of a part, made on this thread where there is none.
    pub(super) fn session(
        &self,
        part: usize,
        (place, key): (&Place, SessionKey),
    ) -> Result<Arc<Session>, OrtError> {
        let cell = {
            let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(sessions.entry((part, key)).or_default())
        };
        // Held while the session is made, so that it is made once.
        let mut cell = cell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = &*cell {
            return Ok(Arc::clone(session));
        }
        let threads = key.map_or(1, |_| place.threads());
        let mut options = session_options(threads, self.spin)?;
        if threads > 1 {
            give_cores(&mut options, &place.cores[1..])?;
        }
        let session = place.make(|| match &self.course.parts[part].file {
            None => self.stored.session(options),
            Some(file) => {
                // Its tensors are few and short-lived, and those of all parts take turns.
                self.stored.runtime().share_arena()?;
                options.entry(c"session.use_env_allocators", c"1")?;
                self.stored.part_session(file, options)
            }
        });
        let session = Arc::new(session?);
        *cell = Some(Arc::clone(&session));
        Ok(session)
    }

    /// Runs the model once over zeros where its shapes are known, so that the first
    /// request does not pay for memory and pages. A model may refuse zeros; it is none
    /// the worse for it.
    pub(super) fn warm_up(
        &self,
        model: ModelId,
        place: &Place,
        clock: &MonotonicClock,
    ) -> Result<(), Failed> {
        let specs = self.inputs.iter().map(|input| &input.spec);
        let Some(inputs) = zeros(specs, self.batched) else {
            return Ok(());
        };
        let request = RequestInputs { items: 1, inputs };
        let last = self.legs() - 1;
        let legs = (0..=last).map(|leg| (leg, false));
        let unsplit = self.course.unsplit.map(|_| (last, true));
        let run = |(leg, unsplit), crew: Option<&Crew>| {
            let begins = leg == 0 || unsplit;
            let leg = leg_index(leg);
            let work = LegWork {
                start: Start {
                    device: DeviceId(0),
                    task: TaskId(0),
                    model,
                    leg,
                    partition: PartitionId(0),
                    lane: LaneId(0),
                    slot: SlotIndex(0),
                    batch: BatchSize(1),
                    unsplit,
                    not_before: Timestamp::ZERO,
                    requests: Vec::new(),
                },
                requests: begins.then(|| request.clone()).into_iter().collect(),
            };
            self.run(&work, (place, crew), clock).map(drop)
        };
        legs.clone()
            .chain(unsplit)
            .try_for_each(|leg| run(leg, None))?;
        let tries = self.has_groups() && place.threads() > 1;
        let Some(ways) = self.ways.as_ref().filter(|_| tries) else {
            return Ok(());
        };
        // Without helpers lanes run groups one after the other as well.
        let Ok(crew) = place.make(|| Crew::new(&place.cores)) else {
            return Ok(());
        };
        let pass = || legs.clone().try_for_each(|leg| run(leg, Some(&crew)));
        let begun = clock.now();
        let mut ran = pass();
        while ways.is_trying() && clock.now() - begun <= TRY_FOR {
            ran = pass();
        }
        // A way that failed is not tried again; what is left has to run.
        ran.or_else(|_| pass())
    }

    /// Refuses a leg that is not of this model's shape.
    pub(super) fn check(&self, work: &LegWork) -> Result<(), Failed> {
        let limits = BatchLimits {
            legs: self.legs(),
            unsplit: self.course.unsplit.is_some(),
            slots: self.slots.len(),
            max_batch: self.max_batch,
            batched: self.batched,
            inputs: self.inputs.len(),
        };
        limits.check(work)
    }
}

/// Which session a part of a stage runs in: groups that run at once have a thread each.
pub(super) fn session_key(stage: &[usize], place: &Place) -> SessionKey {
    match stage.len() {
        0 | 1 => place.session_key(),
        _ => None,
    }
}

fn leg_index(leg: usize) -> LegIndex {
    LegIndex(u16::try_from(leg).expect("a model of more legs is refused when it is loaded"))
}

/// The pool of an output whose shape is known once the batch is.
fn pool(spec: &TensorSpec, batched: bool, options: &LoadOptions) -> Option<Arc<OutputPool>> {
    let row = spec.shape.get(usize::from(batched)..)?;
    let row_dims: Option<Vec<i64>> = row
        .iter()
        .map(|dim| dim.and_then(|dim| i64::try_from(dim).ok()))
        .collect();
    let shape = OutputShape {
        element: spec.element,
        row_dims: row_dims?,
        batched,
        max_batch: options.max_batch,
    };
    OutputPool::new(shape, usize::from(options.slots) + 1)
}

/// Settings of a session of the optimised graph.
fn session_options(threads: u16, spin: Nanos) -> Result<Options, OrtError> {
    let mut options = Options::new(threads, GraphOptimizationLevel::ORT_DISABLE_ALL)?;
    let spins = spin > Nanos::ZERO && threads > 1;
    let allowed = if spins { c"1" } else { c"0" };
    options.entry(c"session.intra_op.allow_spinning", allowed)?;
    if spins {
        let micros = (spin.as_nanos() / 1_000).max(1).to_string();
        let micros = CString::new(micros).map_err(|error| OrtError::new(error.to_string()))?;
        options.entry(c"session.intra_op.spin_duration_us", &micros)?;
    }
    options.entry(c"session.inter_op.allow_spinning", c"0")?;
    // Threads stop spinning when their run ends, so a lane without work burns no core.
    options.entry(c"session.force_spinning_stop", c"1")?;
    Ok(options)
}

/// Gives each of a session's own threads a core. Where the system refuses one, the runtime logs
/// it, and that thread has the cores of the thread that makes the session.
fn give_cores(options: &mut Options, cores: &[usize]) -> Result<(), OrtError> {
    // The runtime counts from one.
    let cores: Vec<String> = cores.iter().map(|core| (core + 1).to_string()).collect();
    let cores = CString::new(cores.join(";")).map_err(|error| OrtError::new(error.to_string()))?;
    options.entry(c"session.intra_op_thread_affinities", &cores)
}

pub(super) fn runtime_failure(error: OrtError) -> Failed {
    (RunErrorKind::Runtime, error.message().to_owned())
}

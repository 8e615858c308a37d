//! Runs legs of a model at one point of its surface, and times them: by the device's own events
//! where it has such ([`RunSplit::on_device`](crate::RunSplit::on_device)), else as the scheduler is
//! told, from the moment a lane took a leg up to the one its results lay in memory. What the host
//! takes besides is in [`Profiler::by_host`].
//!
//! **Invariant:** while a [`Profiler`] makes a visit nobody else starts legs on its device.

use crate::device::{
    Device, DeviceEvent, LeftBehind, LegWork, RequestInputs, RevokeLeg, RunError, RunSplit,
    TaskOutputs,
};
use crate::shared::InputFault;
use fugato_core::device::DeviceSpec;
use fugato_core::sched::Start;
use fugato_core::{
    BatchSize, LaneId, LegIndex, ModelId, Nanos, PartitionId, SlotIndex, TaskId, Timestamp,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// Silence after which a device is taken to have lost a leg. A leg of minutes would be of
/// no use to anyone who waits for it.
const PATIENCE: Duration = Duration::from_secs(600);

/// What to run in a visit.
#[derive(Clone, Debug)]
pub struct Visit {
    /// The model, loaded with [`Visit::slots`] slots or more; one is enough where `neighbour` is
    /// another.
    pub model: ModelId,
    /// A request of one item, of which every batch is made up.
    pub item: RequestInputs,
    /// Items in a batch.
    pub batch: u32,
    /// Where the timed legs run.
    pub partition: PartitionId,
    /// Partitions that are busy meanwhile, each with legs one after another. They must not
    /// overlap each other or `partition`.
    pub busy: Vec<PartitionId>,
    /// What those legs are; `None`: of one item of the same model, which must then run in one
    /// leg.
    pub neighbour: Option<Neighbour>,
    /// Legs to run first, whose times do not count; tasks, where a task has several legs.
    pub warm_up: u32,
    /// Legs to time, or tasks.
    pub legs: u32,
}

/// What the busy partitions of a visit run.
#[derive(Clone, Debug)]
pub struct Neighbour {
    /// The model, loaded with [`Visit::slots`] slots or more.
    pub model: ModelId,
    /// A request of one item, of which the batch is made up.
    pub item: RequestInputs,
    /// Items in the batch.
    pub batch: u32,
}

impl Visit {
    /// The sets of buffers it needs, as [`slots_beside`] says.
    pub fn slots(&self) -> u16 {
        slots_beside(self.busy.len())
    }
}

/// The sets of buffers that a model needs to be timed beside so many busy partitions: one of its
/// own, and two for each of these, where a task is committed while another runs. A slot has one
/// task at a time, as under a scheduler.
pub fn slots_beside(busy: usize) -> u16 {
    u16::try_from(2 * busy + 1).unwrap_or(u16::MAX)
}

/// A task to run from its first leg to its last.
#[derive(Clone, Debug)]
pub struct Walk {
    /// The model.
    pub model: ModelId,
    /// A request of one item, of which the batch is made up.
    pub item: RequestInputs,
    /// Items in the batch.
    pub batch: u32,
    /// Where the legs run.
    pub partition: PartitionId,
    /// How many legs the model has.
    pub legs: u16,
}

/// What came of a [`Walk`].
#[derive(Debug)]
pub struct Walked {
    /// By leg: what the device says that it took, else from the moment a lane took it up to the
    /// one its results lay in memory.
    pub legs: Vec<Nanos>,
    /// From the start of the first leg to the end of the last, the waits between them
    /// included, by the host's clock.
    pub whole: Nanos,
    /// The part of that in which the device worked, by its own clock; `None` where it did not tell
    /// of every leg.
    pub on_device: Option<Nanos>,
    /// From the start of the first leg to the end of the last.
    pub span: (Timestamp, Timestamp),
    /// What the last leg gave.
    pub outputs: TaskOutputs,
}

/// Why a visit failed.
#[derive(Debug, thiserror::Error)]
pub enum VisitError {
    /// The model did not run.
    #[error("{}", .0.detail)]
    Run(RunError),
    /// An input of a request could not be had.
    #[error("an input cannot be had: {0}")]
    Input(InputFault),
    /// The device reported nothing for minutes.
    #[error("the device reported no end of a leg for {} s", PATIENCE.as_secs())]
    Silent,
}

/// Makes visits on a device whose events it gets.
#[derive(Debug)]
pub struct Profiler<D> {
    device: Arc<D>,
    events: Receiver<DeviceEvent>,
    next_task: u64,
    /// The legs on the device, and where they run.
    in_flight: BTreeMap<(TaskId, LegIndex), Place>,
    /// Of the legs that the last visit timed, by the host's clock.
    by_host: Vec<Nanos>,
}

/// The partitions that together are all of the device but `partition`, as far as there
/// are any: the larger ones first, none larger than `partition` itself where such are
/// enough.
pub fn partitions_beside(spec: &DeviceSpec, partition: PartitionId) -> Vec<PartitionId> {
    let Some(own) = spec.partitions.get(usize::from(partition.0)) else {
        return Vec::new();
    };
    let mut others: Vec<_> = spec.partitions.iter().collect();
    others.sort_by_key(|other| {
        let larger = other.share() > own.share();
        (larger, std::cmp::Reverse(other.share()), other.id)
    });
    let mut taken = own.atoms;
    let mut chosen = Vec::new();
    for other in others {
        if !other.atoms.overlaps(taken) {
            taken = taken.union(other.atoms);
            chosen.push(other.id);
        }
    }
    chosen
}

/// The lane that a partition's legs run in: the first, which is of the class that policies
/// use unless they say otherwise.
const LANE: LaneId = LaneId(0);

/// The buffers of timed legs; each busy partition has its own.
const TIMED: SlotIndex = SlotIndex(0);

/// Legs of a task that are on the device at once: one runs, one is committed, as where a scheduler
/// goes on with a task as it is. So a lane goes from one to the next by itself, without having
/// slept in between.
const AHEAD: usize = 2;

/// Where a leg runs: its partition and the buffers that go with it.
type Place = (PartitionId, SlotIndex);

/// When a leg started and ended.
type Span = (Timestamp, Timestamp);

/// What a leg took.
#[derive(Clone, Copy, Debug, Default)]
struct Took {
    by_host: Nanos,
    on_device: Option<Nanos>,
}

impl Took {
    fn new((started, ended): Span, split: &RunSplit) -> Self {
        Self {
            by_host: ended - started,
            on_device: split.on_device,
        }
    }

    /// What a profile has of it.
    fn leg(self) -> Nanos {
        self.on_device.unwrap_or(self.by_host)
    }
}

impl<D: Device> Profiler<D> {
    /// Makes visits on `device`, all of whose events arrive at `events`.
    pub fn new(device: Arc<D>, events: Receiver<DeviceEvent>) -> Self {
        Self {
            device,
            events,
            next_task: 0,
            in_flight: BTreeMap::new(),
            by_host: Vec::new(),
        }
    }

    /// What the legs that the last visit timed took by the host's clock, in their order: what the
    /// host does to start them and to notice their end is in it.
    pub fn by_host(&self) -> &[Nanos] {
        &self.by_host
    }

    /// The device.
    pub fn device(&self) -> &Arc<D> {
        &self.device
    }

    /// Runs the legs of a visit and gives the times of those that count, for as long as
    /// `go_on` says so: it is asked before each leg. When this returns, the device is idle.
    ///
    /// # Errors
    /// [`VisitError`]; the first one that a leg ended with.
    pub fn visit(
        &mut self,
        visit: &Visit,
        go_on: impl Fn() -> bool,
    ) -> Result<Vec<Nanos>, VisitError> {
        let tasks = self.visit_legs(visit, 1, go_on)?;
        Ok(tasks.into_iter().flatten().collect())
    }

    /// As [`visit`](Self::visit), of a model of so many `legs`: each timed run is a task that
    /// goes from its first leg to its last, and `go_on` is asked before each task.
    ///
    /// # Shape
    /// The times by task, and of each task by leg.
    ///
    /// # Errors
    /// [`VisitError`]; the first one that a leg ended with.
    pub fn visit_legs(
        &mut self,
        visit: &Visit,
        legs: u16,
        go_on: impl Fn() -> bool,
    ) -> Result<Vec<Vec<Nanos>>, VisitError> {
        let mut under_way = None;
        let timed = self.time(visit, legs, &mut under_way, go_on);
        let quiet = self.quiet();
        if let Some(task) = under_way.filter(|_| legs > 1) {
            self.device.let_go(&LeftBehind {
                task,
                model: visit.model,
                slot: TIMED,
            });
        }
        quiet.and(timed)
    }

    /// Runs a task, leg after leg, on a device that does nothing else. When this returns, the device
    /// is idle, unless it fell silent.
    ///
    /// # Errors
    /// [`VisitError`]; the first one that a leg ended with.
    pub fn walk(&mut self, walk: &Walk) -> Result<Walked, VisitError> {
        let task = self.next_task();
        let mut walked = Walked {
            legs: Vec::with_capacity(usize::from(walk.legs)),
            whole: Nanos::ZERO,
            on_device: Some(Nanos::ZERO),
            span: (Timestamp::ZERO, Timestamp::ZERO),
            outputs: TaskOutputs::default(),
        };
        let mut begun = None;
        let work = (walk.model, &walk.item, walk.batch);
        let mut next = (0..walk.legs).map(LegIndex);
        for leg in next.by_ref().take(AHEAD) {
            self.hand_over((task, leg), work, (walk.partition, TIMED));
        }
        for leg in (0..walk.legs).map(LegIndex) {
            let (took, (started, ended), outputs) = match self.end_of(task, leg) {
                Ok(ended) => ended,
                Err(error) => {
                    // The one committed behind it fails too.
                    let has_failed = matches!(error, VisitError::Run(_));
                    if has_failed && leg.0 + 1 < walk.legs {
                        let _failed = self.end_of(task, LegIndex(leg.0 + 1));
                    }
                    return Err(error);
                }
            };
            if let Some(leg) = next.next() {
                self.hand_over((task, leg), work, (walk.partition, TIMED));
            }
            walked.legs.push(took.leg());
            walked.on_device = walked.on_device.zip(took.on_device).map(|(a, b)| a + b);
            walked.span = (*begun.get_or_insert(started), ended);
            walked.whole = walked.span.1 - walked.span.0;
            walked.outputs = outputs;
        }
        Ok(walked)
    }

    /// Waits until a leg of the only task on the device ends: what it took, its start and end, what it
    /// gave.
    fn end_of(&self, task: TaskId, leg: LegIndex) -> Result<(Took, Span, TaskOutputs), VisitError> {
        loop {
            let event = self.events.recv_timeout(PATIENCE);
            let event = event.map_err(|_| VisitError::Silent)?;
            if let DeviceEvent::Finished {
                task: ended_task,
                leg: ended_leg,
                started,
                ended,
                split,
                result,
                ..
            } = event
                && (ended_task, ended_leg) == (task, leg)
            {
                let outputs = result.map_err(VisitError::Run)?;
                let took = Took::new((started, ended), &split);
                return Ok((took, (started, ended), outputs));
            }
        }
    }

    fn next_task(&mut self) -> TaskId {
        let task = TaskId(self.next_task);
        self.next_task += 1;
        task
    }

    /// `under_way` is the task whose legs have not all ended.
    fn time(
        &mut self,
        visit: &Visit,
        legs: u16,
        under_way: &mut Option<TaskId>,
        go_on: impl Fn() -> bool,
    ) -> Result<Vec<Vec<Nanos>>, VisitError> {
        for (index, &partition) in visit.busy.iter().enumerate() {
            let last = slots_beside(index + 1) - 1;
            // One runs, one is committed, so that the lane never waits for this thread.
            for slot in [last - 1, last] {
                self.start_neighbour(visit, (partition, SlotIndex(slot)));
            }
        }
        // When each has run a leg its sessions and buffers are there, and the next one runs.
        let mut warm = BTreeSet::new();
        while warm.len() < visit.busy.len() {
            let (_, (partition, _), _) = self.keep_busy(visit)?;
            warm.insert(partition);
        }
        let mut times = Vec::new();
        self.by_host.clear();
        for run in 0..visit.warm_up.saturating_add(visit.legs) {
            if !go_on() {
                break;
            }
            let timed = self.next_task();
            *under_way = Some(timed);
            let mut task = Vec::with_capacity(usize::from(legs));
            let work = (visit.model, &visit.item, visit.batch);
            let mut next = (0..legs).map(LegIndex);
            for leg in next.by_ref().take(AHEAD) {
                self.start((timed, leg), work, (visit.partition, TIMED));
            }
            while task.len() < usize::from(legs) {
                let (ended, _, took) = self.keep_busy(visit)?;
                if ended != timed {
                    continue;
                }
                if let Some(leg) = next.next() {
                    self.start((timed, leg), work, (visit.partition, TIMED));
                }
                task.push(took.leg());
                if run >= visit.warm_up {
                    self.by_host.push(took.by_host);
                }
            }
            *under_way = None;
            if run >= visit.warm_up {
                times.push(task);
            }
        }
        Ok(times)
    }

    /// Waits for the next leg that ends, and follows it by another where it is a
    /// neighbour's.
    fn keep_busy(&mut self, visit: &Visit) -> Result<(TaskId, Place, Took), VisitError> {
        let (task, place, took) = self.next_end()?;
        let took = took?;
        if place.1 != TIMED {
            self.start_neighbour(visit, place);
        }
        Ok((task, place, took))
    }

    /// Empties the device: takes back what has not begun, and waits for the rest.
    fn quiet(&mut self) -> Result<(), VisitError> {
        for (&(task, leg), &(partition, _)) in &self.in_flight {
            self.device.revoke(&RevokeLeg {
                task,
                leg,
                partition,
                lane: LANE,
            });
        }
        while !self.in_flight.is_empty() {
            // Whatever became of it: what counts was returned by `time`.
            let _ended = self.next_end()?;
        }
        Ok(())
    }

    /// Waits for the next leg that leaves the device: its task, place and time; a leg
    /// that was taken back took none.
    fn next_end(&mut self) -> Result<(TaskId, Place, Result<Took, VisitError>), VisitError> {
        loop {
            let event = self.events.recv_timeout(PATIENCE);
            let (task, leg, took) = match event.map_err(|_| VisitError::Silent)? {
                // A loss ends the legs too, each with an event of its own.
                DeviceEvent::Started { .. } | DeviceEvent::Lost { .. } => continue,
                DeviceEvent::Revoked { task, leg, .. } => (task, leg, Ok(Took::default())),
                DeviceEvent::Finished {
                    task,
                    leg,
                    started,
                    ended,
                    split,
                    result,
                    ..
                } => {
                    let took = Took::new((started, ended), &split);
                    (task, leg, check(result).map(|()| took))
                }
            };
            if let Some(place) = self.in_flight.remove(&(task, leg)) {
                return Ok((task, place, took));
            }
        }
    }

    /// Starts a leg on a busy partition.
    fn start_neighbour(&mut self, visit: &Visit, place: Place) {
        let work = match &visit.neighbour {
            Some(other) => (other.model, &other.item, other.batch),
            None => (visit.model, &visit.item, 1),
        };
        let task = self.next_task();
        self.start((task, LegIndex(0)), work, place);
    }

    /// Starts a leg whose end [`next_end`](Self::next_end) tells.
    fn start(
        &mut self,
        (task, leg): (TaskId, LegIndex),
        work: (ModelId, &RequestInputs, u32),
        place: Place,
    ) {
        self.in_flight.insert((task, leg), place);
        self.hand_over((task, leg), work, place);
    }

    /// Gives the device a leg; the first one of a task with the inputs of all its items.
    fn hand_over(
        &self,
        (task, leg): (TaskId, LegIndex),
        (model, item, batch): (ModelId, &RequestInputs, u32),
        (partition, slot): Place,
    ) {
        let requests = match leg.0 {
            0 => (0..batch).map(|_| item.clone()).collect(),
            _ => Vec::new(),
        };
        self.device.start(LegWork {
            start: Start {
                device: self.device.spec().id,
                task,
                model,
                leg,
                partition,
                lane: LANE,
                slot,
                batch: BatchSize(batch),
                unsplit: false,
                not_before: Timestamp::ZERO,
                requests: Vec::new(),
            },
            requests,
        });
    }
}

/// Whether a leg gave outputs for all its items.
fn check(result: Result<TaskOutputs, RunError>) -> Result<(), VisitError> {
    let outputs = result.map_err(VisitError::Run)?;
    let fault = outputs.requests.into_iter().find_map(Result::err);
    fault.map_or(Ok(()), |fault| Err(VisitError::Input(fault)))
}

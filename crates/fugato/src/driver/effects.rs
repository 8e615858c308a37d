//! What the driver does with actions: starts legs on devices, answers requests.

use super::course::{Course, Courses};
use fugato_core::driver::Effects;
use fugato_core::sched::{Action, Decision, DropReason, FailReason, Outcome, Rejection, Start};
use fugato_core::{DeviceId, LegIndex, ModelId, RequestId, SlotIndex, TaskId, Timestamp};
use fugato_device::{
    Device, InputFault, InputTensor, LeftBehind, LegWork, OutputTensor, RequestInputs, RevokeLeg,
    RunError, RunSplit, TaskOutputs,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tokio::sync::oneshot;

/// What the driver keeps of a request while the scheduler decides about it.
#[derive(Debug)]
pub struct Payload {
    /// Rows of the batch dimension.
    pub items: u32,
    /// One tensor per input of the model.
    pub inputs: Arc<[InputTensor]>,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Answer>,
}

/// How a request ended, and what was decided about it on the way.
#[derive(Debug)]
pub struct Answer {
    /// How it ended.
    pub result: ReplyResult,
    /// What was decided.
    pub course: Course,
}

/// The answer to a request.
pub type ReplyResult = Result<Served, ServeFailure>;

/// A request that was served.
#[derive(Debug)]
pub struct Served {
    /// One tensor per output of the model.
    pub outputs: Vec<OutputTensor>,
    /// Items of the task it ran in.
    pub batch: u32,
    /// Requests of the task it ran in.
    pub requests: u32,
    /// When the task ran.
    pub timing: TaskTiming,
}

/// When a task ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskTiming {
    /// The device's time of the first leg's start.
    pub started: Timestamp,
    /// The device's time of the last leg's end.
    pub ended: Timestamp,
    /// The parts of the time between.
    pub split: RunSplit,
}

/// Why a request was not served.
#[derive(Clone, Debug)]
pub enum ServeFailure {
    /// It was refused on arrival.
    Rejected(Rejection),
    /// It was given up before it ran.
    Dropped(DropReason),
    /// It was taken back.
    Cancelled,
    /// Its task failed.
    Run(RunError),
    /// Its task ran, without its inputs: they could not be copied.
    Input(InputFault),
    /// Its device went away.
    DeviceLost(DeviceId),
}

/// Told of a task that ended well: its model, the items of its batch, when it ran.
pub type TaskDoneHook = Box<dyn FnMut(ModelId, u32, &TaskTiming) + Send>;

/// What the driver's thread tells others of. Must not block.
pub struct Hooks {
    /// A removed model has nothing left in the scheduler.
    pub drained: Box<dyn FnMut(ModelId) + Send>,
    /// A task ended well.
    pub task_done: TaskDoneHook,
    /// A leg ended: its [`Decision::LegEnded`].
    pub leg_ended: Box<dyn FnMut(&Decision) + Send>,
    /// Asked for one row of inputs of a model that is run without requests, to be measured.
    pub sample: SampleHook,
    /// A model was measured, or drifted from its profile.
    pub profile: Box<dyn FnMut(ModelId, ProfileEvent) + Send>,
    /// A device is lost to this process: what it said, once or more often.
    pub device_lost: DeviceLostHook,
}

/// Told of a device that is lost, and what it said.
pub type DeviceLostHook = Box<dyn FnMut(DeviceId, &str) + Send>;

/// Gives one row of inputs of a model.
pub type SampleHook = Box<dyn FnMut(ModelId) -> Option<RequestInputs> + Send>;

/// What happened to a model's profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProfileEvent {
    /// More of it has been measured.
    Measured {
        /// Whether that is all.
        done: bool,
    },
    /// The model's times have left the band of the profile.
    Drifted,
}

struct RunningTask {
    model: ModelId,
    /// The leg that it began with.
    first: LegIndex,
    requests: Vec<RequestId>,
    batch: u32,
    timing: Option<TaskTiming>,
    outputs: BTreeMap<RequestId, Result<Vec<OutputTensor>, InputFault>>,
    error: Option<RunError>,
    open: usize,
    device: DeviceId,
    slot: SlotIndex,
    /// Legs of it that are on the device: one that runs, and one behind it.
    on_device: u8,
    /// Whether its last leg has ended, or one failed: then it has left nothing.
    has_ended: bool,
}

/// A task that nobody waits for any more.
struct GivenUp {
    device: DeviceId,
    left: LeftBehind,
    /// Legs of it that have not left the device.
    on_device: u8,
}

/// Carries actions out on devices, and answers requests.
pub(super) struct DeviceEffects {
    devices: BTreeMap<DeviceId, Arc<dyn Device>>,
    hooks: Hooks,
    open: HashMap<RequestId, OpenRequest>,
    tasks: HashMap<TaskId, RunningTask>,
    /// Tasks that nobody waits for any more, with legs that have not left the device.
    given_up: HashMap<TaskId, GivenUp>,
    courses: Courses,
}

struct OpenRequest {
    payload: Payload,
    task: Option<TaskId>,
}

impl DeviceEffects {
    pub(super) fn new(devices: BTreeMap<DeviceId, Arc<dyn Device>>, hooks: Hooks) -> Self {
        Self {
            devices,
            hooks,
            open: HashMap::new(),
            tasks: HashMap::new(),
            given_up: HashMap::new(),
            courses: Courses::default(),
        }
    }

    pub(super) fn open(&mut self, request: RequestId, payload: Payload) {
        self.open.insert(
            request,
            OpenRequest {
                payload,
                task: None,
            },
        );
    }

    /// Keeps a leg's results until the scheduler says how its requests end.
    pub(super) fn leg_finished(
        &mut self,
        id: TaskId,
        timing: TaskTiming,
        result: Result<TaskOutputs, RunError>,
    ) {
        // A task is unknown where its device was lost before it reported, and where it has
        // no requests.
        let Some(task) = self.tasks.get_mut(&id) else {
            self.courses.forget(id);
            self.given_up_leg_left(id);
            return;
        };
        task.on_device = task.on_device.saturating_sub(1);
        let timing = match task.timing {
            None => timing,
            Some(first) => TaskTiming {
                started: first.started,
                ended: timing.ended,
                split: RunSplit {
                    input: first.split.input + timing.split.input,
                    infer: first.split.infer + timing.split.infer,
                    output: first.split.output + timing.split.output,
                    on_device: first
                        .split
                        .on_device
                        .zip(timing.split.on_device)
                        .map(|(first, next)| first + next),
                },
            },
        };
        task.timing = Some(timing);
        task.has_ended = match &result {
            Ok(outputs) => !outputs.requests.is_empty(),
            Err(_) => true,
        };
        match result {
            // Only the last leg has outputs.
            Ok(outputs) if outputs.requests.is_empty() => {}
            Ok(outputs) => {
                (self.hooks.task_done)(task.model, task.batch, &timing);
                task.outputs = task
                    .requests
                    .iter()
                    .copied()
                    .zip(outputs.requests)
                    .collect();
            }
            Err(error) => task.error = Some(error),
        }
    }

    /// Tells of a device that is lost. Its tasks end when the scheduler says so.
    pub(super) fn device_lost(&mut self, device: DeviceId, detail: &str) {
        (self.hooks.device_lost)(device, detail);
    }

    fn start(&mut self, start: Start) {
        let mut requests = Vec::with_capacity(start.requests.len());
        for request in &start.requests {
            let Some(open) = self.open.get_mut(request) else {
                panic!("{request} was started and is not open")
            };
            let before = open.task.replace(start.task);
            requests.push(RequestInputs {
                items: open.payload.items,
                inputs: Arc::clone(&open.payload.inputs),
            });
            // A task that was committed to a device that was lost.
            if let Some(before) = before {
                self.leave(before);
            }
        }
        let begins = start.leg.0 == 0 || start.unsplit;
        if begins && start.requests.is_empty() {
            requests = self.samples(&start);
        } else if begins {
            let task = RunningTask {
                model: start.model,
                first: start.leg,
                requests: start.requests.clone(),
                batch: start.batch.0,
                timing: None,
                outputs: BTreeMap::new(),
                error: None,
                open: start.requests.len(),
                device: start.device,
                slot: start.slot,
                on_device: 1,
                has_ended: false,
            };
            self.tasks.insert(start.task, task);
        } else if let Some(task) = self.tasks.get_mut(&start.task) {
            task.on_device += 1;
        }
        let Some(device) = self.devices.get(&start.device) else {
            panic!("{} is not driven here", start.device)
        };
        device.start(LegWork { start, requests });
    }

    /// The inputs of a task without requests: as many times one row as its batch has items.
    fn samples(&mut self, start: &Start) -> Vec<RequestInputs> {
        let Some(row) = (self.hooks.sample)(start.model) else {
            panic!("{} is measured and has no sample", start.model)
        };
        vec![row; usize::try_from(start.batch.0).unwrap_or(usize::MAX)]
    }

    fn finish(&mut self, request: RequestId, outcome: Outcome) {
        let Some(OpenRequest { payload, task: id }) = self.open.remove(&request) else {
            panic!("{request} ended and is not open");
        };
        let task = id.and_then(|id| self.tasks.get_mut(&id));
        let result = answer(request, outcome, task);
        let course = self.courses.end(request, id);
        if let Some(id) = id {
            self.leave(id);
        }
        // A client that went away needs no answer.
        let _ = payload.reply.send(Answer { result, course });
    }

    /// One request of a task has ended.
    fn leave(&mut self, id: TaskId) {
        if let Some(task) = self.tasks.get_mut(&id) {
            task.open = task.open.saturating_sub(1);
            if task.open == 0 {
                let left = LeftBehind {
                    task: id,
                    model: task.model,
                    slot: task.slot,
                };
                let given_up = GivenUp {
                    device: task.device,
                    left,
                    on_device: task.on_device,
                };
                let has_ended = task.has_ended;
                self.tasks.remove(&id);
                self.courses.forget(id);
                if !has_ended && given_up.on_device == 0 {
                    self.let_go_of(&given_up);
                } else if !has_ended {
                    self.given_up.insert(id, given_up);
                }
            }
        }
    }

    /// A leg of a task that nobody waits for, if it is one, has left the device.
    fn given_up_leg_left(&mut self, id: TaskId) {
        let Some(given_up) = self.given_up.get_mut(&id) else {
            return;
        };
        given_up.on_device = given_up.on_device.saturating_sub(1);
        if given_up.on_device == 0
            && let Some(given_up) = self.given_up.remove(&id)
        {
            self.let_go_of(&given_up);
        }
    }

    /// Frees what a task that ended early has left on its device.
    fn let_go_of(&self, given_up: &GivenUp) {
        if let Some(device) = self.devices.get(&given_up.device) {
            device.let_go(&given_up.left);
        }
    }

    fn revoke(&self, device: DeviceId, leg: &RevokeLeg) {
        if let Some(device) = self.devices.get(&device) {
            device.revoke(leg);
        }
    }

    /// Where the first leg was taken back, the requests of the task wait again.
    pub(super) fn leg_revoked(&mut self, id: TaskId, leg: LegIndex) {
        let known = self.tasks.get(&id).map(|task| task.first);
        if leg != known.unwrap_or(LegIndex(0)) {
            match self.tasks.get_mut(&id) {
                Some(task) => task.on_device = task.on_device.saturating_sub(1),
                None => self.given_up_leg_left(id),
            }
            return;
        }
        self.given_up.remove(&id);
        self.courses.forget(id);
        let Some(task) = self.tasks.remove(&id) else {
            return;
        };
        for request in task.requests {
            if let Some(open) = self.open.get_mut(&request) {
                open.task = None;
            }
        }
    }

    /// Lets go of what is left when the driver ends; clients see their channel closed.
    pub(super) fn abandon_all(self) {
        if !self.open.is_empty() {
            tracing::warn!(
                requests = self.open.len(),
                "the driver ended before these requests did"
            );
        }
    }
}

fn answer(request: RequestId, outcome: Outcome, task: Option<&mut RunningTask>) -> ReplyResult {
    match (outcome, task) {
        (Outcome::Completed, Some(task)) => {
            let (Some(outputs), Some(timing)) = (task.outputs.remove(&request), task.timing) else {
                panic!("{request} was completed without outputs");
            };
            let requests = u32::try_from(task.requests.len()).unwrap_or(u32::MAX);
            Ok(Served {
                outputs: outputs.map_err(ServeFailure::Input)?,
                batch: task.batch,
                requests,
                timing,
            })
        }
        (Outcome::Completed, None) => panic!("{request} was completed without a task"),
        (Outcome::Rejected(reason), _) => Err(ServeFailure::Rejected(reason)),
        (Outcome::Dropped(reason), _) => Err(ServeFailure::Dropped(reason)),
        (Outcome::Cancelled, _) => Err(ServeFailure::Cancelled),
        (Outcome::Failed(FailReason::DeviceLost { device }), _) => {
            Err(ServeFailure::DeviceLost(device))
        }
        (Outcome::Failed(FailReason::Run), task) => {
            let Some(error) = task.and_then(|task| task.error.clone()) else {
                panic!("{request} failed without the device's error");
            };
            Err(ServeFailure::Run(error))
        }
    }
}

impl Effects for DeviceEffects {
    fn perform(&mut self, _now: Timestamp, action: Action) {
        match action {
            Action::Start(start) => self.start(start),
            Action::Revoke {
                device,
                partition,
                lane,
                task,
                leg,
            } => {
                self.revoke(
                    device,
                    &RevokeLeg {
                        task,
                        leg,
                        partition,
                        lane,
                    },
                );
            }
            Action::Finish { request, outcome } => self.finish(request, outcome),
            Action::ModelDrained { model } => (self.hooks.drained)(model),
        }
    }

    fn note(&mut self, decision: &Decision) {
        match *decision {
            Decision::Measured { model, done, .. } => {
                (self.hooks.profile)(model, ProfileEvent::Measured { done });
            }
            Decision::Drifted { model, .. } => (self.hooks.profile)(model, ProfileEvent::Drifted),
            Decision::LegEnded { .. } => {
                (self.hooks.leg_ended)(decision);
                self.courses.note(decision);
            }
            Decision::Accepted { .. }
            | Decision::Issued { .. }
            | Decision::Revoking { .. }
            | Decision::Ended { .. } => self.courses.note(decision),
        }
    }
}

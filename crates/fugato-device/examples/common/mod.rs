//! What the examples share: the runtime, inputs that fit a model, and a device to wait on.

#![allow(dead_code, unreachable_pub, reason = "each example uses a part")]

use anyhow::{Context, Result, ensure};
use fugato_core::sched::Start;
use fugato_core::{
    BatchSize, DeviceId, LaneId, LegIndex, ModelId, PartitionId, RequestId, SlotIndex, TaskId,
    Timestamp,
};
use fugato_device::{
    CpuDevice, CpuOptions, Device, DeviceEvent, ElementType, InputTensor, LegWork, MonotonicClock,
    RequestInputs, RunSplit, Runtime, TensorData, TensorSpec,
};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The library that `FUGATO_ORT_LIB` names or that `make runtime` fetched.
pub fn runtime() -> Result<Arc<Runtime>> {
    let fetched = |folder: &Path| -> Option<PathBuf> {
        let versions = std::fs::read_dir(folder.join(".fugato/onnxruntime")).ok()?;
        let folders = versions.flatten().map(|version| version.path().join("lib"));
        let files = folders.filter_map(|folder| std::fs::read_dir(folder).ok());
        files
            .flatten()
            .flatten()
            .map(|file| file.path())
            .find(|path| {
                let name = path.file_name().and_then(|name| name.to_str());
                name.is_some_and(|name| name.starts_with("libonnxruntime.so"))
            })
    };
    let named = std::env::var_os("FUGATO_ORT_LIB").map(PathBuf::from);
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = named.or_else(|| here.ancestors().find_map(fetched));
    let library = found.context("no ONNX Runtime found: run `make runtime` first")?;
    Ok(Runtime::load(library)?)
}

/// One item for each input: `vary` elements where a dimension past the batch varies,
/// small numbers that differ from element to element.
pub fn one_item(specs: &[TensorSpec], vary: u64) -> Vec<InputTensor> {
    let tensor = |spec: &TensorSpec| {
        let dims = spec.shape.iter().enumerate();
        let dims = dims.map(|(axis, dim)| dim.unwrap_or(if axis == 0 { 1 } else { vary }));
        let shape: Vec<u64> = dims.collect();
        let elements = shape.iter().product::<u64>();
        let bytes: Vec<u8> = if spec.element == ElementType::Fp32 {
            let float = |index| ((index * 2_654_435_761_u64) % 1000) as f32 / 500.0 - 1.0;
            (0..elements)
                .flat_map(|index| float(index).to_le_bytes())
                .collect()
        } else if spec.element == ElementType::Int64 {
            (0..elements).flat_map(|_| 1_i64.to_le_bytes()).collect()
        } else {
            vec![0; elements as usize * spec.element.size().unwrap_or(0)]
        };
        InputTensor {
            shape,
            data: TensorData::Raw(bytes.into()).into(),
        }
    };
    specs.iter().map(tensor).collect()
}

/// A CPU device that runs one leg after the other.
pub struct Runner {
    pub device: CpuDevice,
    pub clock: MonotonicClock,
    events: Receiver<DeviceEvent>,
    tasks: u64,
}

/// The times of one leg, in nanoseconds.
pub struct Leg {
    /// From the call of `start` to the lane's taking it up.
    pub to_started: u64,
    /// From the call of `start` to hearing that it finished.
    pub to_finished: u64,
    pub split: RunSplit,
}

impl Runner {
    pub fn new(options: CpuOptions) -> Result<Self> {
        let clock = MonotonicClock::start();
        let (sender, events) = channel();
        let sender = Mutex::new(sender);
        let sink = Arc::new(move |event| {
            let sender = sender.lock().expect("no holder panics");
            // A receiver that is gone is a program that ends.
            let _ = sender.send(event);
        });
        Ok(Self {
            device: CpuDevice::new(DeviceId(0), options, clock, sink)?,
            clock,
            events,
            tasks: 0,
        })
    }

    /// Runs one item alone on the first lane of `partition` and waits for its end.
    pub fn run(
        &mut self,
        model: ModelId,
        partition: PartitionId,
        inputs: &Arc<[InputTensor]>,
    ) -> Result<Leg> {
        let mut legs = self.run_legs(model, 1, partition, inputs)?;
        legs.pop().context("a task of one leg has one")
    }

    /// Runs one item leg by leg on the first lane of `partition`, each leg started when the
    /// one before it is heard to have ended.
    pub fn run_legs(
        &mut self,
        model: ModelId,
        legs: u16,
        partition: PartitionId,
        inputs: &Arc<[InputTensor]>,
    ) -> Result<Vec<Leg>> {
        self.tasks += 1;
        let task = TaskId(self.tasks);
        (0..legs)
            .map(|leg| self.run_leg(work(model, task, leg, partition, inputs), leg + 1 == legs))
            .collect()
    }

    /// Runs one item leg by leg, each leg committed while the one before it runs, as the
    /// scheduler does where nothing else wants the lane. Gives the nanoseconds between the
    /// end of each leg and the start of the next. Whoever hears of them sleeps meanwhile, or
    /// is `awake` and need not be woken by the lane.
    pub fn gaps_between_legs(
        &mut self,
        (model, legs): (ModelId, u16),
        partition: PartitionId,
        inputs: &Arc<[InputTensor]>,
        awake: bool,
    ) -> Result<Vec<u64>> {
        self.tasks += 1;
        let task = TaskId(self.tasks);
        let start = |leg| self.device.start(work(model, task, leg, partition, inputs));
        let mut gaps = Vec::new();
        let mut last_end = None;
        start(0);
        loop {
            let event = match awake {
                true => loop {
                    match self.events.try_recv() {
                        Err(TryRecvError::Empty) => std::hint::spin_loop(),
                        found => break found?,
                    }
                },
                false => self.events.recv()?,
            };
            match event {
                DeviceEvent::Started { leg, at, .. } => {
                    gaps.extend(last_end.map(|end| (at - end).as_nanos()));
                    if leg.0 + 1 < legs {
                        start(leg.0 + 1);
                    }
                }
                DeviceEvent::Revoked { task, .. } => anyhow::bail!("{task} was revoked"),
                DeviceEvent::Lost { detail, .. } => anyhow::bail!(detail),
                DeviceEvent::Finished {
                    leg, ended, result, ..
                } => {
                    result?;
                    last_end = Some(ended);
                    if leg.0 + 1 == legs {
                        return Ok(gaps);
                    }
                }
            }
        }
    }

    /// Keeps one model running on the first lane of `partition`, and `count` times, `apart` from
    /// the last, runs another on `lane`. Gives the nanoseconds of each run of the second, from
    /// the call of `start` to hearing that it finished, and those of each run of the first.
    pub fn run_over(
        &mut self,
        (below, lane): ((ModelId, &Arc<[InputTensor]>), LaneId),
        (above, count): ((ModelId, &Arc<[InputTensor]>), usize),
        partition: PartitionId,
        mut apart: impl FnMut() -> Duration,
    ) -> Result<(Vec<u64>, Vec<u64>)> {
        let mut start = |(model, inputs): (ModelId, &Arc<[InputTensor]>), lane| {
            self.tasks += 1;
            let mut leg = work(model, TaskId(self.tasks), 0, partition, inputs);
            leg.start.lane = lane;
            self.device.start(leg);
            TaskId(self.tasks)
        };
        let (mut short, mut long) = (Vec::new(), Vec::new());
        let mut running = start(below, LaneId(0));
        let mut urgent = None;
        let mut next = Instant::now() + apart();
        while short.len() < count {
            let wait = match urgent {
                Some(_) => Duration::from_secs(60),
                None => next.saturating_duration_since(Instant::now()),
            };
            match self.events.recv_timeout(wait) {
                Ok(DeviceEvent::Finished {
                    task,
                    started,
                    ended,
                    result,
                    ..
                }) => {
                    result?;
                    match urgent {
                        Some((known, called)) if known == task => {
                            short.push((self.clock.now() - called).as_nanos());
                            (urgent, next) = (None, Instant::now() + apart());
                        }
                        _ => {
                            ensure!(task == running, "{task} ended, which was not started");
                            long.push((ended - started).as_nanos());
                            running = start(below, LaneId(0));
                        }
                    }
                }
                Ok(_) => {}
                Err(_) if urgent.is_none() => {
                    let called = self.clock.now();
                    urgent = Some((start(above, lane), called));
                }
                Err(error) => return Err(error.into()),
            }
        }
        // The last run is not left behind to slow whoever measures next.
        while !matches!(self.events.recv()?, DeviceEvent::Finished { task, .. } if task == running)
        {
        }
        Ok((short, long))
    }

    fn run_leg(&self, work: LegWork, is_last: bool) -> Result<Leg> {
        let called = self.clock.now();
        self.device.start(work);
        let mut to_started = 0;
        loop {
            match self.events.recv()? {
                DeviceEvent::Started { at, .. } => to_started = (at - called).as_nanos(),
                DeviceEvent::Revoked { task, .. } => anyhow::bail!("{task} was revoked"),
                DeviceEvent::Lost { detail, .. } => anyhow::bail!(detail),
                DeviceEvent::Finished { result, split, .. } => {
                    let to_finished = (self.clock.now() - called).as_nanos();
                    let has_outputs = !result?.requests.is_empty();
                    ensure!(has_outputs == is_last, "outputs come with the last leg");
                    return Ok(Leg {
                        to_started,
                        to_finished,
                        split,
                    });
                }
            }
        }
    }
}

/// A leg of a task of one item, on the first lane of `partition`.
fn work(
    model: ModelId,
    task: TaskId,
    leg: u16,
    partition: PartitionId,
    inputs: &Arc<[InputTensor]>,
) -> LegWork {
    let is_first = leg == 0;
    let request = || RequestInputs {
        items: 1,
        inputs: Arc::clone(inputs),
    };
    LegWork {
        start: Start {
            device: DeviceId(0),
            task,
            model,
            leg: LegIndex(leg),
            partition,
            lane: LaneId(0),
            slot: SlotIndex(0),
            batch: BatchSize(1),
            unsplit: false,
            not_before: Timestamp::ZERO,
            requests: is_first.then_some(RequestId(task.0)).into_iter().collect(),
        },
        requests: is_first.then(request).into_iter().collect(),
    }
}

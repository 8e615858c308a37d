//! A load on a device under one policy: the server's driver and scheduler, without a server.

use super::stage::{Host, Stage};
use crate::driver::{
    self, Answer, DriverParts, Hooks, Mailbox, NotTaken, Payload, RealClock, ServeFailure,
};
use crate::telemetry::Telemetry;
use anyhow::Context;
use fugato_core::capacity::holds;
use fugato_core::device::DeviceSpec;
use fugato_core::policy::{CapacityRule, capacity_of};
use fugato_core::profile::ModelProfile;
use fugato_core::sched::{
    Arrival, Input, ModelSpec, Overdue, PolicySpec, Scheduler, SchedulerConfig,
};
use fugato_core::workload::Workload;
use fugato_core::{BatchSize, DeviceId, Nanos, PartitionId, ShapeClass, Timestamp};
use fugato_device::{Device, LeftBehind, LegWork, MonotonicClock, RequestInputs, RevokeLeg};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Requests that may wait for the driver's next look, as in a server.
const ARRIVALS_MAX: usize = 16_384;

/// From the start of the driver to the first request.
const LEAD: Nanos = Nanos::from_millis(20);

/// How long after the last arrival all must have been answered: a device that is slower than
/// this hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A model under load, in the order of the workload.
#[derive(Clone, Debug)]
pub(super) struct Served {
    pub(super) spec: ModelSpec,
    pub(super) profile: ModelProfile,
    /// Requests that take turns.
    pub(super) items: Vec<RequestInputs>,
}

/// What became of the requests of one model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ModelTally {
    pub(super) requests: u64,
    pub(super) in_time: u64,
    /// Refused on arrival, or given up before they ran.
    pub(super) refused: u64,
    /// Whose run failed.
    pub(super) failed: u64,
    /// From the scheduled time of sending to the answer, of those that were served.
    pub(super) latencies: Vec<Nanos>,
}

/// What became of the requests that came in the measured time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) models: Vec<ModelTally>,
    /// Why the first run that failed did.
    pub(super) fault: Option<String>,
}

impl Tally {
    /// The part that was answered in time.
    pub(super) fn attainment(&self) -> Option<f64> {
        let sum = |of: fn(&ModelTally) -> u64| self.models.iter().map(of).sum::<u64>();
        part(sum(|model| model.in_time), sum(|model| model.requests))
    }

    /// Whether the load was held: rejected, failed and late requests all count as missed.
    pub(super) fn holds(&self, wanted: f64) -> bool {
        let models = self.models.iter();
        let each = models.map(|model| part(model.in_time, model.requests));
        holds(wanted, self.attainment(), each)
    }
}

fn part(of: u64, all: u64) -> Option<f64> {
    (all > 0).then(|| of as f64 / all as f64)
}

/// Some partitions of a device, as a device.
pub(super) struct Narrowed<D> {
    device: Arc<D>,
    spec: DeviceSpec,
    /// What the device itself calls them.
    own: Vec<PartitionId>,
}

impl<D: Host> Narrowed<D> {
    /// Of each of the shares as many partitions as fit beside each other, from the first slice
    /// on: legs then run only where sessions were made before.
    pub(super) fn new(device: &Arc<D>, shares: &[u16]) -> Self {
        let mut spec = device.spec().clone();
        let mut kept: Vec<_> = spec.partitions.drain(..).collect();
        let mut taken: BTreeMap<u16, fugato_core::device::AtomSet> = BTreeMap::new();
        kept.retain(|partition| {
            let share = partition.share().0;
            let taken = taken.entry(share).or_default();
            let is_kept = partition.id.0 == 0
                || (shares.contains(&share) && !taken.overlaps(partition.atoms));
            if is_kept {
                *taken = taken.union(partition.atoms);
            }
            is_kept
        });
        let own = kept.iter().map(|partition| partition.id).collect();
        for (id, partition) in (0..).zip(&mut kept) {
            partition.id = PartitionId(id);
        }
        spec.partitions = kept;
        Self {
            device: Arc::clone(device),
            spec,
            own,
        }
    }

    /// What the device itself calls the partitions.
    pub(super) fn own(&self) -> &[PartitionId] {
        &self.own
    }
}

impl<D: Host> Device for Narrowed<D> {
    fn spec(&self) -> &DeviceSpec {
        &self.spec
    }

    fn start(&self, mut work: LegWork) {
        work.start.partition = self.own[usize::from(work.start.partition.0)];
        self.device.start(work);
    }

    fn revoke(&self, leg: &RevokeLeg) {
        self.device.revoke(&RevokeLeg {
            partition: self.own[usize::from(leg.partition.0)],
            ..*leg
        });
    }

    fn let_go(&self, place: &LeftBehind) {
        self.device.let_go(place);
    }
}

/// A run of a workload under a policy.
pub(super) struct Probe<'a> {
    pub(super) policy: &'a PolicySpec,
    pub(super) workload: &'a Workload,
    pub(super) models: &'a [Served],
    pub(super) seed: u64,
}

/// Sends the workload's requests as they are due and waits for all answers.
///
/// # Errors
/// Where the driver ends, or an answer does not come.
pub(super) fn run<D: Host>(
    stage: &Stage<D>,
    device: &Arc<Narrowed<D>>,
    probe: &Probe<'_>,
) -> anyhow::Result<Tally> {
    let clock = stage.clock;
    let mailbox = Arc::new(Mailbox::new(clock, ARRIVALS_MAX));
    stage.router.drive(Arc::clone(&mailbox));
    let layered = capacity_of(probe.policy) == CapacityRule::Layered;
    stage.device.set_layered(layered);
    let lost = Arc::new(OnceLock::new());
    let driver = driver::spawn(DriverParts {
        clock: RealClock(clock),
        scheduler: Scheduler::new(SchedulerConfig {
            policy: probe.policy.clone(),
            ..SchedulerConfig::default()
        }),
        devices: [(DeviceId(0), Arc::clone(device) as Arc<dyn Device>)].into(),
        mailbox: Arc::clone(&mailbox),
        metrics: Telemetry::new().driver(),
        hooks: hooks(Arc::clone(&lost)),
        recorder: None,
        real_time: false,
        ended: CancellationToken::new(),
    })?;
    mailbox.control(Input::DeviceAdded(device.spec().clone()));
    for model in probe.models {
        let profile = Box::new(model.profile.clone());
        mailbox.control(Input::ModelAdded(model.spec.clone()));
        mailbox.control(Input::ProfileGiven {
            model: model.spec.id,
            profile,
        });
    }
    let clients = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()?;
    let mut answers = JoinSet::new();
    let sent = send(probe, (clock, &mailbox), |model, due, answered| {
        let came = async move {
            let answer = answered.await;
            let at = clock.now();
            // The outputs are dropped here: the device has them lie in memory of its own.
            let end = match answer.map(|answer| answer.result) {
                Ok(Ok(_)) => End::Served { at },
                Ok(Err(ServeFailure::Run(error))) => End::Failed(error.detail),
                Ok(Err(ServeFailure::DeviceLost(_))) => End::Failed("it is lost".to_owned()),
                Ok(Err(_)) | Err(_) => End::Refused,
            };
            Came { model, due, end }
        };
        answers.spawn_on(came, clients.handle());
    });
    let tally = sent.map(|begun| {
        clients.block_on(async {
            let all = collect(probe, begun, answers);
            tokio::time::timeout(PATIENCE, all).await
        })
    });
    mailbox.close();
    let ended = driver.join();
    ended.map_err(|_| anyhow::anyhow!("the driver panicked"))?;
    if let Some(detail) = lost.get() {
        anyhow::bail!("the device is lost: {detail}");
    }
    tally?.context("a request was not answered")?
}

fn hooks(lost: Arc<OnceLock<String>>) -> Hooks {
    Hooks {
        drained: Box::new(|_| {}),
        task_done: Box::new(|_, _, _| {}),
        leg_ended: Box::new(|_| {}),
        sample: Box::new(|_| None),
        profile: Box::new(|_, _| {}),
        device_lost: Box::new(move |_, detail| {
            lost.get_or_init(|| detail.to_owned());
        }),
    }
}

/// A request's answer, whenever it comes.
type Answered = oneshot::Receiver<Answer>;

/// Sends every request when it is due; `sent` gets its model, when it was due, and where its
/// answer comes. Gives when the workload began.
fn send(
    probe: &Probe<'_>,
    (clock, mailbox): (MonotonicClock, &Mailbox),
    mut sent: impl FnMut(usize, Timestamp, Answered),
) -> anyhow::Result<Timestamp> {
    let begin = clock.now() + LEAD;
    for arrival in probe.workload.arrivals(probe.seed) {
        let due = begin + (arrival.at - Timestamp::ZERO);
        let early = due - clock.now();
        if early > Nanos::ZERO {
            std::thread::sleep(early.into());
        }
        let model = &probe.models[arrival.model];
        let place = arrival.sequence % model.items.len().max(1) as u64;
        let item = usize::try_from(place)
            .ok()
            .and_then(|at| model.items.get(at));
        let item = item.context("a model without an item to send")?;
        let bytes = item
            .inputs
            .iter()
            .map(|input| input.data.byte_size() as u64);
        let bytes = bytes.sum();
        let (reply, answered) = oneshot::channel();
        let payload = Payload {
            items: item.items,
            inputs: Arc::clone(&item.inputs),
            reply,
        };
        let taken = mailbox.arrive(payload, |request| Arrival {
            request,
            model: model.spec.id,
            items: BatchSize(item.items),
            bytes,
            class: ShapeClass(0),
            received: due,
            deadline: None,
            queue_timeout: None,
            overdue: Overdue::Drop,
            priority: 0,
        });
        // One that was not taken has lost its sender, and is missed like any other.
        if let Err(NotTaken::Closed) = taken {
            anyhow::bail!("the driver ended");
        }
        sent(arrival.model, due, answered);
    }
    Ok(begin)
}

/// How a request ended.
struct Came {
    /// Its place in the workload.
    model: usize,
    due: Timestamp,
    end: End,
}

enum End {
    Served { at: Timestamp },
    Refused,
    Failed(String),
}

async fn collect(
    probe: &Probe<'_>,
    begun: Timestamp,
    mut answers: JoinSet<Came>,
) -> anyhow::Result<Tally> {
    let from = begun + probe.workload.warmup();
    let mut tally = Tally {
        models: vec![ModelTally::default(); probe.models.len()],
        fault: None,
    };
    while let Some(came) = answers.join_next().await {
        let Came { model, due, end } = came?;
        if due < from {
            continue;
        }
        let slo = probe.workload.models()[model].slo;
        let model = &mut tally.models[model];
        model.requests += 1;
        match end {
            End::Served { at } => {
                model.in_time += u64::from(at - due <= slo);
                model.latencies.push(at - due);
            }
            End::Refused => model.refused += 1,
            End::Failed(detail) => {
                model.failed += 1;
                tally.fault.get_or_insert(detail);
            }
        }
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fugato_core::device::{AtomSet, LaneClass};
    use fugato_core::sched::Start;
    use fugato_core::{LaneId, LegIndex, ModelId, Share, SlotIndex, TaskId};
    use fugato_device::{LoadError, LoadOptions, Loaded, StoredModel};
    use std::sync::Mutex;

    fn tally(models: &[(u64, u64)]) -> Tally {
        let model = |&(requests, in_time)| ModelTally {
            requests,
            in_time,
            ..ModelTally::default()
        };
        Tally {
            models: models.iter().map(model).collect(),
            fault: None,
        }
    }

    #[test]
    fn a_load_is_held_by_all_requests_and_by_each_model() {
        assert!(tally(&[(900, 900), (100, 95)]).holds(0.99));
        assert!(!tally(&[(900, 900), (100, 89)]).holds(0.99));
        assert!(!tally(&[(9_000, 9_000), (100, 94)]).holds(0.99));
        // A model that got no request says nothing of the load.
        assert!(!tally(&[(900, 900), (0, 0)]).holds(0.99));
        assert_eq!(tally(&[]).attainment(), None);
    }

    /// A device that only notes where it is to run legs.
    struct Noting {
        spec: DeviceSpec,
        asked: Mutex<Vec<PartitionId>>,
    }

    impl Device for Noting {
        fn spec(&self) -> &DeviceSpec {
            &self.spec
        }

        fn start(&self, work: LegWork) {
            let mut asked = self.asked.lock().expect("nobody panics");
            asked.push(work.start.partition);
        }

        fn revoke(&self, leg: &RevokeLeg) {
            let mut asked = self.asked.lock().expect("nobody panics");
            asked.push(leg.partition);
        }
    }

    impl Host for Noting {
        fn load(&self, _: ModelId, _: &StoredModel, _: &LoadOptions) -> Result<Loaded, LoadError> {
            Ok(Loaded {
                legs: 1,
                unsplit: false,
                legs_at_once: 0,
            })
        }

        fn unload(&self, _: ModelId) -> bool {
            true
        }

        fn set_layered(&self, _: bool) {}

        fn metrics(&self) -> fugato_device::DeviceMetrics {
            fugato_device::DeviceMetrics::default()
        }
    }

    #[test]
    fn a_narrowed_device_runs_legs_in_its_own_partitions_of_the_same_slices() {
        let lanes = [LaneClass::Normal];
        let ranges =
            DeviceSpec::ranges(DeviceId(0), "a device", Share(8), Share(1), &lanes, &lanes);
        let device = Arc::new(Noting {
            spec: ranges,
            asked: Mutex::default(),
        });
        let narrowed = Narrowed::new(&device, &[2, 4, 6, 8]);
        narrowed.spec().validate().expect("a device to schedule on");
        let atoms: Vec<_> = narrowed
            .spec()
            .partitions
            .iter()
            .map(|part| part.atoms)
            .collect();
        let mut expected = vec![AtomSet::range(0, 8)];
        expected.extend([0, 2, 4, 6].map(|first| AtomSet::range(first, 2)));
        expected.extend([0, 4].map(|first| AtomSet::range(first, 4)));
        expected.push(AtomSet::range(0, 6));
        assert_eq!(atoms.len(), expected.len(), "{atoms:?}");
        assert!(
            expected.iter().all(|atoms_of| atoms.contains(atoms_of)),
            "{atoms:?}"
        );
        for partition in &narrowed.spec().partitions {
            let start = Start {
                device: DeviceId(0),
                task: TaskId(0),
                model: ModelId(0),
                leg: LegIndex(0),
                partition: partition.id,
                lane: LaneId(0),
                slot: SlotIndex(0),
                batch: BatchSize(1),
                unsplit: false,
                not_before: Timestamp::ZERO,
                requests: Vec::new(),
            };
            narrowed.revoke(&RevokeLeg {
                task: start.task,
                leg: start.leg,
                partition: partition.id,
                lane: start.lane,
            });
            let requests = Vec::new();
            narrowed.start(LegWork { start, requests });
            let asked = std::mem::take(&mut *device.asked.lock().expect("nobody panics"));
            assert_eq!(asked.len(), 2);
            for place in asked {
                let own = &device.spec.partitions[usize::from(place.0)];
                assert_eq!(own.atoms, partition.atoms);
            }
        }
    }
}

//! How many requests per second the simulator simulates on one core, with the hash of all
//! actions kept: `cargo bench -p fugato --bench simulation`, or with words after `--` only
//! the rows whose name has them all.
//!
//! Four models of the `v100-dstack` profile share a device of 100 slices. A row is named
//! after the path, the policy and the load:
//!
//! - `scenario` is the path of `fugato simulate`: arrivals drawn, latencies counted.
//! - `script` is the world alone: arrivals written down beforehand, actions kept.
//! - `sparse` is 80 requests/s, about one request per batch; `dense` is more than the
//!   models keep up with one by one, so that batches fill.
//!
//! Hashes of the same binary are equal from run to run.

use fugato_core::device::{DeviceSpec, LaneClass};
use fugato_core::profile::{ModelProfile, Profile, v100_dstack};
use fugato_core::sched::{
    Action, Arrival, DynamicBatching, Input, ModelSpec, Overdue, PolicySpec, QueueLimits,
    Scheduler, SchedulerConfig, Start,
};
use fugato_core::sim::{Scenario, ServiceTable, SimDevice, SimOptions, World};
use fugato_core::workload::{ArrivalProcess, ModelLoad, Workload};
use fugato_core::{BatchSize, DeviceId, ModelId, Nanos, RequestId, ShapeClass, Share, Timestamp};
use std::io::Write;
use std::time::Instant;

const SLICES: Share = Share(100);
const LANES: usize = 4;
const SLOTS: u16 = 2;

/// Wide enough that policies which take turns keep up, so that most requests run.
const OBJECTIVE: Nanos = Nanos::from_millis(200);

/// By model: its name, requests/s where they are sparse, and where they are dense.
const MODELS: [(&str, f64, f64); 4] = [
    ("mobilenet", 35.0, 350.0),
    ("alexnet", 35.0, 350.0),
    ("resnet50", 6.0, 60.0),
    ("vgg19", 4.0, 40.0),
];

/// Simulated seconds.
const SPARSE_S: f64 = 3_600.0;
const DENSE_S: f64 = 300.0;

/// What a run gave.
struct Row {
    requests: u64,
    completed: u64,
    seconds: f64,
    hash: u64,
}

struct Load {
    name: &'static str,
    rates: [f64; MODELS.len()],
    length: Nanos,
}

impl Load {
    fn all() -> [Self; 2] {
        [
            Self {
                name: "sparse",
                rates: MODELS.map(|(_, sparse, _)| sparse),
                length: Nanos::from_secs_f64(SPARSE_S),
            },
            Self {
                name: "dense",
                rates: MODELS.map(|(_, _, dense)| dense),
                length: Nanos::from_secs_f64(DENSE_S),
            },
        ]
    }

    fn workload(&self) -> Workload {
        let models = MODELS.iter().zip(self.rates).map(|((name, ..), rate)| {
            ModelLoad::new(*name, OBJECTIVE, ArrivalProcess::Poisson { rate })
        });
        Workload::new(self.length, Nanos::ZERO, None, models.collect()).expect("a valid workload")
    }
}

fn of<'a>(profile: &'a Profile, name: &str) -> &'a ModelProfile {
    let found = profile.models.iter().find(|model| model.name == name);
    found.expect("a model of the profile")
}

fn device() -> DeviceSpec {
    let lanes = [LaneClass::Normal; LANES];
    DeviceSpec::nested(DeviceId(0), "bench", SLICES, &lanes, &lanes[..1])
}

fn config(policy: &PolicySpec) -> SchedulerConfig {
    SchedulerConfig {
        policy: policy.clone(),
        explanations: 0,
        ..SchedulerConfig::default()
    }
}

fn scenario(policy: &PolicySpec, load: &Load) -> Row {
    let profile = v100_dstack();
    let workload = load.workload();
    let options = SimOptions {
        slots: SLOTS,
        ..SimOptions::default()
    };
    let scenario =
        Scenario::new(&profile, workload, device(), options).expect("profiled models on a device");
    let begun = Instant::now();
    let tally = scenario.run(config(policy), 1).tally;
    let seconds = begun.elapsed().as_secs_f64();
    let models = tally.models.iter();
    Row {
        requests: models.clone().map(|model| model.requests).sum(),
        completed: models.map(|model| model.good + model.late).sum(),
        seconds,
        hash: tally.action_hash,
    }
}

fn script(policy: &PolicySpec, load: &Load) -> Row {
    let profile = v100_dstack();
    let tables = MODELS.map(|(name, ..)| {
        let model = of(&profile, name);
        let slices = Share(profile.device.slices);
        let max = BatchSize(model.max_batch);
        ServiceTable::new(model, slices, SLICES, max).expect("times of every batch")
    });
    let device = device();
    let shares: Vec<Share> = device.partitions.iter().map(|part| part.share()).collect();
    let service = move |start: &Start| {
        let share = shares[usize::from(start.partition.0)];
        tables[start.model.0 as usize]
            .service(start.batch, share)
            .alone
    };
    let scheduler = Scheduler::new(config(policy));
    let mut world = World::new(scheduler, vec![SimDevice::new(device)], service);
    for (id, (name, ..)) in (0..).zip(MODELS) {
        let model = of(&profile, name);
        world.push(Timestamp::ZERO, Input::ModelAdded(spec(id, model)));
    }
    let mut requests = 0;
    for arrival in load.workload().arrivals(1) {
        let model = ModelId(u32::try_from(arrival.model).expect("four models"));
        world.push_arrival(request(requests, model, arrival.at));
        requests += 1;
    }
    let begun = Instant::now();
    world.run();
    let seconds = begun.elapsed().as_secs_f64();
    let hash = world.scheduler().action_hash();
    let actions = world.effects_mut().actions.iter();
    let starts = actions.filter_map(|(_, action)| match action {
        Action::Start(start) => Some(start.requests.len() as u64),
        Action::Finish { .. } | Action::Revoke { .. } | Action::ModelDrained { .. } => None,
    });
    Row {
        requests,
        completed: starts.sum(),
        seconds,
        hash,
    }
}

fn spec(id: u32, model: &ModelProfile) -> ModelSpec {
    ModelSpec {
        id: ModelId(id),
        name: model.name.clone(),
        slo: Some(OBJECTIVE),
        weight: 1.0,
        max_batch: BatchSize(model.max_batch),
        slots: SLOTS,
        legs: 1,
        unsplit: false,
        devices: vec![DeviceId(0)],
        limits: QueueLimits {
            requests: 16_384,
            bytes: u64::MAX,
        },
        batching: DynamicBatching::default(),
    }
}

fn request(id: u64, model: ModelId, at: Timestamp) -> Arrival {
    Arrival {
        request: RequestId(id),
        model,
        items: BatchSize(1),
        bytes: 0,
        class: ShapeClass(0),
        received: at,
        deadline: None,
        queue_timeout: None,
        overdue: Overdue::Drop,
        priority: 0,
    }
}

fn main() -> std::io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&String> = words
        .iter()
        .filter(|word| !word.starts_with("--"))
        .collect();
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "path,policy,load,requests,completed,seconds,requests_per_s,ns_per_request,action_hash"
    )?;
    type Path = fn(&PolicySpec, &Load) -> Row;
    let paths: [(&str, Path); 2] = [("scenario", scenario), ("script", script)];
    for (path, run) in paths {
        for policy in PolicySpec::NAMES {
            for load in Load::all() {
                let name = format!("{path},{policy},{}", load.name);
                if !words.iter().all(|word| name.contains(word.as_str())) {
                    continue;
                }
                let spec = PolicySpec::named(policy).expect("a policy of its name");
                let row = run(&spec, &load);
                let per_request = row.seconds * 1e9 / row.requests as f64;
                writeln!(
                    out,
                    "{name},{},{},{:.2},{:.0},{per_request:.0},{:016x}",
                    row.requests,
                    row.completed,
                    row.seconds,
                    1e9 / per_request,
                    row.hash
                )?;
            }
        }
    }
    Ok(())
}

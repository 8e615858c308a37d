//! Measures what a device filled with one model gets done at several (batch, share)
//! points, in turns: as many copies as fit side by side, each lane with one leg running
//! and the next one committed, as the scheduler keeps them.
//!
//! ```text
//! cargo run --release -p fugato-device --example throughput -- \
//!     STORE ROUNDS SECONDS MODEL.onnx BATCH:SHARE[:LANES].. [MODEL.onnx BATCH:SHARE[:LANES]..]..
//! ```
//!
//! Prints, for each point, items per second and the median time of a leg by round. Of several
//! `LANES` each copy's slices run as many legs at once, which share them in time: what that
//! costs is the items per second beside those of one lane.

#![allow(clippy::print_stdout, reason = "it prints its result")]

mod common;

use anyhow::{Context, Result, bail, ensure};
use common::{one_item, runtime};
use fugato_core::device::{AtomSet, DeviceSpec};
use fugato_core::sched::Start;
use fugato_core::{
    BatchSize, DeviceId, LaneId, LegIndex, ModelId, PartitionId, RequestId, Share, SlotIndex,
    TaskId, Timestamp,
};
use fugato_device::{
    CpuDevice, CpuOptions, Device, DeviceEvent, InputTensor, LegWork, LoadOptions, ModelStore,
    MonotonicClock, RequestInputs,
};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

const MODEL: ModelId = ModelId(1);
/// Legs of each lane that end before a turn's first counted one, so that caches hold the
/// point's model and no lane idles.
const WARM_LEGS: usize = 1;
/// Legs of each lane that a turn counts at least, however long they take.
const LEGS_MIN: usize = 3;

/// How often each point has its turn, and how long that is.
#[derive(Clone, Copy, Debug)]
struct Turns {
    rounds: usize,
    seconds: f64,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    batch: u32,
    share: Share,
    /// That share the slices of each copy in time.
    lanes: u16,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what| arguments.next().with_context(|| format!("expected {what}"));
    let store = ModelStore::open(&runtime()?, next("a folder of the model store")?)?;
    let turns = Turns {
        rounds: next("a number of rounds")?.parse()?,
        seconds: next("the seconds of a turn")?.parse()?,
    };
    let mut models: Vec<(String, Vec<Point>)> = Vec::new();
    for argument in arguments {
        match (argument.split_once(':'), models.last_mut()) {
            (Some((batch, place)), Some((_, points))) => {
                let (share, lanes) = place.split_once(':').unwrap_or((place, "1"));
                points.push(Point {
                    batch: batch.parse()?,
                    share: Share(share.parse()?),
                    lanes: lanes.parse()?,
                });
            }
            _ => models.push((argument, Vec::new())),
        }
    }
    ensure!(!models.is_empty(), "expected MODEL.onnx BATCH:SHARE..");
    let reports = models
        .iter()
        .map(|(path, points)| measure(&store, path, points, turns));
    let report = json!({
        "schema": "fugato.throughput/1",
        "rounds": turns.rounds,
        "turn_s": turns.seconds,
        "models": reports.collect::<Result<Vec<_>>>()?,
    });
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}

/// Measures the points of one model in turns.
fn measure(store: &ModelStore, path: &str, points: &[Point], turns: Turns) -> Result<Value> {
    ensure!(
        !points.is_empty(),
        "expected points of `{path}`, such as 4:1"
    );
    let stored = store.prepare(path)?;
    let mut rig = Rig::new(one_item(&stored.info().inputs, 128).into())?;
    let most = points.iter().map(|point| point.batch).max().unwrap_or(1);
    let lanes = points.iter().map(|point| point.lanes).max().unwrap_or(1);
    rig.load(&stored, most, lanes)?;
    let mut rates = vec![Vec::new(); points.len()];
    let mut times = vec![Vec::new(); points.len()];
    for round in 0..turns.rounds {
        for turn in 0..points.len() {
            // Each round begins with another point, so that none always follows the same.
            let index = (round + turn) % points.len();
            let (rate, time) = rig.turn(points[index], turns.seconds)?;
            rates[index].push(rate);
            times[index].push(time);
        }
    }
    let rows = points.iter().zip(rates.iter().zip(&times));
    let rows = rows.map(|(point, (rates, times))| {
        json!({
            "batch": point.batch,
            "share": point.share.0,
            "lanes": point.lanes,
            "copies": rig.side_by_side(point.share).len(),
            "items_per_s": rates,
            "leg_s": times,
        })
    });
    Ok(json!({ "model": path, "points": rows.collect::<Vec<_>>() }))
}

/// A device, and what it tells.
struct Rig {
    device: CpuDevice,
    clock: MonotonicClock,
    events: Receiver<DeviceEvent>,
    inputs: Arc<[InputTensor]>,
    tasks: u64,
}

/// The legs of one lane that ended in a turn.
#[derive(Default)]
struct Ends {
    at: Vec<Timestamp>,
    took_s: Vec<f64>,
}

impl Rig {
    fn new(inputs: Arc<[InputTensor]>) -> Result<Self> {
        let clock = MonotonicClock::start();
        let (sender, events) = channel();
        let sender = Mutex::new(sender);
        let sink = Arc::new(move |event| {
            let sender = sender.lock().expect("no holder panics");
            // A receiver that is gone is a program that ends.
            let _ = sender.send(event);
        });
        Ok(Self {
            device: CpuDevice::new(DeviceId(0), CpuOptions::default(), clock, sink)?,
            clock,
            events,
            inputs,
            tasks: 0,
        })
    }

    fn load(&self, stored: &fugato_device::StoredModel, max_batch: u32, lanes: u16) -> Result<()> {
        let partitions = &self.device.spec().partitions;
        let options = LoadOptions {
            max_batch,
            // One leg running and one committed for each lane.
            slots: 2 * lanes * self.device.spec().slices.0,
            warm: partitions.iter().map(|partition| partition.id).collect(),
            ..LoadOptions::default()
        };
        self.device.load(MODEL, stored, &options)?;
        Ok(())
    }

    /// Partitions of a share that can run at once, as many as fit.
    fn side_by_side(&self, share: Share) -> Vec<PartitionId> {
        let spec: &DeviceSpec = self.device.spec();
        let mut held: Vec<AtomSet> = Vec::new();
        let mut chosen = Vec::new();
        for partition in spec
            .partitions
            .iter()
            .filter(|partition| partition.share() == share)
        {
            if !held.iter().any(|atoms| atoms.overlaps(partition.atoms)) {
                held.push(partition.atoms);
                chosen.push(partition.id);
            }
        }
        chosen
    }

    /// Runs one point for about `seconds`; gives items per second and the median leg.
    fn turn(&mut self, point: Point, seconds: f64) -> Result<(f64, f64)> {
        let partitions = self.side_by_side(point.share);
        ensure!(
            !partitions.is_empty() && point.lanes > 0,
            "the device has no partition of share {} and {} lanes",
            point.share.0,
            point.lanes
        );
        let lanes = partitions
            .iter()
            .flat_map(|&at| (0..point.lanes).map(move |lane| (at, LaneId(lane))));
        let lanes: Vec<(PartitionId, LaneId)> = lanes.collect();
        let mut lane_of = HashMap::new();
        for (index, lane) in lanes.iter().enumerate() {
            for slot in 0..2 {
                let slot = SlotIndex(u16::try_from(2 * index + slot)?);
                lane_of.insert(self.start(point, *lane, slot), (index, slot));
            }
        }
        let mut ends: Vec<Ends> = lanes.iter().map(|_| Ends::default()).collect();
        let begun = self.clock.now();
        while !lane_of.is_empty() {
            let DeviceEvent::Finished {
                task,
                started,
                ended,
                result,
                ..
            } = self.events.recv()?
            else {
                continue;
            };
            ensure!(!result?.requests.is_empty(), "a leg without outputs");
            let Some((index, slot)) = lane_of.remove(&task) else {
                bail!("{task} ended twice");
            };
            ends[index].at.push(ended);
            ends[index]
                .took_s
                .push((ended - started).as_nanos() as f64 / 1e9);
            let over = (ended - begun).as_nanos() as f64 / 1e9 >= seconds;
            let enough = ends.iter().all(|ends| ends.at.len() > WARM_LEGS + LEGS_MIN);
            // All lanes stop together: none is counted beside idle neighbours for long.
            if !(over && enough) {
                lane_of.insert(self.start(point, lanes[index], slot), (index, slot));
            }
        }
        Ok(figures(&ends, point.batch))
    }

    fn start(
        &mut self,
        point: Point,
        (partition, lane): (PartitionId, LaneId),
        slot: SlotIndex,
    ) -> TaskId {
        self.tasks += 1;
        let task = TaskId(self.tasks);
        let items = (0..point.batch).map(|_| RequestInputs {
            items: 1,
            inputs: Arc::clone(&self.inputs),
        });
        self.device.start(LegWork {
            requests: items.collect(),
            start: Start {
                device: DeviceId(0),
                task,
                model: MODEL,
                leg: LegIndex(0),
                partition,
                lane,
                slot,
                batch: BatchSize(point.batch),
                unsplit: false,
                not_before: Timestamp::ZERO,
                requests: (0..u64::from(point.batch)).map(RequestId).collect(),
            },
        });
        task
    }
}

/// Items per second of all lanes, and the median leg. A lane's rate is taken from end to
/// end of its own legs, so that no part of a leg is counted; its last two legs may have run
/// beside a lane that had stopped, and are left out.
fn figures(ends: &[Ends], batch: u32) -> (f64, f64) {
    let mut rate = 0.0;
    let mut took = Vec::new();
    for lane in ends {
        let last = lane.at.len().saturating_sub(3).max(WARM_LEGS);
        let (from, to) = (lane.at[WARM_LEGS - 1], lane.at[last]);
        let legs = (last + 1 - WARM_LEGS) as f64;
        rate += legs * f64::from(batch) / ((to - from).as_nanos() as f64 / 1e9);
        took.extend(&lane.took_s[WARM_LEGS..=last]);
    }
    took.sort_unstable_by(f64::total_cmp);
    (rate, took[took.len() / 2])
}

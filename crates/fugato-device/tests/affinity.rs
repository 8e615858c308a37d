//! Where the operating system lets lanes run: one test, since it looks at all threads of
//! the process.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{Bench, Rig, allowed_cores, cores, dense, random_rows, request};
use fugato_core::device::LaneClass;
use fugato_core::{LaneId, PartitionId};
use fugato_device::{CpuError, CpuOptions, Device, MonotonicClock};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Of each thread of this process: its name, to its cores and niceness.
fn threads() -> BTreeMap<String, Vec<(Vec<usize>, i32)>> {
    let mut threads: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let read = |file: &str| std::fs::read_to_string(task.path().join(file)).unwrap();
        let name = read("comm").trim().to_owned();
        let status = read("status");
        let stat = read("stat");
        // The name may hold spaces; niceness is the 17th field after it.
        let niceness = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(16);
        let found = (allowed_cores(&status), niceness.unwrap().parse().unwrap());
        threads.entry(name).or_default().push(found);
    }
    threads
}

#[test]
fn lanes_and_their_pools_have_their_cores_and_priority() {
    let bench = Bench::new();
    let rig = Rig::new();
    rig.load(1, &bench.prepare(&dense(64)), 1);
    let spec = rig.device.spec().clone();
    for partition in &spec.partitions {
        for lane in 0..partition.lanes.len() {
            let mut leg = rig.leg(1, vec![request(1, vec![random_rows(1, 1, 64)])]);
            leg.start.partition = partition.id;
            leg.start.lane = LaneId(u16::try_from(lane).unwrap());
            rig.device.start(leg);
            rig.finished().result.unwrap();
        }
    }
    let cores = cores();
    let mut expected = BTreeMap::new();
    for partition in &spec.partitions {
        let own: Vec<usize> = partition
            .atoms
            .iter()
            .map(|atom| cores[usize::from(atom)])
            .collect();
        for (lane, class) in partition.lanes.iter().enumerate() {
            let niceness = match class {
                LaneClass::Normal => 15,
                LaneClass::Urgent => 0,
            };
            let name = format!("lane-{}.{lane}", partition.id.0);
            // A class's session was made by the thread that first needed it, whose name
            // its own threads bear: the whole device's normal one when loading.
            let loaded = partition.id == PartitionId(0) && *class == LaneClass::Normal;
            let first = partition.lanes.iter().position(|other| other == class) == Some(lane);
            // The first of a class stays on one core, and each thread of the pool on another.
            let lanes_own = if first { vec![own[0]] } else { own.clone() };
            let pool = if first && !loaded { &own[1..] } else { &[] };
            let pool = pool.iter().map(|&core| vec![core]);
            let threads = std::iter::once(lanes_own).chain(pool);
            let mut threads: Vec<_> = threads.map(|cores| (cores, niceness)).collect();
            threads.sort();
            expected.insert(name, threads);
        }
    }
    // The session made when loading: its threads bear the loading thread's name.
    if cores.len() > 1 {
        let pool = cores[1..].iter().map(|&core| (vec![core], 15)).collect();
        expected.insert("fugato-load".to_owned(), pool);
    }
    // A thread of a pool takes its core when it first runs, which may be after its session has.
    let found = || {
        let mut found = threads();
        found.retain(|name, _| expected.contains_key(name));
        found.values_mut().for_each(|threads| threads.sort());
        found
    };
    let begun = std::time::Instant::now();
    while found() != expected && begun.elapsed().as_secs() < 30 {
        std::thread::yield_now();
    }
    assert_eq!(found(), expected);
    let threads = threads();
    let mut others = threads.iter();
    assert!(others.any(|(name, own)| {
        !name.starts_with("lane-") && own.iter().any(|(_, niceness)| *niceness == 0)
    }));
}

#[test]
fn cores_that_cannot_be_used_are_named() {
    let error = |cores: Vec<usize>| {
        let options = CpuOptions {
            cores,
            ..CpuOptions::default()
        };
        let device = fugato_device::CpuDevice::new(
            fugato_core::DeviceId(0),
            options,
            MonotonicClock::start(),
            Arc::new(|_| {}),
        );
        device.err().expect("the cores are wrong")
    };
    let first = cores()[0];
    assert!(matches!(
        error(vec![1023]),
        CpuError::Core { core: 1023, .. }
    ));
    assert!(matches!(
        error(vec![first, first]),
        CpuError::Core {
            found: "named twice",
            ..
        }
    ));
}

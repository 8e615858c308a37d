//! Devices that no model connects: what is asked of one is nothing to the other.

mod common;

use common::{MS, US, arrival, at, config, device, model, outcomes, starts, world};
use fugato_core::device::{DeviceSpec, LaneClass};
use fugato_core::sched::{
    Arrival, Input, ModelSpec, Outcome, PolicySpec, QueueLimits, SchedulerConfig, Start,
};
use fugato_core::sim::World;
use fugato_core::{BatchSize, DeviceId, ModelId, Nanos, RequestId, Share, Timestamp};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Models of each device: the first is of device 0, the others of device 1.
const LARGE: [u32; 2] = [0, 1];
const SMALL: [u32; 2] = [2, 3];

const SLO: u64 = 40 * MS;

/// A device of eight slices in any run of them, and one of two in halves.
fn devices() -> Vec<DeviceSpec> {
    let lanes = [LaneClass::Normal; 3];
    let large = DeviceSpec::ranges(DeviceId(0), "large", Share(8), Share(1), &lanes, &lanes);
    vec![large, device(1, 2, 2)]
}

fn on(device: u16, id: u32) -> ModelSpec {
    ModelSpec {
        devices: vec![DeviceId(device)],
        slo: Some(Nanos::new(SLO)),
        limits: QueueLimits {
            requests: 100,
            bytes: 1 << 20,
        },
        ..model(id)
    }
}

/// A batch of `b` takes `b` ms over the slices, of which two help.
fn service(start: &Start) -> Nanos {
    let spec = &devices()[usize::from(start.device.0)];
    let share = spec.partitions[usize::from(start.partition.0)].share().0;
    Nanos::new(u64::from(start.batch.0) * MS / u64::from(share.min(2)))
}

fn settings(policy: PolicySpec) -> SchedulerConfig {
    SchedulerConfig {
        limits: QueueLimits {
            requests: 1_000_000,
            bytes: 1 << 40,
        },
        ..config(policy)
    }
}

/// A world with both devices, models on each, and these arrivals.
fn served(config: SchedulerConfig, arrivals: &[Arrival]) -> World {
    let mut world = world(config, devices(), service);
    for (device, models) in [(0, LARGE), (1, SMALL)] {
        for id in models {
            world.push(Timestamp::ZERO, Input::ModelAdded(on(device, id)));
        }
    }
    let mut arrivals = arrivals.to_vec();
    arrivals.sort_by_key(|arrival| (arrival.received, arrival.request));
    for arrival in arrivals {
        world.push(arrival.received, Input::Arrived(arrival));
    }
    let steps = (0..2_000_000).take_while(|_| world.step()).count();
    assert!(steps < 2_000_000, "the world does not come to rest");
    world.scheduler().audit();
    world
}

/// A request every `gap` to each of the models in turn, for `time`.
fn load(models: [u32; 2], first: u64, (gap, time): (u64, u64)) -> Vec<Arrival> {
    let count = time / gap;
    let one = |turn: u64| {
        let model = models[usize::try_from(turn % 2).expect("two")];
        arrival(first + turn, model, turn * gap)
    };
    (0..count).map(one).collect()
}

/// How the requests from `first` on ended.
fn ends(world: &mut World, first: u64) -> BTreeMap<u64, Outcome> {
    let all = outcomes(world).into_iter();
    all.filter(|(request, _)| *request >= first).collect()
}

#[test]
fn a_flood_of_one_device_refuses_nothing_of_the_other() {
    for name in PolicySpec::NAMES {
        let policy = PolicySpec::named(name).expect("it is in the list");
        for (calm, flooded) in [(SMALL, LARGE), (LARGE, SMALL)] {
            // A fifth of what the smaller device can do, and twice what the larger one can.
            let calm = load(calm, 1_000_000, (10 * MS, 400 * MS));
            let flood = load(flooded, 0, (60 * US, 400 * MS));
            let mut alone = served(settings(policy.clone()), &calm);
            let mut both = served(settings(policy.clone()), &[calm, flood].concat());
            let alone = ends(&mut alone, 1_000_000);
            let beside = ends(&mut both, 1_000_000);
            let done = |ends: &BTreeMap<u64, Outcome>| {
                let done = ends.values().filter(|end| **end == Outcome::Completed);
                (done.count(), ends.len())
            };
            assert_eq!(done(&alone), (40, 40), "{name}, alone: {alone:?}");
            assert_eq!(done(&beside), (40, 40), "{name}: {beside:?}");
            let lost = ends(&mut both, 0);
            let lost = lost.values().filter(|end| **end != Outcome::Completed);
            assert!(lost.count() > 0, "{name}: it was no flood");
        }
    }
}

#[test]
fn a_model_is_measured_while_the_other_device_is_busy() {
    let config = SchedulerConfig {
        profile_share: 0.05,
        ..settings(PolicySpec::Edf)
    };
    let mut world = world(config, devices(), service);
    for (device, id) in [(0, 0), (1, 2)] {
        world.push(Timestamp::ZERO, Input::ModelAdded(on(device, id)));
        let model = ModelId(id);
        world.push(Timestamp::ZERO, Input::ProfileWanted { model });
    }
    // The larger device has never a gap.
    for arrival in load([0, 0], 0, (500 * US, 2_000 * MS)) {
        world.push(arrival.received, Input::Arrived(arrival));
    }
    world.run_before(at(2_000 * MS));
    let measured = |id| world.scheduler().measured_points(ModelId(id)).len();
    assert_eq!(measured(0), 0, "its device is busy");
    assert!(measured(2) > 0, "its device is idle");
}

#[test]
fn max_min_compares_with_models_of_the_same_device_only() {
    let mut world = world(settings(PolicySpec::MaxMin), devices(), service);
    for (device, id) in [(1, 2), (1, 3), (0, 0)] {
        let spec = ModelSpec {
            slo: None,
            ..on(device, id)
        };
        world.push(Timestamp::ZERO, Input::ModelAdded(spec));
    }
    // One of the smaller device always asks, one falls silent, and the larger device runs up many
    // times their slice-time meanwhile.
    let mut arrivals = load([0, 0], 0, (MS, 1_000 * MS));
    arrivals.extend(load([2, 2], 10_000, (MS, 1_200 * MS)));
    arrivals.extend([arrival(20_000, 3, 0)]);
    arrivals.extend((0..40).map(|turn| arrival(20_001 + turn, 3, 1_100 * MS)));
    arrivals.sort_by_key(|arrival| (arrival.received, arrival.request));
    for arrival in arrivals {
        world.push(arrival.received, Input::Arrived(arrival));
    }
    world.run_before(at(1_150 * MS));
    let of_returned = starts(&mut world).into_iter();
    let of_returned =
        of_returned.filter(|(at, start)| start.model == ModelId(3) && *at > 1_100 * MS);
    assert!(
        of_returned.count() >= 2,
        "it has to wait for another device's models"
    );
}

#[test]
fn a_model_of_both_devices_joins_what_waits_for_either() {
    for name in PolicySpec::NAMES {
        let policy = PolicySpec::named(name).expect("it is in the list");
        let mut world = world(settings(policy), devices(), service);
        for (device, id) in [(0, 0), (1, 2)] {
            world.push(Timestamp::ZERO, Input::ModelAdded(on(device, id)));
        }
        let mut arrivals = load([0, 2], 0, (100 * US, 60 * MS));
        arrivals.extend(
            load([4, 4], 10_000, (MS, 40 * MS))
                .into_iter()
                .map(|late| Arrival {
                    received: late.received + Nanos::new(20 * MS),
                    ..late
                }),
        );
        arrivals.sort_by_key(|arrival| (arrival.received, arrival.request));
        let both = ModelSpec {
            devices: vec![DeviceId(1), DeviceId(0)],
            ..on(0, 4)
        };
        let mut is_added = false;
        for arrival in arrivals {
            if !is_added && arrival.received >= at(15 * MS) {
                is_added = true;
                world.push(at(15 * MS), Input::ModelAdded(both.clone()));
            }
            world.push(arrival.received, Input::Arrived(arrival));
        }
        while world.step() {
            world.scheduler().audit();
        }
        let ended = outcomes(&mut world);
        assert_eq!(ended.len(), 600 + 40, "{name}");
        let ran = starts(&mut world).into_iter();
        let ran = ran.filter(|(_, start)| start.model == ModelId(4));
        assert!(ran.count() > 0, "{name}");
    }
}

#[test]
fn a_share_that_a_device_has_not_becomes_the_next_larger_one() {
    // Of eight slices in halves and their halves; the smaller device has no four, and is used whole.
    for (share, (of_eight, of_two)) in [(4, (4, 2)), (3, (4, 2)), (1, (1, 1))] {
        let policy = PolicySpec::Uncontrolled {
            lanes: 3,
            share: Some(Share(share)),
        };
        let devices = vec![device(0, 8, 3), device(1, 2, 3)];
        let mut world = world(settings(policy), devices.clone(), |_| Nanos::new(MS));
        for (device, id) in [(0, 0), (1, 2)] {
            world.push(Timestamp::ZERO, Input::ModelAdded(on(device, id)));
        }
        for arrival in load([0, 2], 0, (MS, 20 * MS)) {
            world.push(arrival.received, Input::Arrived(arrival));
        }
        while world.step() {
            world.scheduler().audit();
        }
        let ended = outcomes(&mut world).into_iter();
        let ended: Vec<Outcome> = ended.map(|(_, outcome)| outcome).collect();
        assert_eq!(ended, vec![Outcome::Completed; 20], "share {share}");
        let ran = starts(&mut world).into_iter().map(|(_, start)| {
            let partitions = &devices[usize::from(start.device.0)].partitions;
            let partition = &partitions[usize::from(start.partition.0)];
            (start.device.0, partition.share().0)
        });
        let ran: BTreeSet<_> = ran.collect();
        assert_eq!(ran, [(0, of_eight), (1, of_two)].into(), "share {share}");
    }
}

/// Requests to one device: when, to which of its models, with how many items.
fn requests() -> impl Strategy<Value = Vec<(u64, usize, u32)>> {
    prop::collection::vec((0..60 * MS, 0_usize..2, 1_u32..9), 0..80)
}

fn arrivals(requests: &[(u64, usize, u32)], models: [u32; 2], first: u64) -> Vec<Arrival> {
    let numbered = requests.iter().zip(first..);
    numbered
        .map(|(&(received, model, items), request)| Arrival {
            items: BatchSize(items),
            ..arrival(request, models[model], received)
        })
        .collect()
}

/// When which requests ran together, and how each ended.
type Course = (Vec<(u64, Vec<RequestId>)>, BTreeMap<u64, Outcome>);

/// The course of the requests from `first` on.
fn course(world: &mut World, first: u64) -> Course {
    let ran = starts(world)
        .into_iter()
        .map(|(at, start)| (at, start.requests));
    let ran = ran.filter(|(_, requests)| requests.iter().any(|request| request.0 >= first));
    (ran.collect(), ends(world, first))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Under policies that decide by events alone, a device's tasks are the same to the
    /// nanosecond whatever the other one does. Others, `fugato` among them, decide again at times of
    /// their own, or at events of either.
    #[test]
    fn a_device_runs_the_same_whatever_the_other_does(
        policy in prop::sample::select(vec!["fifo", "edf", "edf-legs", "uncontrolled", "clipper"]),
        large in requests(),
        small in requests(),
    ) {
        let policy = PolicySpec::named(policy).expect("it is in the list");
        let small = arrivals(&small, SMALL, 1_000_000);
        let large = arrivals(&large, LARGE, 0);
        let mut alone = served(settings(policy.clone()), &small);
        let mut both = served(settings(policy), &[large, small].concat());
        prop_assert_eq!(course(&mut both, 1_000_000), course(&mut alone, 1_000_000));
    }
}

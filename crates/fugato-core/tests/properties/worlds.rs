//! Random worlds: devices, models, and what happens to them.

use crate::common::{MS, US, arrival, at, config, device, model};
use fugato_core::device::{DeviceSpec, LaneClass};
use fugato_core::policy::{FugatoParts, OperatingPoint};
use fugato_core::sched::{
    Arrival, DeadlineMode, DynamicBatching, Input, ModelSpec, Overdue, PolicySpec, QueueLimits,
    SchedulerConfig,
};
use fugato_core::{BatchSize, DeviceId, Nanos, RequestId, ShapeClass, Share};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// What one random world is made of.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) config: SchedulerConfig,
    pub(crate) devices: Vec<DeviceSpec>,
    pub(crate) models: Vec<ModelSpec>,
    pub(crate) events: Vec<(u64, Input)>,
    pub(crate) noise: Vec<u64>,
}

/// Every policy there is, as it is named, and one with few lanes and shares.
pub(crate) fn policies() -> impl Strategy<Value = PolicySpec> {
    let named = PolicySpec::NAMES.map(|name| PolicySpec::named(name).expect("it is in the list"));
    let crowded = (1u16..5, prop::option::of(Just(Share(1))));
    prop_oneof![
        4 => prop::sample::select(named.to_vec()),
        1 => crowded.prop_map(|(lanes, share)| PolicySpec::Uncontrolled { lanes, share }),
        1 => prop::option::of(100 * US..20 * MS).prop_map(|cycle| PolicySpec::Temporal {
            cycle: cycle.map(Nanos::new)
        }),
        1 => (10u8..=100).prop_map(|target_percent| PolicySpec::Clipper { target_percent }),
        1 => (1u16..5, 10u8..=100).prop_map(|(lanes, target_percent)| PolicySpec::Gslice {
            lanes,
            target_percent
        }),
        // Past what a device has, too, which the policy's own check refuses.
        2 => (any::<bool>(), 0u16..10).prop_map(|(dynamic, margin)| PolicySpec::Dstack {
            point: OperatingPoint::Work,
            margin: Share(margin),
            dynamic,
        }),
        1 => any::<[bool; 10]>().prop_map(|[preempt, leg_shares, widen, dequeue, work_interval, best_batch, give_up, niceness, unsplit, leave_room]| {
            let parts = FugatoParts { preempt, leg_shares, widen, dequeue, work_interval, best_batch, give_up, niceness, unsplit, leave_room };
            PolicySpec::Fugato(parts)
        }),
    ]
}

prop_compose! {
    fn models(devices: u16)(
        count in 1u32..5,
    )(
        models in prop::collection::vec(
            (prop::option::of(2u64..40), 1u32..9, 1u16..4, 1u16..4, 1u16..3, 0u64..800, any::<bool>(), 1u16..(1 << devices)),
            count as usize,
        ),
    ) -> Vec<ModelSpec> {
        models.into_iter().zip(0..).map(|((slo, max_batch, slots, legs, instances, delay, preferred, hosts), id)| {
            let preferred = if preferred { vec![BatchSize(max_batch.div_ceil(2))] } else { Vec::new() };
            let devices = (0..devices).filter(|device| hosts >> device & 1 == 1).map(DeviceId).collect();
            ModelSpec {
                slo: slo.map(Nanos::from_millis),
                max_batch: BatchSize(max_batch),
                slots,
                legs,
                // So that models of several legs are of both kinds.
                unsplit: delay % 2 == 0,
                devices,
                limits: QueueLimits { requests: 40, bytes: 4_000 },
                batching: DynamicBatching { instances, preferred, max_queue_delay: Nanos::new(delay * US) },
                ..model(id)
            }
        }).collect()
    }
}

/// A device of an odd number of slices with an urgent lane in each partition; others as they
/// are.
fn with_urgent(mut device: DeviceSpec) -> DeviceSpec {
    for partition in device
        .partitions
        .iter_mut()
        .filter(|_| device.slices.0 % 2 == 1)
    {
        partition.lanes.push(LaneClass::Urgent);
    }
    device
}

/// One random happening: when (after the last), what, and its own random numbers.
type Happening = (u64, u8, u32, u32, u64);

fn events(
    happenings: Vec<Happening>,
    models: &[ModelSpec],
    devices: &[DeviceSpec],
) -> Vec<(u64, Input)> {
    let (mut now, mut next) = (0, 0);
    let mut lost = BTreeSet::new();
    let mut events = Vec::new();
    for (gap, what, pick, items, number) in happenings {
        now += gap;
        let spec = &models[pick as usize % models.len()];
        let device = DeviceId(u16::try_from(pick as usize % devices.len()).unwrap_or(0));
        let input = match what {
            0..=79 => {
                let request = Arrival {
                    items: BatchSize(1 + items % (spec.max_batch.0 + 1)),
                    bytes: 1 + number % 200,
                    class: ShapeClass(u32::from(number % 5 == 0)),
                    deadline: (number % 7 == 0).then(|| at(now + number % (20 * MS))),
                    queue_timeout: (number % 11 == 0).then(|| at(now + number % (5 * MS))),
                    overdue: if number % 2 == 0 {
                        Overdue::Drop
                    } else {
                        Overdue::Delay
                    },
                    priority: u32::from(number % 13 == 0),
                    ..arrival(next, spec.id.0, now)
                };
                next += 1;
                Input::Arrived(request)
            }
            80..=93 => Input::Cancelled {
                request: RequestId(number % (next + 1)),
            },
            94..=96 if devices.len() > 1 => {
                if lost.remove(&device) {
                    Input::DeviceAdded(devices[usize::from(device.0)].clone())
                } else {
                    lost.insert(device);
                    Input::DeviceLost { device }
                }
            }
            97 => Input::ModelChanged(ModelSpec {
                slots: 1 + (number % 3) as u16,
                ..spec.clone()
            }),
            _ => Input::Timeout,
        };
        events.push((now, input));
    }
    // What waits for a lost device waits until it is back.
    events.extend(lost.iter().map(|device| {
        (
            now,
            Input::DeviceAdded(devices[usize::from(device.0)].clone()),
        )
    }));
    events
}

prop_compose! {
    pub(crate) fn scenarios()(
        policy in policies(),
        observe in any::<bool>(),
        lead in 0u64..600,
        profile_share in prop_oneof![Just(0.0), Just(0.05), Just(1.0)],
        slices in prop::collection::vec(1u16..9, 1..3),
    )(
        models in models(u16::try_from(slices.len()).unwrap_or(1)),
        happenings in prop::collection::vec(
            (prop_oneof![Just(0u64), 0..300 * US, 0..3 * MS], 0u8..100, any::<u32>(), any::<u32>(), any::<u64>()),
            1..250,
        ),
        noise in prop::collection::vec(50u64..200, 1..20),
        policy in Just(policy), observe in Just(observe), lead in Just(lead), slices in Just(slices),
        profile_share in Just(profile_share),
    ) -> Scenario {
        let devices: Vec<DeviceSpec> =
            slices.iter().zip(0..).map(|(&slices, id)| with_urgent(device(id, slices, 5))).collect();
        let events = events(happenings, &models, &devices);
        let deadlines = if observe { DeadlineMode::Observe } else { DeadlineMode::Enforce };
        let config = SchedulerConfig {
            deadlines,
            commit_lead: Nanos::new(lead * US),
            decisions: 64,
            profile_share,
            ..config(policy)
        };
        Scenario { config, devices, models, events, noise }
    }
}

//! Overload on the simulator: two models share a device and are offered up to five times
//! what it can do, and bursts of ten times. With admission goodput stays at its peak;
//! without, the same loads collapse it, which shows that the check can fail.
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks at the outcomes it is about"
)]

mod common;

use common::{MS, arrival, at, config, device, model, world};
use fugato_core::sched::{
    Arrival, DeadlineMode, DropReason, Input, ModelSpec, Outcome, PolicySpec, Rejection,
    SchedulerConfig, Start,
};
use fugato_core::sim::EndedRequest;
use fugato_core::workload::{Workload, WorkloadFile};
use fugato_core::{BatchSize, Nanos, RequestId, Timestamp};
use std::collections::BTreeMap;

/// Requests that come before this are not counted: from them the latencies are learned.
const WARM_UP: u64 = 3_000 * MS;
const SECONDS: u64 = 20;
const SLO_MS: [u64; 2] = [250, 500];
/// Requests per second at which each model by itself would take about half of the device.
const RATES: [f64; 2] = [14.0, 7.0];

/// About what ResNet-50 and BERT-base take on two CPU cores: batches help a little.
fn service(start: &Start, noise: u64) -> Nanos {
    let items = u64::from(start.batch.0);
    let base = match start.model.0 {
        0 => 10 * MS + 30 * MS * items,
        _ => 15 * MS + 60 * MS * items,
    };
    Nanos::new(base * noise / 100)
}

/// Both models at `scale` times [`RATES`], the second one optionally in bursts.
fn workload(scale: f64, burst: bool) -> Workload {
    let arrivals = |rate: f64| {
        let low = rate * scale;
        if burst {
            format!(
                r#"{{ kind = "square", low = {low}, high = {}, period = "5s", duty = 0.2 }}"#,
                10.0 * rate
            )
        } else {
            format!(r#"{{ kind = "poisson", rate = {low} }}"#)
        }
    };
    let mut text = format!("duration = \"{SECONDS}s\"\n");
    for (model, (rate, slo)) in RATES.into_iter().zip(SLO_MS).enumerate() {
        let arrivals = arrivals(rate);
        text +=
            &format!("[[model]]\nname = \"m{model}\"\nslo = \"{slo}ms\"\narrivals = {arrivals}\n");
    }
    let file: WorkloadFile = toml::from_str(&text).expect("a valid workload");
    file.resolve(&BTreeMap::new()).expect("a valid workload")
}

/// What became of the requests that came after the warm-up.
#[derive(Debug, Default)]
struct Tally {
    /// By model, requests per second that ended in time.
    goodput: [f64; 2],
    completed: u64,
    late: u64,
    rejected: u64,
    dropped: u64,
}

impl Tally {
    fn total(&self) -> f64 {
        self.goodput.iter().sum()
    }
}

fn tally(config: SchedulerConfig, workload: &Workload, seed: u64) -> Tally {
    let mut noise = seed;
    let mut world = world(config, vec![device(0, 2, 1)], move |start| {
        // Uniform from 90 to 120 %.
        noise = noise
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        service(start, 90 + (noise >> 33) % 31)
    });
    for (id, slo) in (0..).zip(SLO_MS) {
        let spec = ModelSpec {
            slo: Some(Nanos::from_millis(slo)),
            max_batch: BatchSize(8),
            ..model(id)
        };
        world.push(Timestamp::ZERO, Input::ModelAdded(spec));
    }
    let mut sent: BTreeMap<RequestId, (usize, Timestamp)> = BTreeMap::new();
    for (id, next) in (0..).zip(workload.arrivals(seed)) {
        let model = u32::try_from(next.model).expect("two models");
        world.push_arrival(arrival(id, model, next.at.as_nanos()));
        sent.insert(RequestId(id), (next.model, next.at));
    }
    world.run();
    let mut tally = Tally::default();
    for &EndedRequest {
        request,
        at: ended,
        outcome,
    } in &world.effects_mut().ended
    {
        let (model, received) = sent[&request];
        if received < at(WARM_UP) {
            continue;
        }
        match outcome {
            Outcome::Completed => {
                tally.completed += 1;
                if ended <= received + Nanos::from_millis(SLO_MS[model]) {
                    tally.goodput[model] += 1e9 / (SECONDS * 1_000 * MS - WARM_UP) as f64;
                } else {
                    tally.late += 1;
                }
            }
            Outcome::Rejected(_) => tally.rejected += 1,
            Outcome::Dropped(_) => tally.dropped += 1,
            other => panic!("{request} ended as {other:?}"),
        }
    }
    tally
}

#[test]
fn goodput_under_overload_stays_at_its_peak() {
    for seed in [1, 2, 3] {
        let run = |scale, burst| tally(config(PolicySpec::Edf), &workload(scale, burst), seed);
        let sweep = [0.5, 0.75, 1.0, 1.25, 1.5, 2.0].map(|scale| run(scale, false));
        let peak = sweep.iter().map(Tally::total).fold(0.0, f64::max);
        let capacity = &sweep[2];
        for scale in [5.0, 10.0] {
            let over = run(scale, false);
            assert!(
                over.total() >= 0.9 * peak,
                "seed {seed}, {scale} x: {:.1} of {peak:.1} per second, {over:?}",
                over.total()
            );
            for model in 0..2 {
                assert!(
                    over.goodput[model] >= 0.4 * capacity.goodput[model],
                    "seed {seed}, {scale} x: model {model} is crowded out, {over:?} against {capacity:?}"
                );
            }
            let accepted = over.completed + over.dropped;
            assert!(
                over.late + over.dropped <= accepted * 15 / 100,
                "seed {seed}, {scale} x: too many promises broken, {over:?}"
            );
        }
        let burst = run(1.0, true);
        assert!(
            burst.total() >= 0.9 * capacity.total(),
            "seed {seed}: bursts of ten times leave {:.1} of {:.1} per second, {burst:?}",
            burst.total(),
            capacity.total()
        );
    }
}

/// The same loads where deadlines are only observed: what admission is for.
#[test]
fn without_admission_overload_collapses_goodput() {
    for policy in [PolicySpec::Edf, PolicySpec::Fifo] {
        let observe = |scale| {
            let config = SchedulerConfig {
                deadlines: DeadlineMode::Observe,
                ..config(policy.clone())
            };
            tally(config, &workload(scale, false), 1)
        };
        let (below, over) = (observe(0.75), observe(5.0));
        assert!(
            below.total() > 10.0 && over.total() < 0.3 * below.total(),
            "{policy:?}: {below:?}, then {over:?}"
        );
    }
}

/// A request far back in the queue, behind a long run, is told as soon as it is certain
/// that it cannot end in time, and not when its deadline passes.
#[test]
fn a_doomed_request_is_dropped_where_it_stands() {
    let spec = |id, slo| ModelSpec {
        slo: Some(Nanos::from_millis(slo)),
        max_batch: BatchSize(1),
        ..model(id)
    };
    // Model 0 takes 10 ms, but for its third task, which takes 100 ms; model 1 takes 30.
    let mut tasks = 0;
    let mut world = world(
        config(PolicySpec::Edf),
        vec![device(0, 2, 1)],
        move |start| {
            tasks += 1;
            Nanos::from_millis(match (start.model.0, tasks) {
                (0, 3) => 100,
                (0, _) => 10,
                _ => 30,
            })
        },
    );
    for spec in [spec(0, 1_000), spec(1, 60)] {
        world.push(Timestamp::ZERO, Input::ModelAdded(spec));
    }
    // Two teach the latencies; at 100 ms a long run begins, which looks like a short one,
    // so another is committed behind it and the one of model 1 waits.
    for (request, model, ms) in [(0, 0, 0), (1, 1, 50), (2, 0, 100)] {
        world.push_arrival(arrival(request, model, ms * MS));
    }
    world.push_arrival(Arrival {
        deadline: Some(at(150 * MS)),
        ..arrival(3, 0, 101 * MS)
    });
    world.push_arrival(arrival(4, 1, 101 * MS));
    world.run();
    let ended = world
        .effects_mut()
        .ended
        .iter()
        .find(|ended| ended.request == RequestId(4))
        .copied()
        .expect("every request ends");
    // Its deadline is at 161 ms; from 131 ms on 30 ms are too long.
    assert_eq!(ended.at, at(131 * MS + 1));
    assert_eq!(
        ended.outcome,
        Outcome::Dropped(DropReason::Doomed {
            deadline: at(161 * MS),
            predicted: at(161 * MS + 1)
        })
    );
}

/// A request with an early deadline waits for another model's earlier ones, and is told
/// so on arrival.
#[test]
fn admission_counts_the_earlier_deadlines_of_other_models() {
    // Weights leave model 0 its share of the device, which is not what this is about.
    let spec = |id, slo, weight| ModelSpec {
        slo: Some(Nanos::from_millis(slo)),
        max_batch: BatchSize(1),
        slots: 1,
        weight,
        ..model(id)
    };
    let mut world = world(config(PolicySpec::Edf), vec![device(0, 2, 1)], |_| {
        Nanos::from_millis(10)
    });
    for spec in [spec(0, 65, 1_000.0), spec(1, 66, 1.0)] {
        world.push(Timestamp::ZERO, Input::ModelAdded(spec));
    }
    world.push_arrival(arrival(0, 0, 0));
    world.push_arrival(arrival(1, 1, 20 * MS));
    // Six of model 0, 60 ms of work due at 165 ms. One of model 1 due at 166 ms comes
    // after them; one due at 140 ms goes before those that have not begun.
    for request in 2..8 {
        world.push_arrival(arrival(request, 0, 100 * MS));
    }
    world.push_arrival(arrival(8, 1, 100 * MS + 1));
    world.push_arrival(Arrival {
        deadline: Some(at(140 * MS)),
        ..arrival(9, 1, 100 * MS + 2)
    });
    world.run();
    let ended = &world.effects_mut().ended;
    let outcome = |request| {
        let mut ended = ended.iter();
        ended.find_map(|ended| (ended.request == RequestId(request)).then_some(ended.outcome))
    };
    let Some(Outcome::Rejected(Rejection::DeadlineUnreachable { wait, run, .. })) = outcome(8)
    else {
        panic!("expected a refusal, got {:?}", outcome(8));
    };
    assert_eq!(run, Nanos::from_millis(10));
    assert!(wait >= Nanos::from_millis(59), "a wait of {wait}");
    assert_eq!(outcome(9), Some(Outcome::Completed));
}

//! Overload on the simulator: two models share a device and are offered up to five times
//! what it can do, and bursts of ten times. With admission goodput stays at its peak;
//! without, the same loads collapse it, which shows that the check can fail.
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks at the outcomes it is about"
)]

mod common;

use common::{MS, arrival, at, batches, config, device, model, world};
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
const SECONDS: u64 = 30;
const SLO_MS: [u64; 2] = [250, 500];

/// Two models that share a device.
#[derive(Clone, Copy, Debug)]
struct Pair {
    name: &'static str,
    /// Of each model, in milliseconds: of a batch by itself, and of each item in it.
    times_ms: [(f64, f64); 2],
    max_batch: u32,
    /// Requests per second at which each model by itself would take about half of the device.
    rates: [f64; 2],
}

/// Batches help a little.
const FLAT: Pair = Pair {
    name: "flat",
    times_ms: [(10.0, 30.0), (15.0, 60.0)],
    max_batch: 8,
    rates: [14.0, 7.0],
};

/// What ResNet-50 and BERT-base took on two CPU cores: batches give one nothing and double
/// the rate of the other.
const STEEP: Pair = Pair {
    name: "steep",
    times_ms: [(1.0, 20.0), (10.0, 7.0)],
    max_batch: 64,
    rates: [23.5, 60.0],
};

impl Pair {
    fn service(self, start: &Start, noise: u64) -> Nanos {
        let (base, item) = self.times_ms[usize::try_from(start.model.0).expect("two models")];
        let time = (base + item * f64::from(start.batch.0)) * noise as f64 / 100.0;
        Nanos::from_secs_f64(time / 1e3)
    }
}

/// How long a run takes, in percent of the usual time: mostly 98 to 114, seldom up to 160.
fn percent(noise: u64) -> u64 {
    match noise % 1_000 {
        seldom @ 0..30 => 130 + seldom,
        often => 98 + often % 17,
    }
}

/// Both models at `scale` times their rates; optionally with bursts of ten times their
/// rates in the first three of every ten seconds.
fn workload(pair: Pair, scale: f64, burst: bool) -> Workload {
    let arrivals = |rate: f64| {
        let low = rate * scale;
        if burst {
            format!(
                r#"{{ kind = "square", low = {low}, high = {}, period = "10s", duty = 0.3 }}"#,
                10.0 * rate
            )
        } else {
            format!(r#"{{ kind = "poisson", rate = {low} }}"#)
        }
    };
    let mut text = format!("duration = \"{SECONDS}s\"\n");
    for (model, (rate, slo)) in pair.rates.into_iter().zip(SLO_MS).enumerate() {
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
    /// As `goodput`, of all models, in the first three of every ten seconds.
    in_bursts: f64,
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

fn tally(config: SchedulerConfig, pair: Pair, workload: &Workload, seed: u64) -> Tally {
    let mut noise = seed;
    let mut world = world(config, vec![device(0, 2, 1)], move |start| {
        noise = noise
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        pair.service(start, percent(noise >> 33))
    });
    for (id, slo) in (0..).zip(SLO_MS) {
        let spec = ModelSpec {
            slo: Some(Nanos::from_millis(slo)),
            max_batch: BatchSize(pair.max_batch),
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
                    if received.as_nanos() % (10_000 * MS) < 3_000 * MS
                        && received >= at(10_000 * MS)
                    {
                        tally.in_bursts += 1.0 / 6.0;
                    }
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
    for pair in [FLAT, STEEP] {
        let kept = [1, 2, 3].map(|seed| goodput_kept(pair, seed));
        let mean = |at: usize| kept.iter().map(|kept| kept[at]).sum::<f64>() / kept.len() as f64;
        for (at, load) in ["five times", "ten times", "bursts of ten times"]
            .iter()
            .enumerate()
        {
            let name = pair.name;
            assert!(mean(at) >= 0.9, "{name}, {load}: {kept:.2?} of the peak");
        }
    }
}

/// The goodput in overload of five and of ten times the capacity and in bursts of ten times,
/// of its peak in a sweep. Checks that no model is crowded out and few promises are broken.
fn goodput_kept(pair: Pair, seed: u64) -> [f64; 3] {
    let run = |scale, burst| {
        let workload = workload(pair, scale, burst);
        tally(config(PolicySpec::Edf), pair, &workload, seed)
    };
    let sweep = [0.5, 0.75, 1.0, 1.25, 1.5, 2.0].map(|scale| run(scale, false));
    let peak = sweep.iter().map(Tally::total).fold(0.0, f64::max);
    let capacity = &sweep[2];
    let name = pair.name;
    let [five, ten] = [5.0, 10.0].map(|scale| {
        let over = run(scale, false);
        for model in 0..2 {
            assert!(
                over.goodput[model] >= 0.7 * capacity.goodput[model],
                "{name}, seed {seed}, {scale} x: model {model} is crowded out, {over:?} against {capacity:?}"
            );
        }
        let accepted = over.completed + over.dropped;
        assert!(
            over.late + over.dropped <= accepted * 12 / 100,
            "{name}, seed {seed}, {scale} x: too many promises broken, {over:?}"
        );
        over.total() / peak
    });
    [five, ten, run(0.5, true).in_bursts / peak]
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
            tally(config, FLAT, &workload(FLAT, scale, false), 1)
        };
        let (below, over) = (observe(0.75), observe(5.0));
        assert!(
            below.total() > 10.0 && over.total() < 0.3 * below.total(),
            "{policy:?}: {below:?}, then {over:?}"
        );
    }
}

/// Where there is time for all, admission serves what would be served without it: nobody is
/// refused for the sake of rivals.
#[test]
fn a_moderate_load_loses_nothing_to_admission() {
    for pair in [FLAT, STEEP] {
        for scale in [0.5, 0.6] {
            let load = workload(pair, scale, false);
            let observe = SchedulerConfig {
                deadlines: DeadlineMode::Observe,
                ..config(PolicySpec::Edf)
            };
            let (mut with, mut without) = (0.0, 0.0);
            for seed in [1, 2, 3] {
                with += tally(config(PolicySpec::Edf), pair, &load, seed).total();
                without += tally(observe.clone(), pair, &load, seed).total();
            }
            assert!(
                with >= 0.995 * without,
                "{}, {scale}: {with:.2} with admission, {without:.2} without",
                pair.name
            );
        }
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

/// A batch that is committed behind a leg which runs longer than predicted is looked at
/// anew when its first request could no longer end in time: that one is dropped before it
/// runs, and those behind it do not wait for it.
#[test]
fn a_committed_batch_is_taken_back_when_the_leg_before_it_overruns() {
    let mut tasks = 0;
    let mut world = world(
        config(PolicySpec::Edf),
        vec![device(0, 2, 1)],
        move |start| {
            tasks += 1;
            Nanos::from_millis(match (start.model.0, tasks) {
                (0, 4) => 100,
                (0, _) => 10,
                _ => 30 * u64::from(start.batch.0),
            })
        },
    );
    for id in [0, 1] {
        let spec = ModelSpec {
            slo: Some(Nanos::from_millis(1_000)),
            ..model(id)
        };
        world.push(Timestamp::ZERO, Input::ModelAdded(spec));
    }
    // Three teach the latencies; at 200 ms a run of 100 ms begins that looks like one of 10.
    for (request, model, items, ms) in [(0, 0, 1, 0), (1, 1, 1, 50), (2, 1, 2, 100), (3, 0, 1, 200)]
    {
        world.push_arrival(Arrival {
            items: BatchSize(items),
            ..arrival(request, model, ms * MS)
        });
    }
    for (request, due) in [(4, 280), (5, 500)] {
        world.push_arrival(Arrival {
            deadline: Some(at(due * MS)),
            ..arrival(request, 1, 201 * MS)
        });
    }
    world.run();
    let tasks = batches(&mut world);
    assert_eq!(
        tasks[3..],
        [vec![3], vec![4, 5], vec![4], vec![5]],
        "both together, the first alone, the second alone"
    );
    let mut ended = |request| {
        let found = world.effects_mut().ended.iter();
        found
            .filter(|ended| ended.request == RequestId(request))
            .map(|ended| (ended.at, ended.outcome))
            .collect::<Vec<_>>()
    };
    // Together they take 60 ms, so 220 ms is the last moment to start; alone 30 ms, so 250 ms.
    let dropped = Outcome::Dropped(DropReason::Doomed {
        deadline: at(280 * MS),
        predicted: at(280 * MS + 1),
    });
    assert_eq!(ended(4), [(at(250 * MS + 1), dropped)]);
    assert_eq!(ended(5), [(at(330 * MS), Outcome::Completed)]);
}

/// Requests of model 0 wait, 10 ms each and due at 165 ms, when at 100 ms requests of
/// model 1 come, due at these times. How those of model 1 end.
fn beside(waiting: u64, due_ms: &[u64]) -> Vec<Outcome> {
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
    for spec in [spec(0, 65, 1_000.0), spec(1, 100, 1.0)] {
        world.push(Timestamp::ZERO, Input::ModelAdded(spec));
    }
    world.push_arrival(arrival(0, 0, 0));
    world.push_arrival(arrival(1, 1, 20 * MS));
    for request in 0..waiting {
        world.push_arrival(arrival(100 + request, 0, 100 * MS));
    }
    for (request, due) in (2..).zip(due_ms) {
        world.push_arrival(Arrival {
            deadline: Some(at(due * MS)),
            ..arrival(request, 1, 100 * MS + request)
        });
    }
    world.run();
    let ended = &world.effects_mut().ended;
    let outcome = |request| {
        ended
            .iter()
            .find(|ended| ended.request == RequestId(request))
    };
    (2..2 + due_ms.len() as u64)
        .map(|request| outcome(request).expect("every request ends").outcome)
        .collect()
}

/// A request is told on arrival that another model's earlier deadlines leave it no time.
#[test]
fn admission_counts_the_earlier_deadlines_of_other_models() {
    let ended = beside(6, &[166]);
    let [Outcome::Rejected(Rejection::DeadlineUnreachable { wait, run, .. })] = ended[..] else {
        panic!("expected a refusal, got {ended:?}");
    };
    assert_eq!(run, Nanos::from_millis(10));
    assert!(wait >= Nanos::from_millis(59), "a wait of {wait}");
}

/// A request with an early deadline goes before the later ones of another model, unless
/// that would make them late: they were promised.
#[test]
fn admission_breaks_no_promise_for_an_earlier_deadline() {
    assert_eq!(beside(3, &[140]), [Outcome::Completed]);
    let ended = beside(6, &[140]);
    let [Outcome::Rejected(Rejection::NoRoom { deadline, short })] = ended[..] else {
        panic!("expected a refusal, got {ended:?}");
    };
    assert_eq!(deadline, at(140 * MS));
    assert!(short > Nanos::ZERO);
}

//! The search against a system whose capacity is known, and against a double over sockets.

use super::*;
use crate::bench::client::ServerUrl;
use crate::bench::double::{Act, Double};
use crate::bench::regions::SharedMemory;
use fugato_core::Nanos;
use fugato_core::workload::{ArrivalProcess, ModelLoad, Workload};

fn hunt(urls: Vec<ServerUrl>, seeds: u32, bounds: (f64, f64)) -> Hunt {
    let process = ArrivalProcess::Constant { rate: 1_000.0 };
    let models = vec![ModelLoad::new("m", Nanos::from_millis(2_000), process)];
    let time = (Nanos::from_millis(10), Nanos::from_millis(2));
    Hunt {
        bench: Bench {
            urls,
            workload: Workload::new(time.0, time.1, None, models).expect("valid"),
            pacing: Loop::Open,
            seed: 5,
            expect: None,
            send_slo: false,
            shared_memory: SharedMemory::None,
            max_outstanding: 1_000,
            drain: Duration::from_secs(5),
            server_pid: None,
            provenance: None,
        },
        attainment: 0.99,
        settings: LargestSettings {
            least: bounds.0,
            most: bounds.1,
            ..LargestSettings::default()
        },
        seeds,
        pause: Duration::ZERO,
    }
}

/// A system that holds `capacity`, more or less a little with the seed.
fn answer(capacity: f64, factor: f64, seed: u64) -> Probe {
    let holds = factor <= capacity * (1.0 + 0.01 * (seed as f64 - 6.0));
    Probe {
        seed,
        factor,
        holds,
        attainment: Some(if holds { 1.0 } else { 0.5 }),
        worst: None,
        requests: 5_000,
        goodput_rps: factor * 10.0,
        rejected: 0,
        late: 0,
        warnings: vec!["the client was late".to_owned()],
    }
}

#[tokio::test]
async fn the_capacity_of_each_seed_is_found_and_the_spread_over_them_told() {
    let hunt = hunt(Vec::new(), 3, (0.001, 1_000.0));
    let mut runs = Vec::new();
    let found = search(&hunt, async |factor, seed| {
        runs.push(seed);
        Ok(Some(answer(7.3, factor, seed)))
    });
    let (seeds, interrupted) = found.await.expect("found");
    assert!(!interrupted);
    for (seed, expected) in seeds.iter().zip([7.227, 7.3, 7.373]) {
        let (holds, fails) = seed.found.holds.zip(seed.found.fails).expect("bracketed");
        assert!(holds <= expected && expected < fails && fails < holds * 1.021);
    }
    // The seeds after the first begin where that one ended.
    assert!(seeds[1].probes.len() < seeds[0].probes.len());
    assert!(seeds[2].probes.len() < seeds[0].probes.len());
    let report = CapacityReport::new(&hunt, seeds, false);
    let factor = report.factor.expect("held");
    assert_eq!(factor.count, 3);
    assert!(factor.low <= factor.mean && factor.mean <= factor.high && factor.high < 7.4);
    let rate = report.offered_rps.expect("held");
    assert!((rate - factor.mean * 1_000.0).abs() < 1e-6);
    assert!(report.table().contains("MEASURED") && report.answer().contains("capacity 7."));
    // What may have limited the runs that failed is not kept back.
    let late = report
        .warnings
        .iter()
        .filter(|w| w.contains("the client was late"));
    assert_eq!(late.count(), 3, "{:?}", report.warnings);
}

#[tokio::test]
async fn a_load_that_is_never_held_says_by_how_much() {
    let hunt = hunt(Vec::new(), 1, (0.5, 4.0));
    let found = search(&hunt, async |factor, seed| {
        Ok(Some(answer(0.0, factor, seed)))
    });
    let (seeds, interrupted) = found.await.expect("found");
    let report = CapacityReport::new(&hunt, seeds, interrupted);
    assert_eq!((report.factor, report.offered_rps), (None, None));
    let text = report.answer();
    assert!(
        text.contains("not held at any multiple") && text.contains("50.00 %"),
        "{text}"
    );
}

#[tokio::test]
async fn an_interrupted_search_reports_the_seeds_that_were_done() {
    let hunt = hunt(Vec::new(), 3, (0.001, 1_000.0));
    let found = search(&hunt, async |factor, seed| {
        Ok((seed == 5).then(|| answer(3.0, factor, seed)))
    });
    let (seeds, interrupted) = found.await.expect("found");
    assert!(interrupted);
    let report = CapacityReport::new(&hunt, seeds, interrupted);
    assert_eq!(report.factor.expect("of the first").count, 1);
    assert!(report.table().contains("INTERRUPTED"));
    let none = search(&hunt, async |_, _| Ok(None)).await.expect("found");
    let report = CapacityReport::new(&hunt, none.0, none.1);
    assert!(report.answer().contains("nothing was tried"));
}

#[tokio::test]
async fn a_live_server_is_asked_over_both_protocols() {
    let good = Double::start(|_| Act::Answer { batch: 1 }).await;
    let mut lines = Vec::new();
    let all = hunt(vec![good.grpc(), good.http()], 1, (0.5, 2.0));
    let report = find(&all, CancellationToken::new(), |probe| {
        lines.push(probe.line())
    })
    .await;
    let report = report.expect("found");
    assert_eq!(report.seeds[0].found.holds, Some(2.0));
    assert_eq!(
        (report.seeds[0].found.fails, lines.len()),
        (None, 2),
        "{lines:?}"
    );
    assert!(report.answer().contains("or more"));
    assert_eq!(good.seen(), 12 + 24, "two whole runs");
    let bad = Double::start(|_| Act::Reject).await;
    let none = hunt(vec![bad.grpc()], 1, (0.5, 2.0));
    let report = find(&none, CancellationToken::new(), |_| {}).await;
    let report = report.expect("found");
    assert_eq!(report.seeds[0].found.fails, Some(0.5));
    assert_eq!(report.seeds[0].probes[0].rejected, 10);
}

#[tokio::test]
async fn what_cannot_be_searched_is_refused() {
    let mut closed = hunt(Vec::new(), 1, (0.5, 2.0));
    closed.bench.pacing = Loop::Closed { concurrency: 1 };
    let error = find(&closed, CancellationToken::new(), |_| {}).await;
    assert!(matches!(error, Err(HuntError::ClosedLoop)));
    let outside = hunt(Vec::new(), 1, (2.0, 4.0));
    let error = find(&outside, CancellationToken::new(), |_| {}).await;
    assert!(matches!(error, Err(HuntError::Settings(_))));
}

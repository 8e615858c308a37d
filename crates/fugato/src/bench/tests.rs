//! Whole runs against a double, on the real clock, of a few milliseconds.

use super::client::ServerUrl;
use super::double::{Act, Double};
use super::expect::write_cases;
use super::tensor::Tensor;
use super::*;
use fugato_core::workload::ArrivalProcess;
use fugato_device::ElementType;

const DRAIN: Duration = Duration::from_secs(5);

fn bench(urls: Vec<ServerUrl>) -> Bench {
    let process = ArrivalProcess::Constant { rate: 2_000.0 };
    let models = vec![ModelLoad::new("m", Nanos::from_millis(1_000), process)];
    let time = (Nanos::from_millis(10), Nanos::from_millis(5));
    Bench {
        urls,
        workload: Workload::new(time.0, time.1, None, models).expect("valid"),
        pacing: Loop::Open,
        seed: 1,
        expect: None,
        send_slo: true,
        shared_memory: SharedMemory::None,
        max_outstanding: 100,
        drain: DRAIN,
        server_pid: Some(std::process::id()),
        provenance: None,
    }
}

#[tokio::test]
async fn a_run_is_measured_after_its_warm_up_over_both_protocols() {
    let double = Double::start(|_| Act::Answer { batch: 3 }).await;
    let bench = bench(vec![double.grpc(), double.http()]);
    let report = run(&bench, CancellationToken::new()).await;
    let report = report.expect("a run");
    assert_eq!(double.seen(), 30, "warm-up and measured time");
    let figures = &report.models[0].figures;
    assert_eq!((figures.requests, figures.in_time), (20, 20), "{figures:?}");
    assert_eq!(figures.mean_batch, Some(3.0));
    assert!(report.attains(1.0));
    assert!(!report.interrupted && !report.checked);
    assert!(report.server.is_some());
}

#[tokio::test]
async fn wrong_answers_are_found() {
    let tensor = |name: &str, shape: &[u64], values: &[f32]| Tensor {
        name: name.to_owned(),
        element: ElementType::Fp32,
        shape: shape.to_vec(),
        data: values
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect::<Vec<u8>>()
            .into(),
    };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let case = Case {
        inputs: vec![tensor("x", &[1, 4], &[0.5; 4])],
        outputs: vec![tensor("y", &[1], &[1.0])],
    };
    write_cases(dir.path(), "m", &[case]).expect("writable");
    let double = Double::start(|request| match request {
        20 => Act::Lie,
        _ => Act::Answer { batch: 1 },
    });
    let mut bench = bench(vec![double.await.http()]);
    bench.expect = Some(dir.path().to_owned());
    let report = run(&bench, CancellationToken::new()).await;
    let report = report.expect("a run");
    assert!(report.checked);
    let figures = &report.models[0].figures;
    assert_eq!((figures.wrong, figures.in_time), (1, 19), "{figures:?}");
}

#[tokio::test]
async fn a_run_that_is_prepared_at_a_server_that_hangs_can_be_interrupted() {
    let double = Double::start(|_| Act::Hang).await;
    for (url, asked) in [(double.http(), 1), (double.grpc(), 2)] {
        let stop = CancellationToken::new();
        let bench = Bench {
            shared_memory: SharedMemory::System,
            ..bench(vec![url])
        };
        // The request that tells the sizes of the outputs.
        let cancelled = async {
            while double.seen() < asked {
                tokio::task::yield_now().await;
            }
            stop.cancel();
        };
        let (run, ()) = tokio::join!(run(&bench, stop.clone()), cancelled);
        assert!(matches!(run, Err(BenchError::Interrupted)), "{run:?}");
    }
}

#[tokio::test]
async fn a_run_that_cannot_be_made_says_why() {
    let double = Double::start(|_| Act::Hang).await;
    let none = run(&bench(Vec::new()), CancellationToken::new()).await;
    assert!(matches!(none, Err(BenchError::NoUrl)));
    for url in [double.http(), double.grpc()] {
        let mut unknown = bench(vec![url]);
        let process = ArrivalProcess::Poisson { rate: 1.0 };
        let models = vec![ModelLoad::new("nobody", Nanos::MAX, process)];
        let second = Nanos::from_millis(1_000);
        unknown.workload = Workload::new(second, Nanos::ZERO, None, models).expect("valid");
        let error = run(&unknown, CancellationToken::new()).await;
        assert!(
            matches!(error, Err(BenchError::Metadata { .. })),
            "{error:?}"
        );
    }
    assert_eq!(double.seen(), 0);
}

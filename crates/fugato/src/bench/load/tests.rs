//! The sender against a double over real sockets, on a paused clock: time passes only
//! while everything waits for it.

use super::*;
use crate::bench::client::ServerUrl;
use crate::bench::double::{Act, Double};
use crate::bench::stats::Figures;
use fugato_core::workload::{ArrivalProcess, ModelLoad, Workload};
use fugato_device::ElementType;

const SLO: Nanos = Nanos::from_millis(25);
const DRAIN: Duration = Duration::from_secs(5);

fn tensor(name: &str, shape: &[u64], values: &[f32]) -> Tensor {
    Tensor {
        name: name.to_owned(),
        element: ElementType::Fp32,
        shape: shape.to_vec(),
        data: values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect::<Vec<u8>>()
            .into(),
    }
}

fn load(urls: &[ServerUrl], max_outstanding: u32, stop: &CancellationToken) -> Arc<Load> {
    let clients = urls.iter().map(Client::new).collect::<Result<Vec<_>, _>>();
    let clients = clients.expect("usable addresses");
    let input = tensor("x", &[1, 4], &[0.0; 4]);
    let requests = clients.iter();
    let requests = requests
        .map(|client| vec![client.prepare("m", std::slice::from_ref(&input), None)])
        .collect();
    let expected = vec![vec![tensor("y", &[1], &[1.0])]];
    let target = Target {
        requests,
        expected,
        regions: None,
    };
    Load::new(
        clients,
        vec![target],
        Nanos::ZERO,
        max_outstanding,
        stop.clone(),
    )
}

/// One request per millisecond for `millis`.
fn every_millisecond(millis: u64) -> Arrivals {
    let process = ArrivalProcess::Constant { rate: 1_000.0 };
    let models = vec![ModelLoad::new("m", SLO, process)];
    let workload = Workload::new(Nanos::from_millis(millis), Nanos::ZERO, None, models);
    workload.expect("valid").arrivals(1)
}

fn figures(load: &Load) -> Figures {
    let recorder = load.recorded().remove(0);
    recorder.figures(Some(SLO), Nanos::from_millis(1_000))
}

/// The 11th request keeps the server busy for 50 ms; every other is answered at once.
fn stall_once(request: usize) -> Act {
    match request {
        10 => Act::Stall(Duration::from_millis(50)),
        _ => Act::Answer { batch: 1 },
    }
}

#[tokio::test(start_paused = true)]
async fn a_stall_is_charged_to_every_request_it_delays() {
    let double = Double::start(stall_once).await;
    let load = load(&[double.http()], 1_000, &CancellationToken::new());
    load.open(every_millisecond(100), Pacing::Timer, DRAIN)
        .await;
    let figures = figures(&load);
    assert_eq!((figures.requests, double.seen()), (100, 100));
    assert_eq!(figures.in_time + figures.late, 100, "{figures:?}");
    // Those due in the first half of the stall wait for over 25 ms: the one that stalls
    // and the 24 or 25 behind it. A client that waited for replies would have seen one.
    assert!((23..=28).contains(&figures.late), "{figures:?}");
    let slowest = figures.latency_ms.expect("answers").max;
    assert!((50.0..60.0).contains(&slowest), "{figures:?}");
}

#[tokio::test(start_paused = true)]
async fn a_closed_loop_waits_for_each_reply() {
    let stop = CancellationToken::new();
    // A paused clock stands still while requests are answered at once, so the run ends by
    // their number.
    let stopper = stop.clone();
    let double = Double::start(move |request| {
        if request == 50 {
            stopper.cancel();
        }
        stall_once(request)
    });
    let load = load(&[double.await.http()], 1_000, &stop);
    let end = Timestamp::ZERO + Nanos::from_millis(100);
    load.closed(1, end, DRAIN).await;
    let figures = figures(&load);
    assert_eq!(
        figures.late, 1,
        "only the request that met the stall: {figures:?}"
    );
    assert_eq!(figures.in_time + 1, figures.requests, "{figures:?}");
}

#[tokio::test(start_paused = true)]
async fn outcomes_are_told_apart_over_both_protocols() {
    let script = |request: usize| match request % 5 {
        0 => Act::Answer { batch: 4 },
        1 => Act::Reject,
        2 => Act::Fail,
        3 => Act::Lie,
        _ => Act::Answer { batch: 2 },
    };
    for grpc in [false, true] {
        let double = Double::start(script).await;
        let url = if grpc { double.grpc() } else { double.http() };
        let load = load(&[url], 1_000, &CancellationToken::new());
        load.open(every_millisecond(50), Pacing::Timer, DRAIN).await;
        let figures = figures(&load);
        assert_eq!(
            (
                figures.in_time,
                figures.rejected,
                figures.failed,
                figures.wrong
            ),
            (20, 10, 10, 10),
            "grpc {grpc}: {figures:?}"
        );
        assert_eq!(figures.mean_batch, Some(3.0));
        assert_eq!(figures.attainment, Some(0.4));
        let wrong = "case 0: output `y` is off by 1e0 at element 0, more than 1e-4 of its largest value 1e0";
        assert_eq!(figures.errors[wrong], 10);
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_sent_or_gets_no_answer_is_missed() {
    for grpc in [false, true] {
        let double = Double::start(|_| Act::Hang).await;
        let url = if grpc { double.grpc() } else { double.http() };
        let load = load(&[url], 4, &CancellationToken::new());
        load.open(every_millisecond(10), Pacing::Timer, DRAIN).await;
        let figures = figures(&load);
        assert_eq!(figures.requests, 10);
        assert_eq!((figures.unsent, figures.unanswered), (6, 4));
        assert_eq!(figures.attainment, Some(0.0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_not_there_fails_requests() {
    // Bound and not listening: the port refuses connections and no other test gets it.
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    let loopback = "127.0.0.1:0".parse().expect("an address");
    socket.bind(loopback).expect("a loopback port");
    let gone = socket.local_addr().expect("bound");
    for scheme in ["http", "grpc"] {
        let url = format!("{scheme}://{gone}").parse().expect("an address");
        let load = load(&[url], 100, &CancellationToken::new());
        load.open(every_millisecond(5), Pacing::Timer, DRAIN).await;
        let figures = figures(&load);
        assert_eq!((figures.failed, figures.rejected), (5, 0), "{figures:?}");
        let error = figures.errors.keys().next().expect("an error");
        assert!(error.contains("refused"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_the_run_and_keeps_what_was_recorded() {
    let double = Double::start(|_| Act::Answer { batch: 1 }).await;
    let stop = CancellationToken::new();
    let load = load(&[double.grpc()], 100, &stop);
    let stopper = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        stop.cancel();
    };
    let hour = every_millisecond(3_600_000);
    tokio::join!(load.open(hour, Pacing::Timer, DRAIN), stopper);
    let figures = figures(&load);
    assert!((15..=25).contains(&figures.requests), "{figures:?}");
    assert_eq!(figures.unanswered, 0);
}

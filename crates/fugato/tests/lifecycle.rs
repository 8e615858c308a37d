//! The life of models on a real server: versions, loading, unloading, the hot switch,
//! polling; under traffic where traffic could be lost.

#[path = "lifecycle/model.rs"]
mod model;
#[path = "lifecycle/server.rs"]
mod server;

use model::{Repository, adder_bytes};
use server::{Client, PATIENCE, Server};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;
use tokio::task::JoinSet;
use tonic::Code;

const EXPLICIT: &[&str] = &["--model-control-mode", "explicit"];

/// Clients that ask a model over and over; each answer must be a reply.
struct Traffic {
    stop: Arc<AtomicBool>,
    replies: Arc<AtomicU64>,
    clients: JoinSet<()>,
}

impl Traffic {
    async fn start(server: &Server, model: &'static str, clients: usize) -> Self {
        let (stop, replies) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            let mut client = server.client().await;
            let (stop, replies) = (Arc::clone(&stop), Arc::clone(&replies));
            tasks.spawn(async move {
                let mut last = f32::NEG_INFINITY;
                while !stop.load(Ordering::Relaxed) {
                    let (k, _) = client.ask(model, "").await.expect("no request is lost");
                    assert!(k >= last, "an old version answered after a new one");
                    last = k;
                    AtomicU64::fetch_add(&replies, 1, Ordering::Relaxed);
                }
            });
        }
        Self {
            stop,
            replies,
            clients: tasks,
        }
    }

    fn replies(&self) -> u64 {
        self.replies.load(Ordering::Relaxed)
    }

    /// Waits until `count` more replies came.
    async fn more(&self, count: u64) {
        let (begun, patience) = (self.replies(), Instant::now() + PATIENCE);
        while self.replies() < begun + count {
            assert!(Instant::now() < patience, "no replies come");
            tokio::task::yield_now().await;
        }
    }

    async fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("every request got its reply");
        }
        self.replies()
    }
}

async fn k_of(client: &mut Client, model: &str) -> f32 {
    client.ask(model, "").await.expect("it answers").0
}

#[tokio::test]
async fn clients_load_and_unload_in_mode_explicit_only() {
    let repository = Repository::new();
    repository.put_adder("a", 1, 1.0);
    repository.put_adder("b", 1, 2.0);
    for arguments in [&[][..], &["--model-control-mode", "poll"]] {
        let server = Server::start(&repository, arguments).await;
        let mut client = server.client().await;
        for refused in [client.load("a").await, client.unload("a").await] {
            let refused = refused.expect_err("clients do not control");
            assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        }
        assert_eq!(k_of(&mut client, "a").await, 1.0);
        assert_eq!(server.stop().await, Some(0));
    }
    let arguments = [EXPLICIT, &["--load-model", "b"]].concat();
    let server = Server::start(&repository, &arguments).await;
    let mut client = server.client().await;
    assert_eq!(client.states("a").await, [" UNAVAILABLE"]);
    assert_eq!(k_of(&mut client, "b").await, 2.0);
    let refused = client.ask("a", "").await.expect_err("it is not loaded");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    client.load("a").await.expect("it can be loaded");
    assert_eq!(k_of(&mut client, "a").await, 1.0);
    client.unload("a").await.expect("it can be unloaded");
    client.wait_for("a", &["1 UNAVAILABLE"]).await;
    assert!(client.ask("a", "").await.is_err());
    for unknown in [client.load("c").await, client.unload("c").await] {
        let unknown = unknown.expect_err("there is none");
        assert_eq!(unknown.code(), Code::NotFound, "{unknown}");
    }
    assert!(
        client.states("c").await.is_empty(),
        "a client's name is listed"
    );
    assert_eq!(server.stop().await, Some(0));
}

#[tokio::test]
async fn a_hot_switch_loses_no_request() {
    let repository = Repository::new();
    repository.put_adder("a", 1, 0.0);
    let arguments = [EXPLICIT, &["--load-model", "*"]].concat();
    let server = Server::start(&repository, &arguments).await;
    let traffic = Traffic::start(&server, "a", 4).await;
    let mut client = server.client().await;
    for step in 1..=20u8 {
        let k = f32::from(step);
        // The same version with other content, and another version, in turn.
        repository.put_adder("a", 1 + u64::from(step / 2), k);
        traffic.more(20).await;
        client.load("a").await.expect("it can be loaded anew");
        assert_eq!(
            k_of(&mut client, "a").await,
            k,
            "loaded, and the old one answers"
        );
    }
    traffic.more(20).await;
    assert!(traffic.end().await >= 420);
    assert_eq!(server.stop().await, Some(0));
}

#[tokio::test]
async fn what_did_not_change_is_kept() {
    let repository = Repository::new();
    repository.put_adder("a", 1, 1.0);
    let arguments = [EXPLICIT, &["--load-model", "a"]].concat();
    let server = Server::start(&repository, &arguments).await;
    let mut client = server.client().await;
    assert_eq!(k_of(&mut client, "a").await, 1.0);
    let traffic = Traffic::start(&server, "a", 2).await;
    for _ in 0..5 {
        client.load("a").await.expect("it can be loaded");
        // A version that was let go of would be listed as such.
        assert_eq!(client.states("a").await, ["1 READY"]);
    }
    traffic.end().await;
    assert_eq!(server.stop().await, Some(0));
}

#[tokio::test]
async fn a_broken_file_leaves_the_old_version_serving() {
    let repository = Repository::new();
    repository.put_adder("a", 1, 1.0);
    let arguments = [EXPLICIT, &["--load-model", "a"]].concat();
    let server = Server::start(&repository, &arguments).await;
    let mut client = server.client().await;
    let whole = adder_bytes(2.0);
    for broken in [&b"no model"[..], &[], &whole[..whole.len() / 2]] {
        repository.put("a/1/model.onnx", broken);
        let refused = client.load("a").await.expect_err("it is broken");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains("`a`"), "{refused}");
        assert_eq!(client.states("a").await, ["1 READY"]);
        assert_eq!(k_of(&mut client, "a").await, 1.0);
    }
    repository.put("a/2/model.onnx", b"no model");
    assert!(client.load("a").await.is_err());
    assert_eq!(client.states("a").await, ["1 READY", "2 UNAVAILABLE"]);
    assert_eq!(k_of(&mut client, "a").await, 1.0);
    repository.put("a/2/model.onnx", &whole);
    client.load("a").await.expect("it is whole");
    assert_eq!(k_of(&mut client, "a").await, 2.0);
    assert_eq!(server.stop().await, Some(0));
}

#[tokio::test]
async fn polling_follows_the_repository() {
    let repository = Repository::new();
    repository.put_adder("a", 1, 1.0);
    let arguments = [
        "--model-control-mode",
        "poll",
        "--repository-poll-secs",
        "1",
    ];
    let server = Server::start(&repository, &arguments).await;
    let mut client = server.client().await;
    let traffic = Traffic::start(&server, "a", 2).await;
    // Added.
    repository.put_adder("b", 1, 10.0);
    client.wait_for_answer("b", 10.0).await;
    // Changed, and a version added.
    repository.put_adder("a", 1, 2.0);
    client.wait_for_answer("a", 2.0).await;
    repository.put_adder("a", 2, 3.0);
    client.wait_for_answer("a", 3.0).await;
    // Half written: the old one serves until the file is whole.
    let whole = adder_bytes(11.0);
    std::fs::write(repository.file("b/1/model.onnx"), &whole[..40]).expect("it can be written");
    repository.put_adder("c", 1, 20.0);
    // The poll that saw `c` saw the half of `b`.
    client.wait_for_answer("c", 20.0).await;
    assert_eq!(k_of(&mut client, "b").await, 10.0);
    repository.put("b/1/model.onnx", &whole);
    client.wait_for_answer("b", 11.0).await;
    // Removed.
    repository.remove("b");
    client.wait_for("b", &[]).await;
    assert_eq!(
        client.ask("b", "").await.expect_err("gone").code(),
        Code::NotFound
    );
    traffic.end().await;
    assert_eq!(server.stop().await, Some(0));
}

#[tokio::test]
async fn loading_and_unloading_loses_nothing_and_keeps_nothing() {
    let repository = Repository::new();
    repository.put_adder("a", 1, 1.0);
    repository.put_adder("b", 1, 2.0);
    let arguments = [EXPLICIT, &["--load-model", "a"]].concat();
    let server = Server::start(&repository, &arguments).await;
    let traffic = Traffic::start(&server, "a", 2).await;
    let mut client = server.client().await;
    let mut early = 0;
    for cycle in 0..50 {
        client.load("b").await.expect("it can be loaded");
        assert_eq!(k_of(&mut client, "b").await, 2.0);
        client.unload("b").await.expect("it can be unloaded");
        client.wait_for("b", &["1 UNAVAILABLE"]).await;
        if cycle == 10 {
            early = threads(server.pid());
        }
    }
    assert!(traffic.end().await > 0);
    // The runtime's own pool of threads comes and goes; a leak would be of 40 threads.
    let late = threads(server.pid());
    assert!(late < early + 20, "{early} threads became {late}");
    assert_eq!(server.stop().await, Some(0));
}

/// Threads of a process.
fn threads(pid: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    tasks.expect("the server runs").count()
}

#[tokio::test]
async fn an_unload_lets_accepted_requests_end() {
    let repository = Repository::new();
    repository.put_adder("a", 1, 1.0);
    let server = Server::start(&repository, EXPLICIT).await;
    let mut client = server.client().await;
    for _ in 0..10 {
        client.load("a").await.expect("it can be loaded");
        let mut asks = JoinSet::new();
        for _ in 0..8 {
            let mut client = client.clone();
            asks.spawn(async move { client.ask("a", "").await });
        }
        client.unload("a").await.expect("it can be unloaded");
        while let Some(asked) = asks.join_next().await {
            // Accepted and served, or refused because there is no such model: never lost.
            if let Err(refused) = asked.expect("it does not panic") {
                assert_eq!(refused.code(), Code::Unavailable, "{refused}");
                assert!(refused.message().contains("unload"), "{refused}");
            }
        }
    }
    assert_eq!(server.stop().await, Some(0));
}

#[tokio::test]
async fn a_signal_during_a_load_ends_the_server() {
    let repository = Repository::new();
    repository.put_adder("a", 1, 1.0);
    let server = Server::start(&repository, EXPLICIT).await;
    let mut client = server.client().await;
    let mut loads = JoinSet::new();
    for _ in 0..20 {
        let mut client = client.clone();
        loads.spawn(async move {
            client.load("a").await?;
            client.unload("a").await
        });
    }
    client.load("a").await.expect("the first are loaded");
    server.terminate();
    // Each is carried out, or refused since the server stops.
    while let Some(load) = loads.join_next().await {
        load.expect("it does not panic").unwrap_or_default();
    }
    assert_eq!(server.wait().await, Some(0));
}

//! The life of models on a real server: versions, loading, unloading, the hot switch,
//! polling; under traffic where traffic could be lost.

#[path = "lifecycle/live.rs"]
mod live;
#[path = "lifecycle/model.rs"]
mod model;
#[path = "lifecycle/overload.rs"]
mod overload;
#[path = "lifecycle/server.rs"]
mod server;
#[path = "lifecycle/supervisor.rs"]
mod supervisor;
#[path = "lifecycle/timeline.rs"]
mod timeline;

use model::{Repository, adder_bytes};
use server::{Client, PATIENCE, Server};
use std::collections::VecDeque;
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
async fn versions_follow_the_policy_of_the_configuration() {
    let repository = Repository::new();
    for version in 1..=3u8 {
        repository.put_adder("a", u64::from(version), f32::from(version));
    }
    let server = Server::start(&repository, EXPLICIT).await;
    let mut client = server.client().await;
    let ready = |versions: &[u64]| -> Vec<String> {
        let lines = versions.iter().map(|version| format!("{version} READY"));
        lines.collect()
    };
    let cases: [(&str, &[u64]); 6] = [
        ("", &[3]),
        ("version_policy { all {} }", &[1, 2, 3]),
        ("version_policy { latest { num_versions: 2 } }", &[2, 3]),
        ("version_policy { specific { versions: [1, 2] } }", &[1, 2]),
        ("version_policy { specific { versions: [2, 9] } }", &[2]),
        ("version_policy { latest {} }", &[3]),
    ];
    for (config, expected) in cases {
        repository.put("a/config.pbtxt", config.as_bytes());
        client.load("a").await.expect(config);
        let states = client.states("a").await;
        let up: Vec<String> = states
            .into_iter()
            .filter(|s| s.ends_with("READY"))
            .collect();
        assert_eq!(up, ready(expected), "{config}");
        let highest = expected.last().copied().expect("one at least");
        let (_, version) = client.ask("a", "").await.expect("it answers");
        assert_eq!(version, highest.to_string(), "{config}");
        for version in 1..=3u8 {
            let asked = client.ask("a", &version.to_string()).await;
            match expected.contains(&u64::from(version)) {
                true => assert_eq!(asked.expect("it is up").0, f32::from(version), "{config}"),
                false => assert!(asked.is_err(), "{config}: {version} answers"),
            }
        }
    }
    repository.put(
        "a/config.pbtxt",
        b"version_policy { specific { versions: [9] } }",
    );
    let refused = client
        .load("a")
        .await
        .expect_err("there is no such version");
    assert!(refused.message().contains('9'), "{refused}");
    assert_eq!(
        k_of(&mut client, "a").await,
        3.0,
        "what was loaded still serves"
    );
    assert_eq!(server.stop().await, Some(0));
}

#[tokio::test]
async fn a_client_may_bring_its_own_configuration_and_files() {
    let repository = Repository::new();
    repository.put_adder("a", 1, 1.0);
    repository.put_adder("a", 2, 2.0);
    let server = Server::start(&repository, EXPLICIT).await;
    let mut client = server.client().await;
    let one: &[u8] = br#"{"version_policy":{"specific":{"versions":[1]}}}"#;
    client
        .load_with("a", &[("config", one)])
        .await
        .expect("it can be loaded");
    assert_eq!(k_of(&mut client, "a").await, 1.0);
    client.load("a").await.expect("it can be loaded");
    assert_eq!(k_of(&mut client, "a").await, 2.0);
    let other = adder_bytes(7.0);
    let files: [(&str, &[u8]); 2] = [("config", b"{}"), ("file:5/model.onnx", &other)];
    for model in ["a", "of-a-client"] {
        client
            .load_with(model, &files)
            .await
            .expect("it can be loaded");
        let answered = client.ask(model, "").await.expect("it answers");
        assert_eq!(answered, (7.0, "5".to_owned()));
    }
    assert!(
        !repository.file("of-a-client").exists(),
        "the repository was written"
    );
    assert!(
        !repository.file("a/5").exists(),
        "the repository was written"
    );
    client
        .unload("of-a-client")
        .await
        .expect("it can be unloaded");
    client.wait_for("of-a-client", &[]).await;
    client.load("a").await.expect("it can be loaded");
    assert_eq!(
        k_of(&mut client, "a").await,
        2.0,
        "the repository counts again"
    );
    let escapes = [
        "../1/model.onnx",
        "/etc/model.onnx",
        "1/../../model.onnx",
        "1//m",
    ];
    for path in escapes {
        let file = format!("file:{path}");
        let files: [(&str, &[u8]); 2] = [("config", b"{}"), (&file, &other)];
        let refused = client.load_with("b", &files).await.expect_err(path);
        let code = refused.code();
        assert!(
            matches!(code, Code::InvalidArgument | Code::FailedPrecondition),
            "{path}: {refused}"
        );
    }
    let refused = client
        .load_with("a", &[("file:1/model.onnx", &other)])
        .await;
    let refused = refused.expect_err("files need a configuration");
    assert!(refused.message().contains("config"), "{refused}");
    for config in [&b"{"[..], b"{\"max_batch_size\":-1}", b"{\"name\":\"b\"}"] {
        let refused = client.load_with("a", &[("config", config)]).await;
        refused.expect_err("the configuration is wrong");
    }
    assert_eq!(k_of(&mut client, "a").await, 2.0);
    assert_eq!(server.stop().await, Some(0));
}

#[tokio::test]
async fn a_model_that_fails_its_warm_up_is_refused() {
    let repository = Repository::new();
    repository.put_adder("a", 1, 1.0);
    let warm_up = |dims: &str| {
        format!(
            "max_batch_size: 4 model_warmup {{ name: \"mine\" batch_size: 2 inputs {{ \
             key: \"input\" value {{ data_type: TYPE_FP32 dims: {dims} random_data: true }} }} }}"
        )
    };
    let server = Server::start(&repository, EXPLICIT).await;
    let mut client = server.client().await;
    repository.put("a/config.pbtxt", warm_up("3").as_bytes());
    let refused = client.load("a").await.expect_err("the sample does not fit");
    assert!(refused.message().contains("`mine`"), "{refused}");
    assert_eq!(client.states("a").await, ["1 UNAVAILABLE"]);
    repository.put("a/config.pbtxt", warm_up("1").as_bytes());
    client.load("a").await.expect("the sample fits");
    assert_eq!(k_of(&mut client, "a").await, 1.0);
    assert_eq!(server.stop().await, Some(0));
}

#[tokio::test]
async fn a_file_of_a_sample_is_not_taken_from_elsewhere() {
    let repository = Repository::new();
    repository.put_adder("a", 1, 1.0);
    repository.put("b/warmup/two", &[0; 8]);
    let config = "max_batch_size: 4 model_warmup { name: \"mine\" batch_size: 2 inputs { key: \"input\" \
                  value { data_type: TYPE_FP32 dims: 1 input_data_file: \"two\" } } }";
    repository.put("a/config.pbtxt", config.as_bytes());
    let (outside, link) = (repository.file("b/warmup"), repository.file("a/warmup"));
    std::os::unix::fs::symlink(outside, link).expect("a link");
    let server = Server::start(&repository, EXPLICIT).await;
    let mut client = server.client().await;
    let refused = client.load("a").await.expect_err("it lies elsewhere");
    assert!(refused.message().contains("a link out of"), "{refused}");
    assert_eq!(server.stop().await, Some(0));
}

#[tokio::test]
async fn a_long_warm_up_does_not_hold_a_drain_up() {
    let repository = Repository::new();
    repository.put_adder("a", 1, 1.0);
    let sample = "model_warmup { name: \"mine\" batch_size: 1 count: 1000 \
                  inputs { key: \"input\" value { data_type: TYPE_FP32 dims: 1 zero_data: true } } }\n";
    // Minutes of runs.
    let config = format!("max_batch_size: 4\n{}", sample.repeat(4_000));
    repository.put("a/config.pbtxt", config.as_bytes());
    let server = Server::start(&repository, EXPLICIT).await;
    let mut client = server.client().await;
    let mut other = client.clone();
    let load = tokio::spawn(async move { other.load("a").await });
    client.wait_for("a", &["1 LOADING"]).await;
    let begun = Instant::now();
    assert_eq!(server.stop().await, Some(0));
    let took = begun.elapsed();
    assert!(took.as_secs() < 10, "the drain took {took:?}");
    load.await.expect("it does not panic").unwrap_or_default();
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

/// Cycles of the long run, and how far memory may be from that after the hundredth.
const CYCLES: u32 = 1_000;
const MEMORY_TOLERANCE: f64 = 0.02;
/// Cycles whose least memory counts.
const SAMPLES: usize = 10;

/// Loads, asks and unloads a model with weights a thousand times while another is asked
/// without a pause. See `bench/runs` for its figures.
///
/// Pss counts a page of the runtime's library by how many processes map it: no other process
/// with that library may come or go meanwhile.
#[tokio::test]
#[ignore = "takes minutes: make cycles"]
async fn a_thousand_cycles_leak_nothing() {
    let repository = Repository::new();
    repository.put_adder("a", 1, 1.0);
    fugato_zoo::write_repository(
        repository.path(),
        &["squeezenet1_1"],
        fugato_zoo::Recipe::seeded(1),
        &mut |_| {},
    )
    .expect("the zoo can be written");
    let arguments = [EXPLICIT, &["--load-model", "a", "--log-level", "warn"]].concat();
    let server = Server::start(&repository, &arguments).await;
    let traffic = Traffic::start(&server, "a", 2).await;
    let mut client = server.client().await;
    let mut table = "cycle,seconds,pss_bytes,pss_anon_bytes,threads,replies_of_a\n".to_owned();
    let report = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("cycles.csv");
    let (mut recent, mut at_hundred) = (VecDeque::new(), 0);
    let begun = Instant::now();
    for cycle in 1..=CYCLES {
        let model = "squeezenet1_1";
        client.load(model).await.expect("it can be loaded");
        let answer = client.ask_zeros(model, &[3, 224, 224]).await;
        assert_eq!(answer.expect("it answers"), 4_000);
        client.unload(model).await.expect("it can be unloaded");
        client.wait_for(model, &["1 UNAVAILABLE"]).await;
        recent.push_back(server.memory());
        if recent.len() > SAMPLES {
            recent.pop_front();
        }
        if cycle == 10 || cycle % 100 == 0 {
            // The least: what is in use for a moment is no leak.
            let pss = recent.iter().map(|(pss, _)| *pss).min().unwrap_or_default();
            let anon = recent
                .iter()
                .map(|(_, anon)| *anon)
                .min()
                .unwrap_or_default();
            let (threads, replies) = (threads(server.pid()), traffic.replies());
            let seconds = begun.elapsed().as_secs_f64();
            table += &format!("{cycle},{seconds:.1},{pss},{anon},{threads},{replies}\n");
            std::fs::write(&report, &table).expect("the report can be written");
            if cycle == 100 {
                at_hundred = pss;
            }
            let change = pss as f64 / at_hundred.max(1) as f64 - 1.0;
            assert!(
                cycle < CYCLES || change < MEMORY_TOLERANCE,
                "memory grew by {:.1} %",
                change * 100.0
            );
        }
    }
    traffic.end().await;
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

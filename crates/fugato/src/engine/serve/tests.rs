//! A whole server on two devices, asked over HTTP: the first is the CPU as if it were another
//! device, one that refuses models by name.

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../../../tests/lifecycle/model.rs"]
mod model;

mod measured;
mod rig;
mod told;

use super::*;
use crate::engine::PlanBench;
use crate::engine::devices::MAIN;
use crate::planning;
use fugato_core::profile::{DeviceKey, GridPoint, ModelProfile, Profile, SCHEMA};
use fugato_core::sched::PolicySpec;
use fugato_core::{BatchSize, Nanos, Share};
use fugato_device::DeviceEvent;
use model::Repository;
use rig::{Parts, QUIET, Refusal, Rig, configured};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use told::{PATIENCE, ROW_BYTES, Told, Traffic, rows, until};

#[tokio::test]
async fn a_model_that_is_refused_runs_on_the_cpu_where_its_owner_allows_it() {
    let repository = Repository::new();
    for (name, k) in [
        ("taken", 1.0),
        ("moved", 2.0),
        ("asked", 3.0),
        ("kind", 4.0),
    ] {
        repository.put_adder(name, 1, k);
    }
    for name in ["refused", "busy"] {
        repository.put_adder(name, 1, 9.0);
    }
    let kind = "instance_group { kind: KIND_CPU }\n";
    repository.put("kind/config.pbtxt", kind.as_bytes());
    let toml = format!(
        "{QUIET}[model.moved]\ndevice = \"auto\"\n[model.busy]\ndevice = \"auto\"\n\
         [model.asked]\ndevice = \"cpu\"\n"
    );
    let refused = [
        ("moved", Refusal::Lacking),
        ("refused", Refusal::Lacking),
        ("busy", Refusal::Busy),
    ];
    let rig = Rig::start(&repository, &toml, &refused).await;
    let script = async |told: Told| {
        for (name, k, device) in [
            ("taken", 1.0, 0),
            ("moved", 2.0, 1),
            ("asked", 3.0, 1),
            ("kind", 4.0, 1),
        ] {
            assert_eq!(told.adds(name).await, Ok(k), "{name}");
            assert_eq!(told.device(name).await, device, "{name}");
            let settings = told.get(&format!("/v2/models/{name}/settings")).await;
            let called = settings["device_name"].as_str().unwrap();
            assert_eq!(called.starts_with("picky"), device == 0, "{called}");
            assert_eq!(called.starts_with("cpu"), device == 1, "{called}");
            // As its owner asked, wherever it runs.
            let config = told.get(&format!("/v2/models/{name}/config")).await;
            let kind = if name == "kind" {
                "KIND_CPU"
            } else {
                "KIND_AUTO"
            };
            assert_eq!(config["instance_group"][0]["kind"], kind, "{name}");
            let explained = told
                .get(&format!("/v2/models/{name}/explain/a%20request"))
                .await;
            assert_eq!(explained["legs"][0]["device"], device, "{explained}");
            let profile = told.get(&format!("/v2/models/{name}/profile")).await;
            let kind = ["picky", "cpu"][usize::try_from(device).unwrap()];
            assert_eq!(profile["device"]["kind"], kind, "{profile}");
        }
        let reason = told.reason("refused").await;
        assert!(reason.contains("lacks"), "{reason}");
        assert!(reason.contains("`device = \"auto\"`"), "{reason}");
        let reason = told.reason("busy").await;
        assert!(reason.contains("slots must be at least 1"), "{reason}");
        assert!(!reason.contains("CPU"), "{reason}");
        let (status, error) = told.http("/v2/models/refused/ready", None).await;
        assert_ne!(status, 200, "{error}");
        let metrics = told.metrics().await;
        for line in [
            "fugato_model_device{model=\"taken\",version=\"1\",device=\"0\"} 1",
            "fugato_model_device{model=\"moved\",version=\"1\",device=\"1\"} 1",
        ] {
            assert!(metrics.contains(line), "{line}: {metrics}");
        }
        let legs = |device: u16| {
            let name = format!("fugato_device_legs_total{{device=\"{device}\"}} ");
            let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
            line.expect("it is shown").parse::<u64>().unwrap()
        };
        assert!(legs(0) > 0 && legs(1) > 0, "{metrics}");
        let trace = told.get("/v2/timeline?seconds=3600").await;
        let events = trace["traceEvents"].as_array().unwrap().iter();
        let ran = events.filter(|event| event["ph"] == "X");
        let ran = ran.map(|event| {
            (
                event["name"].as_str().unwrap(),
                event["pid"].as_u64().unwrap(),
            )
        });
        let ran: BTreeSet<_> = ran.collect();
        let expected = [
            ("asked/1", 2),
            ("kind/1", 2),
            ("moved/1", 2),
            ("taken/1", 1),
        ];
        assert_eq!(ran, expected.into(), "{trace}");
    };
    rig.run(script).await.expect("it drains");
}

#[tokio::test]
async fn a_server_whose_models_are_all_taken_has_one_device() {
    let repository = Repository::new();
    repository.put_adder("taken", 1, 1.0);
    let toml = format!("{QUIET}[defaults]\ndevice = \"auto\"\n");
    let rig = Rig::start(&repository, &toml, &[]).await;
    let script = async |told: Told| {
        assert_eq!(told.adds("taken").await, Ok(1.0));
        let trace = told.get("/v2/timeline?seconds=3600").await;
        let events = trace["traceEvents"].as_array().unwrap().iter();
        let processes = events.filter(|event| event["name"] == "process_name");
        assert_eq!(processes.count(), 1, "{trace}");
        let metrics = told.metrics().await;
        assert!(!metrics.contains("device=\"1\""), "{metrics}");
    };
    rig.run(script).await.expect("it drains");
}

#[tokio::test]
async fn a_cpu_that_cannot_be_used_is_said() {
    let repository = Repository::new();
    for name in ["taken", "moved", "asked", "refused"] {
        repository.put_adder(name, 1, 1.0);
    }
    let toml = format!(
        "{QUIET}[defaults]\ndevice = \"auto\"\n[model.asked]\ndevice = \"cpu\"\n\
         [model.refused]\ndevice = \"server\"\n"
    );
    let rig = Rig::of(Parts {
        repository: &repository,
        toml: &toml,
        refused: &[("moved", Refusal::Lacking), ("refused", Refusal::Lacking)],
        no_cpu: Some("core 99 is not there"),
    })
    .await;
    let script = async |told: Told| {
        assert_eq!(told.adds("taken").await, Ok(1.0));
        let asked = told.reason("asked").await;
        assert!(asked.contains("core 99 is not there"), "{asked}");
        let moved = told.reason("moved").await;
        assert!(moved.contains("lacks"), "{moved}");
        assert!(moved.contains("core 99 is not there"), "{moved}");
        assert!(!moved.contains("hint"), "{moved}");
        // What cannot be is not advised.
        let refused = told.reason("refused").await;
        assert!(refused.contains("lacks"), "{refused}");
        assert!(!refused.contains("auto"), "{refused}");
    };
    rig.run(script).await.expect("it drains");
}

#[tokio::test]
async fn a_model_moves_by_being_loaded_anew_and_no_request_is_lost() {
    let repository = Repository::new();
    repository.put_adder("m", 1, 1.0);
    repository.put_adder("other", 1, 7.0);
    let toml = format!("{QUIET}[model.m]\ndevice = \"auto\"\n");
    let rig = Rig::start(&repository, &toml, &[("m", Refusal::Lacking)]).await;
    let script = async |told: Told| {
        let traffic = Traffic::start(&told, &[("m", 3), ("other", 1)]);
        assert_eq!((told.device("m").await, told.adds("m").await), (1, Ok(1.0)));
        // The same is kept where it is.
        told.refuse("m", None);
        assert_eq!(told.load("m", None).await.0, 200);
        assert_eq!(told.device("m").await, 1);
        for (k, refusal, device) in [
            (2.0, None, 0),
            (3.0, Some(Refusal::Lacking), 1),
            (4.0, None, 0),
        ] {
            repository.put_adder("m", 1, k);
            told.refuse("m", refusal);
            let (status, error) = told.load("m", None).await;
            assert_eq!(status, 200, "{error}");
            let now = (told.device("m").await, told.adds("m").await);
            assert_eq!(now, (device, Ok(f64::from(k))));
            traffic.more(20).await;
        }
        // What fails leaves it where it was.
        repository.put_adder("m", 1, 5.0);
        told.refuse("m", Some(Refusal::Busy));
        let (status, error) = told.load("m", None).await;
        assert_eq!(status, 400, "{error}");
        assert_eq!((told.device("m").await, told.adds("m").await), (0, Ok(4.0)));
        // By its settings alone.
        told.refuse("m", None);
        let parameter = json!({"fugato.device": {"string_value": "cpu"}});
        let config = json!({"backend": "onnxruntime", "parameters": parameter});
        assert_eq!(told.load("other", Some(&config)).await.0, 200);
        let other = (told.device("other").await, told.adds("other").await);
        assert_eq!(other, (1, Ok(7.0)));
        traffic.more(20).await;
        let metrics = told.metrics().await;
        let shown = metrics
            .lines()
            .filter(|line| line.starts_with("fugato_model_device{"));
        let shown: Vec<&str> = shown.collect();
        assert_eq!(shown.len(), 2, "{shown:?}");
        traffic.end().await;
        let (status, error) = told
            .http("/v2/repository/models/m/unload", Some("{}"))
            .await;
        assert_eq!(status, 200, "{error}");
        assert!(told.adds("m").await.is_err());
    };
    rig.run(script).await.expect("it drains");
}

#[tokio::test]
async fn both_devices_serve_under_every_policy_and_drain() {
    let repository = Repository::new();
    for (name, k) in [("a", 1.0), ("b", 2.0)] {
        repository.put_worker(name, 1, k);
    }
    for (name, k) in [("c", 3.0), ("d", 4.0)] {
        repository.put_adder(name, 1, k);
    }
    let toml = format!("{QUIET}[model.b]\ndevice = \"cpu\"\n[model.d]\ndevice = \"cpu\"\n");
    let rig = Rig::start(&repository, &toml, &[]).await;
    let replied = Arc::new(AtomicU64::new(0));
    let mut last = JoinSet::new();
    let script = async |told: Told| {
        let traffic = Traffic::start(&told, &[("a", 2), ("b", 2), ("c", 2), ("d", 2)]);
        for policy in PolicySpec::NAMES {
            let body = json!({"policy": policy}).to_string();
            let (status, error) = told.http("/v2/scheduler", Some(&body)).await;
            assert_eq!(status, 200, "{policy}: {error}");
            traffic.more(24).await;
            // A client of each device that goes away.
            for model in ["a", "b"] {
                told.ask_and_go(model).await;
            }
        }
        traffic.end().await;
        // What was accepted is answered while the server drains.
        for model in ["a", "b", "a", "b"] {
            let (told, replied) = (told.clone(), Arc::clone(&replied));
            last.spawn(async move {
                let k = if model == "a" { 1.0 } else { 2.0 };
                assert_eq!(told.adds(model).await, Ok(k));
                replied.fetch_add(1, Ordering::Relaxed);
            });
        }
        until("all requests are accepted", async || {
            // In this order: one that is answered in between counts for neither.
            let answered = replied.load(Ordering::Relaxed);
            answered + told.held_bytes().await / ROW_BYTES >= 4
        })
        .await;
    };
    rig.run(script).await.expect("it drains");
    while let Some(ended) = last.join_next().await {
        ended.expect("what was accepted is answered");
    }
    assert_eq!(replied.load(Ordering::Relaxed), 4);
}

/// Writes a plan of a model in several legs, made for the CPU.
fn write_plan(repository: &Repository, model: &str, folder: &Path) -> PathBuf {
    let parts = Parts {
        repository,
        toml: "[device]\nkind = \"cpu\"\n",
        refused: &[],
        no_cpu: None,
    };
    let config = configured(folder, &parts);
    let file = repository.file(&format!("{model}/1/model.onnx"));
    let at = (Share(1), BatchSize(1));
    let mut bench = PlanBench::open(&config, &file, at, None).unwrap();
    let (plan, _) = planning::legs(&mut bench, Nanos::from_micros(300), 3).unwrap();
    assert!(plan.legs.len() > 1, "{} legs", plan.legs.len());
    let path = folder.join("plan.json");
    std::fs::write(&path, serde_json::to_string(&plan).unwrap()).unwrap();
    path
}

#[tokio::test]
async fn a_plan_is_followed_on_the_device_that_it_was_made_for() {
    let repository = Repository::new();
    for (name, k) in [("there", 1.0), ("either", 2.0), ("here", 3.0)] {
        repository.put_worker(name, 1, k);
    }
    let folder = tempfile::tempdir().unwrap();
    let mut toml = QUIET.to_owned();
    for (name, device) in [("there", "cpu"), ("either", "auto"), ("here", "server")] {
        let folder = folder.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        let plan = write_plan(&repository, name, &folder);
        toml +=
            &format!("[model.{name}]\ndevice = \"{device}\"\nplan = {plan:?}\nunsplit = false\n");
    }
    let rig = Rig::start(&repository, &toml, &[]).await;
    let script = async |told: Told| {
        for (name, k, device, is_cut) in [("there", 1.0, 1, true), ("either", 2.0, 0, false)] {
            assert_eq!(told.adds(name).await, Ok(k), "{name}");
            assert_eq!(told.device(name).await, device, "{name}");
            let path = format!("/v2/models/{name}/explain/a%20request");
            let legs = told.get(&path).await["legs"].as_array().unwrap().len();
            assert_eq!(legs > 1, is_cut, "{name} has {legs} legs");
        }
        let reason = told.reason("here").await;
        assert!(reason.contains("plan was made for"), "{reason}");
    };
    rig.run(script).await.expect("it drains");
}

/// Writes a profile for the device that is no CPU, on which each model takes so long as a whole.
fn write_profile(repository: &Repository, models: &[&str], whole_s: f64, folder: &Path) -> PathBuf {
    let parts = Parts {
        repository,
        toml: "[device]\nkind = \"cpu\"\n",
        refused: &[],
        no_cpu: None,
    };
    let config = configured(folder, &parts);
    let (ort, store) = open::cpu_store(&config).unwrap();
    let profiler = open::cpu_profiler(&config).unwrap();
    let device = profiler.device().profile_key();
    let of = |name: &&str| {
        let file = repository.file(&format!("{name}/1/model.onnx"));
        let hash = store.prepare(file).unwrap().info().hash.clone();
        let mut model = ModelProfile::new(*name, hash, 1);
        model.version = Some("1".to_owned());
        model.grid = vec![GridPoint {
            batch: 1,
            share: device.slices,
            neighbours: 0,
            median_s: Some(whole_s),
            p95_s: Some(whole_s),
            low_s: Some(whole_s),
            high_s: Some(whole_s),
            repeats: 1,
            failed: None,
        }];
        model
    };
    let profile = Profile {
        schema: SCHEMA.to_owned(),
        runtime: ort.profile_key(),
        synthetic: false,
        launch_s: None,
        models: models.iter().map(of).collect(),
        device: DeviceKey {
            kind: "picky".to_owned(),
            ..device.clone()
        },
    };
    let path = folder.join("profile.json");
    std::fs::write(&path, serde_json::to_string(&profile).unwrap()).unwrap();
    path
}

#[tokio::test]
async fn a_device_that_is_no_cpu_cuts_models_by_their_profiles() {
    let repository = Repository::new();
    for (name, k) in [("known", 1.0), ("short", 2.0), ("unknown", 3.0)] {
        repository.put_worker(name, 1, k);
    }
    let folder = tempfile::tempdir().unwrap();
    let profile = write_profile(&repository, &["known", "short"], 0.010, folder.path());
    let toml = format!(
        "[profile]\nonline_share = 0.0\nfile = {profile:?}\n[defaults]\nlegs = \"2ms\"\n\
         unsplit = false\n[model.short]\nlegs = \"1s\"\n"
    );
    let rig = Rig::start(&repository, &toml, &[]).await;
    let script = async |told: Told| {
        // Ten milliseconds in legs of one to two.
        for (name, k, expected) in [
            ("known", 1.0, 5..=10),
            ("short", 2.0, 1..=1),
            ("unknown", 3.0, 1..=1),
        ] {
            assert_eq!(told.adds(name).await, Ok(k), "{name}");
            let path = format!("/v2/models/{name}/explain/a%20request");
            let legs = told.get(&path).await["legs"].as_array().unwrap().len();
            assert!(expected.contains(&legs), "{name} has {legs} legs");
        }
    };
    rig.run(script).await.expect("it drains");
}

#[tokio::test]
async fn the_loss_of_the_first_device_ends_the_server() {
    let repository = Repository::new();
    repository.put_adder("a", 1, 1.0);
    repository.put_adder("b", 1, 2.0);
    let toml = format!("{QUIET}[model.b]\ndevice = \"cpu\"\n");
    let rig = Rig::start(&repository, &toml, &[]).await;
    let script = async |told: Told| {
        assert_eq!(told.adds("b").await, Ok(2.0));
        (told.sink)(DeviceEvent::Lost {
            device: MAIN,
            detail: "an uncorrectable fault".to_owned(),
        });
        // The server ends by itself.
        until("nobody answers", async || {
            let asked = told.try_ask(told.http, "/v2/health/live", None).await;
            asked.is_none()
        })
        .await;
    };
    let ended = rig.run(script).await;
    let Err(ServeError::DeviceLost { detail }) = ended else {
        panic!("{ended:?}");
    };
    assert_eq!(detail, "an uncorrectable fault");
}

/// A core that this process may use.
fn a_core() -> u16 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let allowed = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let first = allowed.unwrap().trim().split([',', '-']).next();
    first.unwrap().parse().unwrap()
}

#[tokio::test]
async fn what_the_other_device_accepted_outlives_the_loss_of_the_first() {
    /// Rows of a request, which take a core some hundred milliseconds.
    const ROWS: usize = 1_024;
    const REQUESTS: usize = 4;
    let repository = Repository::new();
    repository.put_adder("a", 1, 1.0);
    repository.put_worker("b", 1, 2.0);
    let toml = format!(
        "{QUIET}[device]\ncores = \"{}\"\n[model.b]\ndevice = \"cpu\"\nmax_batch_size = {ROWS}\n",
        a_core()
    );
    let rig = Rig::start(&repository, &toml, &[]).await;
    let mut asked = JoinSet::new();
    let clients = &mut asked;
    let replied = Arc::new(AtomicU64::new(0));
    let script = async |told: Told| {
        for _ in 0..REQUESTS {
            let (told, replied) = (told.clone(), Arc::clone(&replied));
            clients.spawn(async move {
                let body = rows(0.5, ROWS);
                let (status, json) = told.http("/v2/models/b/infer", Some(&body)).await;
                assert_eq!(status, 200, "{json}");
                assert_eq!(json["outputs"][0]["data"][0].as_f64(), Some(2.5), "{json}");
                replied.fetch_add(1, Ordering::Relaxed);
            });
        }
        until("all requests are accepted", async || {
            // In this order: one that is answered in between counts for neither.
            let answered = replied.load(Ordering::Relaxed);
            answered + told.held_bytes().await / (ROWS as u64 * ROW_BYTES) >= REQUESTS as u64
        })
        .await;
        (told.sink)(DeviceEvent::Lost {
            device: MAIN,
            detail: "an uncorrectable fault".to_owned(),
        });
        until("the server drains", async || {
            let ready = told.try_ask(told.http, "/v2/health/ready", None).await;
            ready.is_none_or(|(status, _)| status != 200)
        })
        .await;
    };
    let ended = rig.run(script).await;
    assert!(
        matches!(ended, Err(ServeError::DeviceLost { .. })),
        "{ended:?}"
    );
    while let Some(answered) = asked.join_next().await {
        answered.expect("what was accepted is answered");
    }
}

#[tokio::test]
async fn after_a_loss_only_what_was_accepted_is_waited_for() {
    /// Rows of a request, which take a core some hundred milliseconds.
    const ROWS: usize = 1_024;
    let repository = Repository::new();
    repository.put_adder("a", 1, 1.0);
    repository.put_worker("b", 1, 2.0);
    // With such patience a client may keep the server from ending for hours.
    let patience = "drain_timeout = \"14400s\"\nstall_timeout = \"14400s\"\n";
    let toml = format!(
        "{patience}{QUIET}[device]\ncores = \"{}\"\n[model.b]\ndevice = \"cpu\"\n\
         max_batch_size = {ROWS}\n",
        a_core()
    );
    let rig = Rig::start(&repository, &toml, &[]).await;
    let mut asked = JoinSet::new();
    let mut held = None;
    let (clients, held_open) = (&mut asked, &mut held);
    let replied = Arc::new(AtomicU64::new(0));
    let script = async |told: Told| {
        let (client, count) = (told.clone(), Arc::clone(&replied));
        clients.spawn(async move {
            let body = rows(0.5, ROWS);
            let (status, json) = client.http("/v2/models/b/infer", Some(&body)).await;
            assert_eq!(status, 200, "{json}");
            count.fetch_add(1, Ordering::Relaxed);
        });
        until("the request is accepted", async || {
            // In this order: one that is answered in between counts for neither.
            let answered = replied.load(Ordering::Relaxed);
            answered + told.held_bytes().await / (ROWS as u64 * ROW_BYTES) >= 1
        })
        .await;
        // It begins a request and goes no further.
        let mut silent = TcpStream::connect(told.http).await.unwrap();
        let head = "POST /v2/models/b/infer HTTP/1.1\r\nhost: test\r\ncontent-length: 99\r\n\r\n{";
        silent.write_all(head.as_bytes()).await.unwrap();
        *held_open = Some(silent);
        (told.sink)(DeviceEvent::Lost {
            device: MAIN,
            detail: "an uncorrectable fault".to_owned(),
        });
        // Else it may be stopped before it has heard of the loss.
        until("the server drains", async || {
            let ready = told.try_ask(told.http, "/v2/health/ready", None).await;
            ready.is_none_or(|(status, _)| status != 200)
        })
        .await;
    };
    let ended = tokio::time::timeout(PATIENCE, rig.run(script)).await;
    let ended = ended.expect("the server ends once all is answered");
    assert!(
        matches!(ended, Err(ServeError::DeviceLost { .. })),
        "{ended:?}"
    );
    while let Some(answered) = asked.join_next().await {
        answered.expect("what was accepted is answered");
    }
    drop(held);
}

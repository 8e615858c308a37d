//! Changes of the policy, and of what models are to reach, while a real server serves.

use super::model::Repository;
use super::server::{PATIENCE, Server};
use super::{EXPLICIT, k_of};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::{JoinHandle, JoinSet};
use tonic::Status;

/// Requests that may be open at once: half of what a queue takes. On a machine that is busy
/// with something else the server falls behind, and nothing is to be refused.
const OPEN_MAX: u64 = 512;

/// Requests at set times, whether or not replies come.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    sending: JoinHandle<(u64, Vec<Status>)>,
}

impl Load {
    async fn start(server: &Server, model: &'static str, every: Duration) -> Self {
        let client = server.client().await;
        let (stop, answered) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&answered));
        let sending = tokio::spawn(async move {
            let (mut ticks, mut asks) = (tokio::time::interval(every), JoinSet::new());
            while !stopped.load(Ordering::Relaxed) {
                ticks.tick().await;
                if asks.len() as u64 - count.load(Ordering::Relaxed) >= OPEN_MAX {
                    continue;
                }
                let (mut client, count) = (client.clone(), Arc::clone(&count));
                asks.spawn(async move {
                    let asked = client.ask(model, "").await;
                    count.fetch_add(1, Ordering::Relaxed);
                    asked
                });
            }
            let sent = asks.len() as u64;
            let answers = asks.join_all().await;
            (sent, answers.into_iter().filter_map(Result::err).collect())
        });
        Self {
            stop,
            answered,
            sending,
        }
    }

    /// Waits until `count` more requests were answered.
    async fn more(&self, count: u64) {
        let answered = || self.answered.load(Ordering::Relaxed);
        let (begun, patience) = (answered(), Instant::now() + PATIENCE);
        while answered() < begun + count {
            assert!(Instant::now() < patience, "no answers come");
            tokio::task::yield_now().await;
        }
    }

    /// Ends it; gives how many requests were sent, each of which was served.
    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let (sent, failed) = self.sending.await.expect("it does not panic");
        let first = failed.first();
        assert!(
            first.is_none(),
            "{} of {sent} failed: {first:?}",
            failed.len()
        );
        sent
    }
}

async fn read(server: &Server, path: &str) -> Value {
    let (status, _, reply) = server.http(path, None).await;
    assert_eq!(status, 200, "{path}: {reply}");
    reply
}

async fn change(server: &Server, path: &str, body: &Value) -> Value {
    let (status, _, reply) = server.http(path, Some(&body.to_string())).await;
    assert_eq!(status, 200, "{path} {body}: {reply}");
    reply
}

/// The deadline that a request of that id had, after its arrival.
async fn deadline_of(server: &Server, model: &str, id: &str) -> Value {
    let path = format!("/v2/models/{model}/explain/{id}");
    read(server, &path).await["deadline_us"].take()
}

#[tokio::test]
async fn policies_and_objectives_change_without_a_lost_request() {
    let repository = Repository::new();
    repository.put_adder("light", 1, 1.0);
    repository.put_worker("heavy", 1, 2.0);
    let arguments = [EXPLICIT, &["--load-model", "*"]].concat();
    let server = Server::start(&repository, &arguments).await;
    let mut client = server.client().await;
    let light = Load::start(&server, "light", Duration::from_millis(2)).await;
    let heavy = Load::start(&server, "heavy", Duration::from_millis(10)).await;
    let known = read(&server, "/v2/scheduler").await["policies"].take();
    let known: Vec<String> = serde_json::from_value(known).expect("a list of names");
    assert!(known.len() >= 3, "{known:?}");
    let first = ["edf", "uncontrolled", "fifo", "edf"].map(str::to_owned);
    for (step, policy) in first.iter().chain(&known).enumerate() {
        let reply = change(&server, "/v2/scheduler", &json!({"policy": policy})).await;
        assert_eq!(reply["policy"], json!(policy));
        // Far more than it takes.
        let (slo, weight) = (600 + step, 1.0 + step as f64);
        let body = json!({"slo": format!("{slo}s"), "weight": weight});
        let reply = change(&server, "/v2/models/light/settings", &body).await;
        assert_eq!(reply["weight"], json!(weight));
        let id = format!("after-{step}");
        client.ask_as("light", "", &id).await.expect("it is served");
        let deadline = deadline_of(&server, "light", &id).await;
        assert_eq!(deadline, json!(slo * 1_000_000), "the new objective counts");
        light.more(50).await;
        heavy.more(5).await;
    }
    let asked = (first.len() + known.len()) as u64;
    let sent = [
        ("light", light.end().await + asked),
        ("heavy", heavy.end().await),
    ];
    for (model, sent) in sent {
        let statistics = read(&server, &format!("/v2/models/{model}/stats")).await;
        let stats = &statistics["model_stats"][0]["inference_stats"];
        assert_eq!(
            stats["success"]["count"],
            json!(sent),
            "{model}: {statistics}"
        );
        assert_eq!(stats["fail"]["count"], json!(0), "{model}: {statistics}");
    }
    assert_eq!(server.stop().await, Some(0));
}

#[tokio::test]
async fn what_was_changed_stays_until_it_is_taken_back_or_the_model_goes() {
    let repository = Repository::new();
    repository.put_adder("a", 1, 1.0);
    let folder = tempfile::tempdir().expect("a folder can be made");
    let toml = folder.path().join("fugato.toml");
    std::fs::write(&toml, "[model.a]\nslo = \"50s\"\nweight = 3.0\n").expect("a file");
    let toml = toml.to_str().expect("UTF-8");
    let arguments = [EXPLICIT, &["--load-model", "*", "--config", toml]].concat();
    let server = Server::start(&repository, &arguments).await;
    let mut client = server.client().await;
    let path = "/v2/models/a/settings";
    let configured = json!({"slo": "50s", "weight": 3.0});
    let first = read(&server, path).await;
    let device = first["device_name"].clone();
    assert!(
        device.as_str().is_some_and(|name| name.starts_with("cpu:")),
        "{first}"
    );
    let is = |slo: Value, weight: f64, live: &[&str]| json!({"model_name": "a", "device": 0, "device_name": device, "slo": slo, "weight": weight, "live": live, "configured": configured});
    assert_eq!(first, is(json!("50s"), 3.0, &[]));
    let reply = change(&server, path, &json!({"slo": "40s"})).await;
    assert_eq!(reply, is(json!("40s"), 3.0, &["slo"]));
    let reply = change(&server, path, &json!({"weight": 0.5})).await;
    assert_eq!(reply, is(json!("40s"), 0.5, &["slo", "weight"]));
    // A new file of the model is another model to the scheduler.
    repository.put_adder("a", 1, 2.0);
    client.load("a").await.expect("it can be loaded anew");
    assert_eq!(k_of(&mut client, "a").await, 2.0);
    assert_eq!(
        read(&server, path).await,
        is(json!("40s"), 0.5, &["slo", "weight"])
    );
    client.ask_as("a", "", "anew").await.expect("it is served");
    assert_eq!(deadline_of(&server, "a", "anew").await, json!(40_000_000));
    let reply = change(&server, path, &json!({"slo": "none", "weight": null})).await;
    assert_eq!(reply, is(Value::Null, 3.0, &["slo"]));
    client.ask_as("a", "", "none").await.expect("it is served");
    assert_eq!(deadline_of(&server, "a", "none").await, Value::Null);
    client.unload("a").await.expect("it can be unloaded");
    let (status, label, _) = server.http(path, None).await;
    assert_eq!((status, &*label), (503, "model_not_ready"));
    client.load("a").await.expect("it can be loaded");
    assert_eq!(read(&server, path).await, is(json!("50s"), 3.0, &[]));
    assert_eq!(server.stop().await, Some(0));
}

#[tokio::test]
async fn a_change_that_cannot_be_is_refused_by_name() {
    let repository = Repository::new();
    repository.put_adder("a", 1, 1.0);
    let arguments = [EXPLICIT, &["--load-model", "*"]].concat();
    let server = Server::start(&repository, &arguments).await;
    let (scheduler, model) = ("/v2/scheduler", "/v2/models/a/settings");
    let before = (read(&server, scheduler).await, read(&server, model).await);
    let cases: [(&str, &str, u16, &str, &[&str]); 20] = [
        (
            scheduler,
            r#"{"policy":"lifo"}"#,
            400,
            "invalid_value",
            &["policy", "lifo", "`fifo`", "`edf`", "`uncontrolled`"],
        ),
        (
            scheduler,
            r#"{"policy":3}"#,
            400,
            "invalid_value",
            &["policy", "3", "name of a policy"],
        ),
        (
            scheduler,
            r#"{"policy":"edf","settings":{"lanes":2}}"#,
            400,
            "invalid_value",
            &["`edf`", "`lanes`", "none"],
        ),
        (
            scheduler,
            r#"{"settings":{"lanes":2}}"#,
            400,
            "invalid_value",
            &["`edf`", "`lanes`", "none"],
        ),
        (
            scheduler,
            r#"{"policy":"uncontrolled","settings":{"lanes":0}}"#,
            400,
            "invalid_value",
            &["`lanes`", "`0`", "1 to 64"],
        ),
        (
            scheduler,
            r#"{"policy":"uncontrolled","settings":{"lanes":-1}}"#,
            400,
            "invalid_value",
            &["`lanes`", "`-1`", "a whole number"],
        ),
        (
            scheduler,
            r#"{"policy":"uncontrolled","settings":{"lanes":"x"}}"#,
            400,
            "invalid_value",
            &["`lanes`", "x", "a whole number"],
        ),
        (
            scheduler,
            r#"{"policy":"uncontrolled","settings":{"lans":2}}"#,
            400,
            "invalid_value",
            &["`uncontrolled`", "`lans`", "`lanes`"],
        ),
        (
            scheduler,
            r#"{"policy":"uncontrolled","settings":{"share":999}}"#,
            400,
            "invalid_value",
            &["`share`", "`999`", "one of {1"],
        ),
        (
            scheduler,
            r#"{"deadlines":"maybe"}"#,
            400,
            "invalid_value",
            &["deadlines", "maybe", "`enforce` or `observe`"],
        ),
        (
            scheduler,
            r#"{"polcy":"edf"}"#,
            400,
            "invalid_value",
            &["polcy", "`policy`", "`deadlines`"],
        ),
        (
            scheduler,
            "[",
            400,
            "invalid_request",
            &["change of the scheduler"],
        ),
        (
            model,
            r#"{"slo":"0ms"}"#,
            400,
            "invalid_value",
            &["`slo`", "0s", "1us to 60min"],
        ),
        (
            model,
            r#"{"slo":"-5ms"}"#,
            400,
            "invalid_value",
            &["`slo`", "-5ms", "`25ms`"],
        ),
        (
            model,
            r#"{"slo":"3h"}"#,
            400,
            "invalid_value",
            &["`slo`", "180min", "60min"],
        ),
        (
            model,
            r#"{"slo":"400min"}"#,
            400,
            "invalid_value",
            &["`slo`", "400min", "60min"],
        ),
        (
            model,
            r#"{"weight":0}"#,
            400,
            "invalid_value",
            &["`weight`", "`0`", "0.000001 to 1000000"],
        ),
        (
            model,
            r#"{"weight":"NaN"}"#,
            400,
            "invalid_value",
            &["`weight`", "NaN", "a number"],
        ),
        (
            model,
            r#"{"weigth":1}"#,
            400,
            "invalid_value",
            &["model `a`", "`weigth`", "`weight`"],
        ),
        (
            "/v2/models/b/settings",
            r#"{"weight":1}"#,
            404,
            "unknown_model",
            &["`b`"],
        ),
    ];
    for (path, body, status, label, parts) in cases {
        let (found, named, reply) = server.http(path, Some(body)).await;
        assert_eq!((found, &*named), (status, label), "{path} {body}: {reply}");
        let text = reply["error"].as_str().expect("an error has a text");
        for part in parts {
            assert!(text.contains(part), "{body}: {text}");
        }
    }
    // Good in one part and bad in another: nothing changes.
    let body = r#"{"slo":"9s","weight":-1}"#;
    assert_eq!(server.http(model, Some(body)).await.0, 400);
    let after = (read(&server, scheduler).await, read(&server, model).await);
    assert_eq!(before, after);
    assert_eq!(server.stop().await, Some(0));

    let server = Server::start(&repository, &[]).await;
    for path in [scheduler, model] {
        read(&server, path).await;
        let (status, label, _) = server.http(path, Some("{}")).await;
        assert_eq!((status, &*label), (403, "control_disabled"), "{path}");
    }
    assert_eq!(server.stop().await, Some(0));
}

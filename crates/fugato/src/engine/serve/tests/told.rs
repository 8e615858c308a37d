//! What a test asks a server by, over HTTP, and tells its devices.

use super::rig::{Refusal, Refusals};
use fugato_device::EventSink;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{self, JoinSet};
use tokio_util::sync::CancellationToken;

/// What tests wait for takes milliseconds; this long only where something is wrong.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// What a test asks a server by, and tells its devices.
#[derive(Clone)]
pub(super) struct Told {
    pub(super) http: SocketAddr,
    pub(super) metrics: SocketAddr,
    pub(super) refusals: Refusals,
    pub(super) sink: EventSink,
    pub(super) store: PathBuf,
    /// Ends the server as the end of its supervisor does.
    pub(super) stop: CancellationToken,
}

/// The bytes of a row's input.
pub(super) const ROW_BYTES: u64 = 4;

/// The body of a request of one row.
fn row(x: f32) -> String {
    rows(x, 1)
}

/// The body of a request of several equal rows.
pub(super) fn rows(x: f32, count: usize) -> String {
    let data = vec![x; count];
    let input = json!({"name": "input", "datatype": "FP32", "shape": [count, 1], "data": data});
    json!({"id": "a request", "inputs": [input]}).to_string()
}

impl Told {
    /// The bytes of requests that are accepted and not answered.
    pub(super) async fn held_bytes(&self) -> u64 {
        let metrics = self.metrics().await;
        let held = metrics.lines().filter_map(|line| {
            let (name, bytes) = line.rsplit_once(' ')?;
            let is_held = name.starts_with("fugato_request_held_bytes{");
            is_held.then(|| bytes.parse::<u64>().unwrap())
        });
        held.sum()
    }

    /// One HTTP request; gives the status and the body, or `None` where nobody answers.
    pub(super) async fn try_ask(
        &self,
        to: SocketAddr,
        path: &str,
        body: Option<&str>,
    ) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(to).await.ok()?;
        let (method, body) = match body {
            Some(body) => ("POST", body),
            None => ("GET", ""),
        };
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    }

    /// Sends a request to a model and goes before it is answered.
    pub(super) async fn ask_and_go(&self, model: &str) {
        let mut stream = TcpStream::connect(self.http).await.expect("it listens");
        let body = row(0.5);
        let length = body.len();
        let request = format!(
            "POST /v2/models/{model}/infer HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n\
             {body}"
        );
        let sent = stream.write_all(request.as_bytes()).await;
        sent.expect("the request can be sent");
    }

    pub(super) async fn http(&self, path: &str, body: Option<&str>) -> (u16, Value) {
        let asked = self.try_ask(self.http, path, body).await;
        let (status, body) = asked.expect("it answers");
        (status, serde_json::from_str(&body).unwrap_or(Value::Null))
    }

    pub(super) async fn get(&self, path: &str) -> Value {
        let (status, json) = self.http(path, None).await;
        assert_eq!(status, 200, "{path}: {json}");
        json
    }

    /// What a model adds to its input.
    pub(super) async fn adds(&self, model: &str) -> Result<f64, Value> {
        let path = format!("/v2/models/{model}/infer");
        let (status, json) = self.http(&path, Some(&row(0.5))).await;
        match status {
            200 => Ok(json["outputs"][0]["data"][0].as_f64().unwrap() - 0.5),
            _ => Err(json),
        }
    }

    /// On which device a model is.
    pub(super) async fn device(&self, model: &str) -> u64 {
        let settings = self.get(&format!("/v2/models/{model}/settings")).await;
        settings["device"].as_u64().unwrap()
    }

    pub(super) async fn load(&self, model: &str, config: Option<&Value>) -> (u16, Value) {
        let parameters = config.map(|config| json!({"config": config.to_string()}));
        let body = json!({"parameters": parameters.unwrap_or(json!({}))}).to_string();
        self.http(&format!("/v2/repository/models/{model}/load"), Some(&body))
            .await
    }

    /// Why a model is not ready.
    pub(super) async fn reason(&self, model: &str) -> String {
        let (_, index) = self.http("/v2/repository/index", Some("{}")).await;
        let listed = index.as_array().unwrap().iter();
        let mut of_model = listed.filter(|listed| listed["name"] == model);
        let found = of_model.next().expect("it is listed");
        assert_eq!(found["state"], "UNAVAILABLE", "{found}");
        found["reason"].as_str().unwrap().to_owned()
    }

    pub(super) async fn metrics(&self) -> String {
        let asked = self.try_ask(self.metrics, "/metrics", None).await;
        asked.expect("it answers").1
    }

    pub(super) fn refuse(&self, model: &str, refusal: Option<Refusal>) {
        let mut refusals = self.refusals.lock().unwrap();
        refusals.remove(model);
        refusals.extend(refusal.map(|refusal| (model.to_owned(), refusal)));
    }

    pub(super) async fn until_ready(&self) {
        let ready = async || {
            let asked = self.try_ask(self.http, "/v2/health/ready", None).await;
            asked.is_some_and(|(status, _)| status == 200)
        };
        until("the server is ready", ready).await;
    }
}

/// Waits until something is so.
pub(super) async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let patience = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < patience, "waited in vain until {what}");
        task::yield_now().await;
    }
}

/// Clients that ask models over and over; each answer must be a reply.
pub(super) struct Traffic {
    stop: CancellationToken,
    replies: Arc<AtomicU64>,
    clients: JoinSet<()>,
}

impl Traffic {
    pub(super) fn start(told: &Told, models: &[(&'static str, usize)]) -> Self {
        let mut traffic = Self {
            stop: CancellationToken::new(),
            replies: Arc::default(),
            clients: JoinSet::new(),
        };
        for &(model, clients) in models {
            for _ in 0..clients {
                let (told, stop) = (told.clone(), traffic.stop.clone());
                let replies = Arc::clone(&traffic.replies);
                traffic.clients.spawn(async move {
                    while !stop.is_cancelled() {
                        let adds = told.adds(model).await;
                        adds.unwrap_or_else(|error| panic!("{model}: {error}"));
                        replies.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        }
        traffic
    }

    /// Waits until `count` more replies came.
    pub(super) async fn more(&self, count: u64) {
        let replies = || self.replies.load(Ordering::Relaxed);
        let begun = replies();
        until("more replies come", async || replies() >= begun + count).await;
    }

    pub(super) async fn end(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("every request got its reply");
        }
    }
}

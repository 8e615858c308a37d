//! Draining, reloading and unloading while far more is asked than can be served: what was
//! accepted is answered, and what is refused is told why.

use super::EXPLICIT;
use super::model::Repository;
use super::server::{Client, PATIENCE, Server};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::task::JoinSet;
use tonic::Status;

/// Clients that ask without a pause. With as many in the queue, and two in flight, most are
/// refused at any time.
const CLIENTS: usize = 24;
const CONFIG: &str =
    "max_batch_size: 1 dynamic_batching { default_queue_policy { max_queue_size: 4 } }";

/// What the client's library says of requests that no server took: nobody listened any more,
/// the connection closed before they were sent, or the server's farewell named an earlier one
/// as the last it took.
const UNHEARD: [&str; 3] = [
    "tcp connect error",
    "Canceled, \"connection closed\"",
    "NO_ERROR, Remote",
];

/// What came of the requests: replies by what the model added, refusals by their label.
#[derive(Clone, Debug, Default)]
struct Ends {
    replies: BTreeMap<u32, u64>,
    refusals: BTreeMap<String, u64>,
    /// Requests that ended without a word of the server's.
    silent: Vec<String>,
}

impl Ends {
    fn served(&self) -> u64 {
        self.replies.values().sum()
    }

    fn refused(&self) -> u64 {
        self.refusals.values().sum()
    }

    fn note(&mut self, asked: Result<(f32, String), Status>) {
        match asked {
            // The models of these tests add small whole numbers.
            Ok((k, _)) => *self.replies.entry(k as u32).or_default() += 1,
            Err(status) => match status.metadata().get("fugato-error") {
                Some(label) => {
                    let label = label.to_str().expect("a label is text").to_owned();
                    *self.refusals.entry(label).or_default() += 1;
                }
                None => self.silent.push(format!("{status:?}")),
            },
        }
    }
}

/// Several times what the server can serve.
struct Flood {
    stop: Arc<AtomicBool>,
    ends: Arc<Mutex<Ends>>,
    clients: JoinSet<()>,
}

impl Flood {
    /// Each client ends when told to, or with the first request that the server said
    /// nothing to, which only one that was sent to a server that has ended may be.
    async fn start(server: &Server, model: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ends = Arc::new(Mutex::new(Ends::default()));
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let mut client: Client = server.client().await;
            let (stop, ends) = (Arc::clone(&stop), Arc::clone(&ends));
            clients.spawn(async move {
                let mut heard = true;
                while heard && !stop.load(Ordering::Relaxed) {
                    let asked = client.ask(model, "").await;
                    let mut ends = ends.lock().expect("no holder panics");
                    let silent = ends.silent.len();
                    ends.note(asked);
                    heard = ends.silent.len() == silent;
                }
            });
        }
        Self {
            stop,
            ends,
            clients,
        }
    }

    fn ends(&self) -> Ends {
        self.ends.lock().expect("no holder panics").clone()
    }

    /// Waits until `served` more were served and five times as many asked for.
    async fn more(&self, served: u64) {
        let (begun, patience) = (self.ends(), Instant::now() + PATIENCE);
        loop {
            let now = self.ends();
            let (more, refused) = (
                now.served() - begun.served(),
                now.refused() - begun.refused(),
            );
            if more >= served && refused >= 4 * more {
                return;
            }
            assert!(Instant::now() < patience, "{begun:?} became {now:?}");
            tokio::task::yield_now().await;
        }
    }

    /// Waits until the clients have ended, each by itself.
    async fn wait(mut self) -> Ends {
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a client does not panic");
        }
        self.ends()
    }

    async fn end(self) -> Ends {
        self.stop.store(true, Ordering::Relaxed);
        self.wait().await
    }
}

#[tokio::test]
async fn a_drain_under_overload_answers_all_that_was_accepted() {
    let repository = Repository::new();
    repository.put_worker("a", 1, 1.0);
    repository.put("a/config.pbtxt", CONFIG.as_bytes());
    let server = Server::start(&repository, &[]).await;
    let flood = Flood::start(&server, "a").await;
    flood.more(20).await;
    assert!(flood.ends().silent.is_empty(), "{:?}", flood.ends());
    server.terminate();
    assert_eq!(server.wait().await, Some(0));
    let ends = flood.wait().await;
    let unheard = |error: &String| UNHEARD.iter().any(|words| error.contains(words));
    assert!(ends.silent.iter().all(unheard), "{ends:?}");
    let told = |label: &String| ["queue_full", "draining"].contains(&&**label);
    assert!(ends.refusals.keys().all(told), "{ends:?}");
}

#[tokio::test]
async fn reloading_and_unloading_under_overload_lose_nothing() {
    let repository = Repository::new();
    for model in ["a", "b"] {
        repository.put_worker(model, 1, 0.0);
        repository.put(&format!("{model}/config.pbtxt"), CONFIG.as_bytes());
    }
    let arguments = [EXPLICIT, &["--load-model", "*"]].concat();
    let server = Server::start(&repository, &arguments).await;
    let (a, b) = (
        Flood::start(&server, "a").await,
        Flood::start(&server, "b").await,
    );
    let mut client = server.client().await;
    for step in 1..=2u8 {
        a.more(5).await;
        repository.put_worker("a", u64::from(step), f32::from(step));
        client.load("a").await.expect("it can be loaded anew");
        client.unload("b").await.expect("it can be unloaded");
        client.wait_for("b", &["1 UNAVAILABLE"]).await;
        client.load("b").await.expect("it can be loaded");
        b.more(5).await;
    }
    a.more(5).await;
    let (a, b) = (a.end().await, b.end().await);
    assert!(a.silent.is_empty() && b.silent.is_empty(), "{a:?}\n{b:?}");
    // No request fell between the old model and the new one.
    assert!(a.refusals.keys().eq(["queue_full"]), "{a:?}");
    assert!(a.replies.contains_key(&2), "{a:?}");
    let labels = ["model_not_ready", "queue_full"];
    assert!(b.refusals.keys().eq(labels), "{b:?}");
    assert_eq!(server.stop().await, Some(0));
}

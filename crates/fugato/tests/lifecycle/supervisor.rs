//! A supervisor: workers that are killed, that cannot start, that lose it, and sockets that
//! are handed over.

use super::k_of;
use super::model::Repository;
use super::server::{PATIENCE, Server, command};
use fugato::server::Sockets;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

const SUPERVISED: &[&str] = &["--supervise"];
const RESTARTS: &str = "fugato_worker_restarts_total";

/// By when a model answers again after a fault that only a new worker heals.
const ANSWERS_AGAIN: Duration = Duration::from_secs(5);

fn repository() -> Repository {
    let repository = Repository::new();
    repository.put_adder("a", 1, 1.0);
    repository
}

/// The state and the parent of a process; `None` where it is gone.
fn state_of(pid: u32) -> Option<(char, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ").expect("the name is in brackets");
    let mut fields = after_name.split(' ');
    let state = fields.next().and_then(|state| state.chars().next());
    let parent = fields.next().and_then(|parent| parent.parse().ok());
    state.zip(parent)
}

/// The process that the supervisor `pid` has started; `None` where there is none.
fn worker_of(pid: u32) -> Option<u32> {
    let entries = std::fs::read_dir("/proc").expect("Linux");
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
    let pids = names.filter_map(|name| name.to_str()?.parse().ok());
    // One that has ended is no worker any more.
    let mut workers = pids.filter(|worker| {
        state_of(*worker).is_some_and(|(state, parent)| parent == pid && state != 'Z')
    });
    let worker = workers.next();
    assert_eq!(workers.next(), None, "one worker at a time");
    worker
}

/// Waits for a worker other than `before`.
async fn next_worker(pid: u32, before: Option<u32>) -> u32 {
    let patience = Instant::now() + PATIENCE;
    loop {
        match worker_of(pid) {
            Some(worker) if Some(worker) != before => return worker,
            _ => assert!(Instant::now() < patience, "no worker is started"),
        }
        tokio::task::yield_now().await;
    }
}

fn kill(pid: u32) {
    let pid = pid.to_string();
    let sent = std::process::Command::new("kill")
        .args(["-KILL", &pid])
        .status();
    assert!(sent.expect("kill runs").success());
}

/// Waits until the process is gone, or only left to be waited for by whoever adopted it.
async fn wait_for_end(pid: u32) {
    let patience = Instant::now() + PATIENCE;
    while state_of(pid).is_some_and(|(state, _)| state != 'Z') {
        assert!(Instant::now() < patience, "{pid} does not end");
        tokio::task::yield_now().await;
    }
}

/// Clients that connect over and over, and ask whether the server is ready.
struct Callers {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    tasks: JoinSet<()>,
}

impl Callers {
    /// Each panics where it is refused; connections may be cut with a worker that is killed.
    fn start(address: &str) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let mut tasks = JoinSet::new();
        for _ in 0..4 {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            let address = address.to_owned();
            tasks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let connected = tokio::net::TcpStream::connect(&address).await;
                    let mut stream = connected.expect("somebody listens at any time");
                    let asked =
                        "GET /v2/health/live HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
                    let mut reply = String::new();
                    if stream.write_all(asked.as_bytes()).await.is_ok()
                        && stream.read_to_string(&mut reply).await.is_ok()
                        && reply.starts_with("HTTP/1.1 200")
                    {
                        AtomicU64::fetch_add(&answered, 1, Ordering::Relaxed);
                    }
                }
            });
        }
        Self {
            stop,
            answered,
            tasks,
        }
    }

    /// Waits until more were answered.
    async fn more(&self) {
        let begun = self.answered.load(Ordering::Relaxed);
        let patience = Instant::now() + PATIENCE;
        while self.answered.load(Ordering::Relaxed) < begun + 10 {
            assert!(Instant::now() < patience, "nobody is answered");
            tokio::task::yield_now().await;
        }
    }

    async fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("nobody is refused");
        }
    }
}

#[tokio::test]
#[expect(
    clippy::print_stderr,
    reason = "how long it took is for people to read"
)]
async fn a_worker_that_is_killed_is_replaced_while_clients_wait() {
    let repository = repository();
    let mut server = Server::start(&repository, SUPERVISED).await;
    assert_eq!(k_of(&mut server.client().await, "a").await, 1.0);
    assert_eq!(server.metric(RESTARTS).await, "0");
    let first = next_worker(server.pid(), None).await;
    let callers = Callers::start(server.address());
    callers.more().await;
    kill(first);
    // What the system takes to end it is no part of the restart.
    wait_for_end(first).await;
    let killed = Instant::now();
    let second = next_worker(server.pid(), Some(first)).await;
    let started = killed.elapsed();
    // A client that connects now waits in the queue until somebody accepts.
    assert_eq!(server.status("/v2/health/live").await, 200);
    let accepted = killed.elapsed();
    let mut client = server.client().await;
    client.wait_for_answer("a", 1.0).await;
    let answered = killed.elapsed();
    let told = format!(
        "after the kill: a worker after {started:?}, a connection after {accepted:?}, an answer of \
         the model after {answered:?}"
    );
    eprintln!("{told}");
    assert!(answered < ANSWERS_AGAIN, "{told}");
    callers.more().await;
    callers.end().await;
    let addresses = server.addresses();
    server.wait_until_ready().await;
    assert_eq!(server.addresses(), addresses, "the ports stay");
    assert_eq!(server.status("/v2/health/ready").await, 200);
    assert_eq!(server.metric(RESTARTS).await, "1");
    assert_eq!(server.stop().await, Some(0));
    wait_for_end(second).await;
}

#[tokio::test]
async fn a_worker_may_have_all_work_queues_of_an_nvidia_device() {
    let repository = repository();
    let server = Server::start(&repository, SUPERVISED).await;
    let worker = next_worker(server.pid(), None).await;
    let environment = std::fs::read(format!("/proc/{worker}/environ")).expect("it runs");
    let mut variables = environment.split(|&byte| byte == 0);
    let queues =
        variables.find_map(|variable| variable.strip_prefix(b"CUDA_DEVICE_MAX_CONNECTIONS="));
    let expected = std::env::var("CUDA_DEVICE_MAX_CONNECTIONS");
    let expected = expected.unwrap_or_else(|_| "32".to_owned());
    assert_eq!(queues, Some(expected.as_bytes()));
    assert_eq!(server.stop().await, Some(0));
}

#[tokio::test]
async fn a_stop_of_the_supervisor_drains_its_worker() {
    let repository = repository();
    let server = Server::start(&repository, SUPERVISED).await;
    let worker = next_worker(server.pid(), None).await;
    let traffic = super::Traffic::start(&server, "a", 2).await;
    traffic.more(20).await;
    traffic.end().await;
    let address = server.address().to_owned();
    assert_eq!(server.stop().await, Some(0));
    wait_for_end(worker).await;
    TcpStream::connect(address).expect_err("nobody listens");
}

#[test]
fn a_worker_that_cannot_start_is_not_started_again() {
    let missing = ["--supervise", "--onnxruntime", "/there/is/none.so"];
    let said = Server::refused(&repository(), &missing);
    assert_eq!(said.matches("a worker starts").count(), 1, "{said}");
    assert_eq!(said.matches("error: ").count(), 1, "{said}");
    assert!(said.contains("/there/is/none.so"), "{said}");
}

#[tokio::test]
async fn a_worker_ends_with_its_supervisor() {
    let repository = repository();
    let server = Server::start(&repository, SUPERVISED).await;
    let worker = next_worker(server.pid(), None).await;
    kill(server.pid());
    wait_for_end(worker).await;
    TcpStream::connect(server.address()).expect_err("nobody listens");
    assert_eq!(server.wait().await, None, "a signal ended the supervisor");
}

#[tokio::test]
async fn workers_that_keep_ending_end_the_supervisor() {
    let repository = repository();
    let server = Server::start(&repository, SUPERVISED).await;
    let mut worker = None;
    for _ in 0..6 {
        let next = next_worker(server.pid(), worker).await;
        kill(next);
        worker = Some(next);
    }
    assert_eq!(server.wait().await, Some(128 + 9));
}

/// Three sockets that listen on `host`.
async fn sockets(host: Ipv4Addr) -> Sockets {
    let any = Some(SocketAddr::from((host, 0)));
    let sockets = Sockets::bind_to([any; 3]).await;
    sockets.expect("ports are free")
}

#[tokio::test]
async fn sockets_that_were_handed_over_are_served_on() {
    let repository = repository();
    for arguments in [&[][..], SUPERVISED] {
        let sockets = sockets(Ipv4Addr::LOCALHOST).await;
        let at = sockets.addresses();
        let server = Server::start_with(&repository, arguments, |command| {
            sockets.hand_to(command).expect("files can be had");
        });
        let server = server.await;
        let text = |at: Option<SocketAddr>| at.expect("it was bound").to_string();
        assert_eq!(server.addresses(), [at.grpc, at.http, at.metrics].map(text));
        assert_eq!(k_of(&mut server.client().await, "a").await, 1.0);
        assert_eq!(server.stop().await, Some(0));
        // Whoever made them has them still, and the next server is to have its clients.
        TcpStream::connect(text(at.http)).expect("they are open");
    }
}

#[tokio::test]
async fn sockets_that_cannot_be_served_on_are_refused() {
    let repository = repository();
    let others = sockets(Ipv4Addr::UNSPECIFIED).await;
    let one = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let one = Sockets::bind_to([one, None, None]).await.expect("a port");
    for (sockets, problem) in [
        (&others, "`server.host` is 0.0.0.0"),
        (&one, "1 sockets were handed over"),
    ] {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let mut command = command(&repository, folder.path());
        sockets.hand_to(&mut command).expect("files can be had");
        let output = command.stdin(Stdio::null()).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(problem), "{said}");
    }
}

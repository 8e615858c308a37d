//! A process that holds the listening sockets and keeps a worker serving on them.
//!
//! Some faults cannot be healed inside a process: a sticky error of a device, a crash in a
//! native library, an out-of-memory kill. The supervisor outlives them, since it does nothing
//! that could fail so: it starts a worker, which is the same program with the sockets handed
//! over, and another one where that ends abnormally. Clients that connect in between wait in
//! the listen queues.
//!
//! **Invariant:** the supervisor loads no library, opens no device and accepts no connection.
//!
//! A worker holds the reading end of a pipe as its standard input, and the supervisor the other
//! one: it closes when the supervisor ends, however that happens, and the worker then drains.
//! docs/adr/0021-a-supervisor-holds-the-sockets.md has the reasons.

use crate::config::Config;
use crate::server::{BindError, Sockets};
use nix::sys::signal::{Signal as Number, kill};
use nix::unistd::Pid;
use restarts::Restarts;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

mod restarts;

/// The variable that tells a worker that it is one: how many were started before it.
const VARIABLE: &str = "FUGATO_WORKER_RESTARTS";

/// What the driver of NVIDIA devices reads as it starts: between how many work queues streams are
/// divided. In the few that it takes by itself, work of one partition waits behind another's.
pub(crate) const QUEUES: &str = "CUDA_DEVICE_MAX_CONNECTIONS";

/// As many as there can be.
pub(crate) const QUEUES_MOST: &str = "32";

/// The exit code of a worker whose device is lost to it for good: `EX_TEMPFAIL` of BSD's
/// sysexits, which asks to be tried again.
pub const DEVICE_LOST: u8 = 75;

/// The exit codes of workers that ended in order: served until told to stop, could not start
/// or not end well and said why, ended by a person who insisted.
const ORDERLY: [i32; 3] = [0, 2, 130];

/// How much longer than its drain timeout a worker may take to end once it was told to. What
/// comes after a drain takes milliseconds; one that takes longer hangs in a device's driver.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// A supervisor cannot do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SuperviseError {
    /// A port cannot be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The variable that a supervisor sets for its workers holds something else.
    #[error("{VARIABLE} is `{found}`, expected the number of restarts that a supervisor sets")]
    Variable {
        /// What it holds.
        found: String,
    },
    /// The operating system refused something.
    #[error("{what} failed")]
    Io {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

fn os(what: &'static str) -> impl FnOnce(io::Error) -> SuperviseError {
    move |source| SuperviseError::Io { what, source }
}

/// What a worker knows of its supervisor.
#[derive(Clone, Debug)]
pub struct Supervised {
    /// Workers that were started before this one.
    pub restarts: u64,
}

impl Supervised {
    /// What this process was told by a supervisor; `None` where there is none.
    ///
    /// # Errors
    /// [`SuperviseError::Variable`].
    pub fn by_whom() -> Result<Option<Self>, SuperviseError> {
        let told = env::var_os(VARIABLE);
        told.map(|told| Self::told(&told)).transpose()
    }

    fn told(told: &OsStr) -> Result<Self, SuperviseError> {
        let restarts = told.to_str().and_then(|told| told.parse().ok());
        restarts
            .map(|restarts| Self { restarts })
            .ok_or_else(|| SuperviseError::Variable {
                found: told.to_string_lossy().into_owned(),
            })
    }

    /// Watches the supervisor from a thread; the token is cancelled when it has ended.
    ///
    /// # Errors
    /// Where the operating system gives no thread.
    pub fn watch(&self) -> io::Result<CancellationToken> {
        let gone = CancellationToken::new();
        let told = gone.clone();
        let builder = std::thread::Builder::new().name("fugato-lifeline".to_owned());
        builder.spawn(move || {
            // Nothing is ever written: it returns at the end of the pipe.
            if let Err(error) = io::copy(&mut io::stdin().lock(), &mut io::sink()) {
                tracing::warn!(%error, "the supervisor cannot be watched any more");
            }
            told.cancel();
        })?;
        Ok(gone)
    }
}

/// Keeps a worker serving until it is told to stop, the worker ends in order, or workers keep
/// ending otherwise. Gives the exit code for this process: that of the last worker, 128 and
/// the number of the signal that ended it.
///
/// # Errors
/// [`SuperviseError`]: a port is taken, or no process can be started.
pub fn supervise(config: &Config, handed: Option<Sockets>) -> Result<u8, SuperviseError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(os("starting the supervisor"))?;
    runtime.block_on(async { Supervisor::start(config, handed).await?.run().await })
}

struct Supervisor<'a> {
    config: &'a Config,
    sockets: Sockets,
    signals: Signals,
    restarts: Restarts,
}

/// A worker. It drains where this is dropped, which only an error here does.
struct Worker {
    process: Child,
    pid: Pid,
    /// Open while this process runs.
    _lifeline: Option<ChildStdin>,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    child: Signal,
}

/// What a supervisor waits for.
enum Event {
    /// A signal to stop.
    Stop(Number),
    /// The worker has ended.
    Ended(ExitStatus),
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            child: signal(SignalKind::child())?,
        })
    }

    /// The next signal to stop.
    async fn stop(&mut self) -> Number {
        tokio::select! {
            _ = self.terminate.recv() => Number::SIGTERM,
            _ = self.interrupt.recv() => Number::SIGINT,
        }
    }

    /// What happens next while `worker` runs.
    async fn next(&mut self, worker: &mut Worker) -> Result<Event, SuperviseError> {
        loop {
            let ended = worker.process.try_wait();
            if let Some(status) = ended.map_err(os("waiting for the worker"))? {
                return Ok(Event::Ended(status));
            }
            tokio::select! {
                _ = self.terminate.recv() => return Ok(Event::Stop(Number::SIGTERM)),
                _ = self.interrupt.recv() => return Ok(Event::Stop(Number::SIGINT)),
                _ = self.child.recv() => {}
            }
        }
    }
}

impl<'a> Supervisor<'a> {
    async fn start(config: &'a Config, handed: Option<Sockets>) -> Result<Self, SuperviseError> {
        let signals = Signals::listen().map_err(os("listening for signals"))?;
        let server = &config.server;
        let ports = [server.http_port, server.grpc_port, server.metrics_port];
        let sockets = match handed {
            Some(sockets) => sockets,
            None => {
                Sockets::bind_to(ports.map(|port| Some(SocketAddr::new(server.host, port)))).await?
            }
        };
        Ok(Self {
            config,
            sockets,
            signals,
            restarts: Restarts::default(),
        })
    }

    async fn run(mut self) -> Result<u8, SuperviseError> {
        loop {
            let mut worker = self.start_worker()?;
            let status = match self.signals.next(&mut worker).await? {
                Event::Ended(status) => status,
                Event::Stop(signal) => return self.stop(worker, signal).await,
            };
            if !is_abnormal(status) {
                tracing::info!(%status, "the worker has ended");
                return Ok(code(status));
            }
            self.clear_away();
            let Some(wait) = self.restarts.another(Instant::now()) else {
                tracing::error!(
                    %status,
                    restarts = restarts::MOST,
                    within = ?restarts::WINDOW,
                    "the worker ended abnormally once more than it may; none is started any more"
                );
                return Ok(code(status));
            };
            tracing::error!(%status, ?wait, "the worker ended abnormally; another one is started");
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                signal = self.signals.stop() => {
                    tracing::info!(because = %signal, "stopped between two workers");
                    return Ok(0);
                }
            }
        }
    }

    fn start_worker(&self) -> Result<Worker, SuperviseError> {
        // The very program that runs, even where its file was replaced meanwhile.
        let mut command = Command::new("/proc/self/exe");
        let mut arguments = env::args_os();
        if let Some(name) = arguments.next() {
            command.arg0(name);
        }
        command.args(arguments).stdin(Stdio::piped());
        command.env(VARIABLE, self.restarts.total().to_string());
        if env::var_os(QUEUES).is_none() {
            command.env(QUEUES, QUEUES_MOST);
        }
        let handed = self.sockets.hand_to(&mut command);
        handed.map_err(os("handing the sockets over"))?;
        let mut process = command.spawn().map_err(os("starting a worker"))?;
        let pid = i32::try_from(process.id()).expect("numbers of processes are small");
        tracing::info!(pid, restarts = self.restarts.total(), "a worker starts");
        Ok(Worker {
            pid: Pid::from_raw(pid),
            _lifeline: process.stdin.take(),
            process,
        })
    }

    /// Passes signals on until the worker has ended.
    async fn stop(mut self, mut worker: Worker, first: Number) -> Result<u8, SuperviseError> {
        // The worker's are the last ones then, so that clients are refused once it closes them.
        drop(self.sockets);
        worker.pass_on(first);
        let patience = self.config.server.drain_timeout.duration();
        let mut patience = pin!(tokio::time::sleep(patience.saturating_add(STOP_GRACE)));
        let mut killed = false;
        let status = loop {
            tokio::select! {
                event = self.signals.next(&mut worker) => match event? {
                    Event::Ended(status) => break status,
                    Event::Stop(signal) => worker.pass_on(signal),
                },
                () = &mut patience, if !killed => {
                    tracing::error!("the worker does not end after its drain; it is killed");
                    worker.process.kill().map_err(os("killing the worker"))?;
                    killed = true;
                }
            }
        };
        tracing::info!(%status, "the worker has ended");
        match status.signal() {
            // It came before the worker listened for it.
            Some(number) if number == first as i32 => Ok(0),
            _ => Ok(code(status)),
        }
    }

    /// Removes and keeps what a worker does at its end: whoever waits for the ready file must
    /// not find that of a worker that is gone, and the next one writes over records that tell
    /// how this one ended.
    fn clear_away(&self) {
        if let Some(path) = &self.config.server.ready_file
            && let Err(error) = fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "the ready file stays");
        }
        let records = [&self.config.server.record, &self.config.telemetry.timeline];
        for path in records.into_iter().flatten() {
            let kept = beside(path, self.restarts.total());
            if let Err(error) = fs::rename(path, &kept)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "a record is lost");
            }
        }
    }
}

impl Worker {
    fn pass_on(&self, signal: Number) {
        // One that is gone is about to be waited for.
        if let Err(error) = kill(self.pid, signal) {
            tracing::debug!(%error, %signal, "the worker does not hear");
        }
    }
}

/// `FILE.NUMBER`.
fn beside(path: &Path, number: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// Whether a worker ended as none should: by a signal, a panic, or because its device is lost.
fn is_abnormal(status: ExitStatus) -> bool {
    status.code().is_none_or(|code| !ORDERLY.contains(&code))
}

/// The code that says the same of this process.
fn code(status: ExitStatus) -> u8 {
    let signal = || status.signal().map(|number| 128 + number);
    let code = status.code().or_else(signal);
    code.and_then(|code| u8::try_from(code).ok())
        .unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_worker_ended_with_says_whether_another_one_helps() {
        // As the system encodes it: a code in the second byte, or a signal in the first.
        for (raw, abnormal, passed) in [
            (0, false, 0),
            (2 << 8, false, 2),
            (130 << 8, false, 130),
            (101 << 8, true, 101),
            (i32::from(DEVICE_LOST) << 8, true, DEVICE_LOST),
            (9, true, 137),
            (11, true, 139),
        ] {
            let status = ExitStatus::from_raw(raw);
            assert_eq!(is_abnormal(status), abnormal, "{status}");
            assert_eq!(code(status), passed, "{status}");
        }
    }

    #[test]
    fn a_worker_is_told_by_a_number_alone() {
        let told = |text: &str| Supervised::told(OsStr::new(text));
        assert_eq!(told("3").expect("a number").restarts, 3);
        let error = told("yes").expect_err("no number").to_string();
        assert!(error.contains("`yes`"), "{error}");
    }

    #[test]
    fn records_are_kept_beside_the_next_ones() {
        let kept = beside(Path::new("runs/day.jsonl"), 2);
        assert_eq!(kept, Path::new("runs/day.jsonl.2"));
    }
}

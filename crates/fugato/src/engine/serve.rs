//! A whole server: device, driver, engine, protocols, signals.

mod error;
#[cfg(any(feature = "cuda", test))]
mod in_process;
mod parts;
#[cfg(test)]
mod tests;

use super::Engine;
use super::devices::Devices;
use super::journal::Journal;
use super::lifecycle::{Lifecycle, LoadCounts, Seen};
use super::live::LiveModels;
use super::load::ModelsById;
use super::open;
use super::profiles::Profiles;
use super::runner::{Points, Runner};
use super::table::Table;
use super::timeline::{LiveTimeline, TimelineFile};
use crate::config::{Config, ConfigError, ModelControlMode};
use crate::driver::{
    self, DriverParts, FileRecorder, Hooks, Mailbox, ProfileEvent, RealClock, RecorderThread,
    TaskTiming,
};
use crate::repository::{self, ScanError};
use crate::server::{Addresses, Drained, Server, Sockets};
use crate::supervisor::Supervised;
use crate::telemetry::{Telemetry, Traces};
use fugato_core::ModelId;
use fugato_core::driver::{Recorder, RecordingFooter};
use fugato_core::sched::{Input, Scheduler};
use fugato_device::{EventSink, MonotonicClock, bound_heap, hasten_this_thread};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch::{self, Receiver, Sender};
use tokio::task;
use tokio_util::sync::CancellationToken;

pub use error::ServeError;
use error::os;
#[cfg(any(feature = "cuda", test))]
pub(crate) use in_process::InProcess;
use parts::{scheduler_config, server_options, shared_memory, trace_options};

/// Requests that may wait for the driver's next look: a few milliseconds' worth at a
/// hundred thousand per second.
const ARRIVALS_MAX: usize = 16_384;

/// How long after the first signal to stop a SIGINT is a person who insists. A terminal
/// and a supervisor may both pass the first one on, within milliseconds.
const INSIST_AFTER: Duration = Duration::from_secs(1);

/// How long clients may take to hear that nothing is served any more, where the driver is gone, or
/// the device and no other owes replies: there are none to wait for, and clients wait for the next
/// server. None in tests, where whoever is waited for is waited for in no other way.
const LOST_DRAIN: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 1 });

/// How often it is looked whether the devices that are left still owe replies: little beside what
/// the next server takes to come.
const OWING_LOOK: Duration = Duration::from_millis(50);

/// What a server was given by whoever started its process.
#[derive(Debug, Default)]
pub struct Given {
    /// The sockets to serve on, instead of those that the configuration names.
    pub sockets: Option<Sockets>,
    /// The supervisor that it ends with.
    pub supervisor: Option<Supervised>,
}

/// Serves a model repository until SIGTERM or SIGINT, then drains. A SIGINT a second or
/// more later ends the process at once, with code 130; repeated SIGTERMs do not.
///
/// # Errors
/// [`ServeError`], before anything is served, where the device was lost, or where the
/// recording failed at the end.
pub fn serve(config: Config, given: Given) -> Result<(), ServeError> {
    bound_heap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // Lanes have long slices; a thread of the server goes before them when it wakes up.
        .on_thread_start(|| {
            hasten_this_thread(false);
        })
        .build();
    let runtime = runtime.map_err(os("starting the server's threads"))?;
    let result = runtime.block_on(async {
        let running = Running::start(config, given, open_devices).await?;
        running.run().await
    });
    // A model that is still being loaded is not waited for.
    runtime.shutdown_background();
    result
}

/// The servers of all protocols.
type Serving = task::JoinHandle<io::Result<Drained>>;

/// The devices of a server, and what profiles call their runtime.
struct Opened {
    devices: Devices,
    runtime: String,
}

/// Opens the devices that the configuration asks for; they report to the sink.
fn open_devices(
    config: &Config,
    clock: MonotonicClock,
    sink: &EventSink,
) -> Result<Opened, ServeError> {
    let opened = open::store(config)?;
    Ok(Opened {
        devices: opened.devices(config, clock, sink)?,
        runtime: opened.ort.profile_key(),
    })
}

/// A server that has everything it needs and does not answer yet.
struct Running {
    config: Arc<Config>,
    engine: Arc<Engine>,
    mailbox: Arc<Mailbox>,
    driver: JoinHandle<Scheduler>,
    /// Keeps what is measured; ends with the driver.
    profiling: task::JoinHandle<BTreeSet<ModelId>>,
    recording: Option<RecorderThread>,
    timeline: Option<TimelineFile>,
    server: Server,
    lifecycle: Lifecycle,
    models: Seen,
    drained: UnboundedReceiver<ModelId>,
    ended: CancellationToken,
    lost: Receiver<Option<String>>,
    orphaned: CancellationToken,
    terminate: Signal,
    interrupt: Signal,
}

impl Running {
    async fn start(
        config: Config,
        given: Given,
        open: impl FnOnce(&Config, MonotonicClock, &EventSink) -> Result<Opened, ServeError>,
    ) -> Result<Self, ServeError> {
        let terminate = signal(SignalKind::terminate()).map_err(os("listening for SIGTERM"))?;
        let interrupt = signal(SignalKind::interrupt()).map_err(os("listening for SIGINT"))?;
        let folder = config
            .server
            .model_repository
            .as_deref()
            .ok_or(ServeError::NoRepository)?;
        // Before anything is read, so that what changes from here on is seen as a change.
        let models = repository::fingerprints(folder)?;
        let root = folder.canonicalize().map_err(|source| ScanError {
            path: folder.to_owned(),
            source,
        })?;
        check_sections(&config, &models)?;
        let server = bind(&config, given.sockets).await?;
        let restarts = given
            .supervisor
            .as_ref()
            .map(|supervisor| supervisor.restarts);
        let orphaned = match given.supervisor {
            Some(supervisor) => supervisor.watch().map_err(os("watching the supervisor"))?,
            None => CancellationToken::new(),
        };
        let clock = MonotonicClock::start();
        let mailbox = Arc::new(Mailbox::new(clock, ARRIVALS_MAX));
        let events = Arc::clone(&mailbox);
        let sink: EventSink = Arc::new(move |event| events.device(event));
        let Opened { devices, runtime } = open(&config, clock, &sink)?;
        let main = devices.main().device.spec();
        mailbox.control(Input::DeviceAdded(main.clone()));
        let keys = devices
            .all()
            .map(|site| (site.id(), site.device.profile_key()));
        let profiles = Arc::new(Profiles::open(&config, keys.collect(), runtime)?);
        let telemetry = Arc::new(Telemetry::new());
        telemetry.restarted(restarts.unwrap_or_default());
        let traces = Traces::new(clock, &trace_options(&config))?;
        let by_id = ModelsById::default();
        let (drained_sender, drained) = unbounded_channel();
        let (profiled_sender, profiled) = unbounded_channel();
        let (lost_sender, lost) = watch::channel(None);
        let scheduler_config = scheduler_config(&config);
        scheduler_config.policy.check(main)?;
        let (recorder, recording) = match &config.server.record {
            None => (None, None),
            Some(path) => {
                let (recorder, thread) = FileRecorder::create(path, &scheduler_config)?;
                (Some(Box::new(recorder) as Box<dyn Recorder>), Some(thread))
            }
        };
        let kept = usize::try_from(config.telemetry.timeline_legs).unwrap_or(usize::MAX);
        let timeline = Arc::new(LiveTimeline::new(kept));
        timeline.add_device(main);
        let timeline_file = match &config.telemetry.timeline {
            Some(path) => Some(TimelineFile::create(path, Arc::clone(&timeline))?),
            None => None,
        };
        let ended = CancellationToken::new();
        let driver = driver::spawn(DriverParts {
            clock: RealClock(clock),
            scheduler: Scheduler::new(scheduler_config),
            devices: devices.by_id(),
            mailbox: Arc::clone(&mailbox),
            metrics: telemetry.driver(),
            hooks: hooks(
                drained_sender,
                Arc::clone(&by_id),
                profiled_sender,
                Arc::clone(&profiles),
                Arc::clone(&timeline),
                lost_sender,
            ),
            recorder,
            real_time: config.scheduler.real_time,
            ended: ended.clone(),
        })
        .map_err(os("starting the driver's thread"))?;
        let runner = Arc::new(Runner {
            clock,
            mailbox: Arc::clone(&mailbox),
            telemetry,
            devices,
            table: Table::default(),
            loaded: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            journal: Journal::new(
                usize::try_from(config.telemetry.explanations).unwrap_or(usize::MAX),
            ),
            traces,
            profiles,
            live: LiveModels::default(),
            timeline,
            ended: ended.clone(),
        });
        let profiling = tokio::spawn(Arc::clone(&runner).follow_profiles(profiled));
        let config = Arc::new(config);
        let lifecycle = Lifecycle::new(Arc::clone(&runner), Arc::clone(&config), by_id, root);
        let engine = Arc::new(Engine {
            runner,
            lifecycle: lifecycle.clone(),
            regions: shared_memory(&config),
        });
        Ok(Self {
            config,
            engine,
            mailbox,
            driver,
            profiling,
            recording,
            timeline: timeline_file,
            server,
            lifecycle,
            models,
            drained,
            ended,
            lost,
            orphaned,
            terminate,
            interrupt,
        })
    }

    async fn run(mut self) -> Result<(), ServeError> {
        let addresses = self.server.addresses();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(
            self.server
                .serve(Arc::clone(&self.engine), shutdown.clone()),
        );
        tokio::spawn(self.lifecycle.clone().free_drained(self.drained));
        let loading = async || -> Result<Infallible, ServeError> {
            let names = self.models.keys().cloned().collect();
            let counts = self.lifecycle.load_first(names).await;
            announce(&addresses, counts, self.config.server.ready_file.as_deref())?;
            match self.config.server.model_control_mode {
                ModelControlMode::Poll => self.lifecycle.poll(self.models).await,
                ModelControlMode::None | ModelControlMode::Explicit => std::future::pending().await,
            }
        };
        let (stopped, result) = tokio::select! {
            Err(error) = loading() => ("a failure", Err(error)),
            () = self.ended.cancelled() => ("the driver's end", Ok(())),
            detail = loss(&mut self.lost) => {
                ("the loss of the device", Err(ServeError::DeviceLost { detail }))
            }
            () = self.orphaned.cancelled() => ("the supervisor's end", Ok(())),
            name = stop(&mut self.terminate, &mut self.interrupt) => (name, Ok(())),
        };
        tracing::info!(
            because = stopped,
            "draining: no new requests, accepted ones run to their end"
        );
        tokio::spawn(exit_when_insisted(self.interrupt));
        self.engine.drain();
        shutdown.cancel();
        let is_lost = self.ended.is_cancelled() || self.lost.borrow().is_some();
        let engine = Arc::clone(&self.engine);
        wait_for_drain(serving, async move {
            match is_lost {
                true => nothing_owed(&engine).await,
                false => std::future::pending().await,
            }
        })
        .await;
        self.mailbox.close();
        let engine = Arc::clone(&self.engine);
        let ended = task::spawn_blocking(move || {
            engine.flush_traces();
            self.driver.join()
        });
        let ended = ended.await;
        if let Ok(Ok(scheduler)) = &ended {
            keep_measured(&self.engine, self.profiling, scheduler).await;
        }
        let recorded = match (&ended, self.recording) {
            (_, None) => Ok(()),
            (Ok(Ok(scheduler)), Some(recording)) => recording.finish(RecordingFooter {
                actions: scheduler.action_count(),
                action_hash: scheduler.action_hash(),
            }),
            // What led to a panic is worth the most.
            (_, Some(recording)) => recording.close(),
        };
        let timeline = match self.timeline {
            Some(file) => task::spawn_blocking(move || file.finish()).await,
            None => Ok(Ok(())),
        };
        if let Some(path) = &self.config.server.ready_file {
            // Whoever waits for it must not find that of a server that is gone.
            let _ = std::fs::remove_file(path);
        }
        match ended {
            Ok(Ok(_)) => {
                // What made the server end comes before what that led to.
                result?;
                recorded?;
                timeline.map_err(|error| ServeError::Io {
                    what: "writing the timeline",
                    source: io::Error::other(error),
                })??;
                tracing::info!("stopped");
                Ok(())
            }
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(error) => Err(ServeError::Io {
                what: "ending the driver's thread",
                source: io::Error::other(error),
            }),
        }
    }
}

/// Checks that each section `[model.NAME]` is for a model of the repository. Where models
/// may still come, one that is for none is only named.
fn check_sections(config: &Config, models: &Seen) -> Result<(), ConfigError> {
    let names: Vec<&str> = models.keys().map(String::as_str).collect();
    match (
        config.check_models(&names),
        config.server.model_control_mode,
    ) {
        (Err(error), ModelControlMode::Poll | ModelControlMode::Explicit) => {
            let reason = error.to_string();
            let reason = reason.lines().next();
            tracing::warn!(reason, "a section is for a model that is not there yet");
            Ok(())
        }
        (checked, _) => checked,
    }
}

/// Takes the sockets, or those that were handed over, which must be as closed to others.
async fn bind(config: &Config, handed: Option<Sockets>) -> Result<Server, ServeError> {
    let options = server_options(config)?;
    let server = match handed {
        Some(sockets) => Server::on(sockets, options),
        None => Server::bind(options).await?,
    };
    let Addresses {
        http,
        grpc,
        metrics,
    } = server.addresses();
    let addresses = [http, grpc, metrics].into_iter().flatten();
    for address in addresses.filter(|address| !address.ip().is_loopback()) {
        config.check_handed(address.ip())?;
        if config.server.insecure {
            tracing::warn!(
                %address,
                tls = config.server.tls_cert.is_some(),
                tokens = config.server.auth_token_file.is_some(),
                "serving other machines with `--insecure`: whoever reaches a port is served"
            );
        }
    }
    Ok(server)
}

/// Waits until the servers have ended, which the drain timeout bounds; once `nothing_left` comes
/// about, only as long as clients need to hear of it.
async fn wait_for_drain(mut serving: Serving, nothing_left: impl Future<Output = ()>) {
    let in_vain = async {
        nothing_left.await;
        tokio::time::sleep(LOST_DRAIN).await;
    };
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = in_vain => return serving.abort(),
    };
    match ended {
        Ok(Ok(drained)) if drained.connections_cut > 0 => {
            tracing::error!(
                connections = drained.connections_cut,
                "cut what outlasted the drain timeout"
            );
        }
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::error!(%error, "the servers could not be served"),
        Err(error) => tracing::error!(%error, "the servers ended badly"),
    }
}

/// Keeps what was measured and has not been kept yet, for the next server.
async fn keep_measured(
    engine: &Engine,
    profiling: task::JoinHandle<BTreeSet<ModelId>>,
    scheduler: &Scheduler,
) {
    match profiling.await {
        Ok(left) => {
            for model in left {
                let points = Points::of(scheduler, model);
                engine.runner.keep_measured(model, points).await;
            }
        }
        Err(error) => tracing::error!(%error, "what was measured last is lost"),
    }
}

/// Waits until no request that was accepted can be answered any more, since all were.
async fn nothing_owed(engine: &Engine) {
    while engine.is_owing().await {
        tokio::time::sleep(OWING_LOOK).await;
    }
}

/// Waits until the device is lost; gives what it said.
async fn loss(lost: &mut Receiver<Option<String>>) -> String {
    match lost.wait_for(Option::is_some).await {
        Ok(detail) => detail.clone().unwrap_or_default(),
        // The driver has ended, which others hear of too.
        Err(_) => std::future::pending().await,
    }
}

/// Waits for a signal to stop; gives its name.
async fn stop(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

/// Ends the process at a SIGINT that comes [`INSIST_AFTER`] or later.
///
/// A repeated SIGTERM changes nothing, since supervisors send it to the process and then
/// to its group, and the drain timeout bounds the drain anyway.
async fn exit_when_insisted(mut interrupt: Signal) {
    let stopped = Instant::now();
    while interrupt.recv().await.is_some() {
        if stopped.elapsed() >= INSIST_AFTER {
            tracing::error!("SIGINT while draining, accepted requests are lost");
            std::process::exit(130);
        }
    }
}

/// Says that the server is ready, on the log and in the ready file.
fn announce(
    addresses: &Addresses,
    models: LoadCounts,
    ready_file: Option<&Path>,
) -> Result<(), ServeError> {
    let text = |address: Option<SocketAddr>| address.map(|address| address.to_string());
    let (http, grpc, metrics) = (
        text(addresses.http),
        text(addresses.grpc),
        text(addresses.metrics),
    );
    let LoadCounts { loaded, refused } = models;
    tracing::info!(http, grpc, metrics, loaded, refused, "ready");
    let Some(path) = ready_file else {
        return Ok(());
    };
    let fail = |source| ServeError::ReadyFile {
        path: path.to_owned(),
        source,
    };
    let json = serde_json::json!({ "http": http, "grpc": grpc, "metrics": metrics }).to_string();
    let partial = path.with_extension("partial");
    std::fs::write(&partial, json).map_err(fail)?;
    std::fs::rename(&partial, path).map_err(fail)
}

/// What the driver's thread tells: executions to the metrics, drained models to whoever
/// frees them.
fn hooks(
    drained: UnboundedSender<ModelId>,
    models: ModelsById,
    profiled: UnboundedSender<(ModelId, ProfileEvent)>,
    profiles: Arc<Profiles>,
    timeline: Arc<LiveTimeline>,
    lost: Sender<Option<String>>,
) -> Hooks {
    Hooks {
        drained: Box::new(move |model: ModelId| {
            // Nobody listens any more where the process is about to end.
            let _ = drained.send(model);
        }),
        task_done: Box::new(move |model: ModelId, batch: u32, timing: &TaskTiming| {
            let known = models.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = known.get(&model)
                && known.warm.load(Ordering::Acquire)
            {
                known.metrics.executed(batch, &timing.split);
            }
        }),
        leg_ended: Box::new(move |ended| timeline.note(ended)),
        device_lost: Box::new(move |device, detail| {
            // Each leg that was on it says the same.
            let first = lost.send_if_modified(|lost| {
                let first = lost.is_none();
                lost.get_or_insert_with(|| detail.to_owned());
                first
            });
            if first {
                tracing::error!(%device, detail, "the device is lost");
            }
        }),
        sample: Box::new(move |model| profiles.sample(model)),
        profile: Box::new(move |model, event| {
            let _ = profiled.send((model, event));
        }),
    }
}

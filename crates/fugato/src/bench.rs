//! The load generator: open or closed loop over any server of the Open Inference
//! Protocol, several models at once, over HTTP and gRPC mixed.
//!
//! Start reading at [`run`]. [`load`] sends, [`client`] speaks the protocols, [`stats`]
//! counts, [`mod@report`] prints, [`capacity`] searches the largest load that is held; [`expect`] holds the answers that replies are checked
//! against, and [`golden`] makes them.

pub mod capacity;
pub mod client;
pub mod compare;
pub mod cpu;
#[cfg(test)]
mod double;
pub mod expect;
pub mod golden;
pub mod load;
pub mod regions;
pub mod report;
pub mod stats;
pub mod tensor;
mod workload_file;

pub use workload_file::{ReadError, read_workload};

use crate::provenance::Provenance;
use client::{CallError, Client, Prepared, ServerUrl};
use cpu::{Process, cpu_time, own_niceness};
use expect::{Case, ExpectError, read_cases};
use fugato_core::workload::{ModelLoad, Workload};
use fugato_core::{Nanos, Timestamp};
use load::{Load, Pacing, Target};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use regions::{RegionError, Regions, SharedMemory};
use report::{ClientUsage, Loop, ModelReport, REPORT_SCHEMA, Report, ServerUsage};
use stats::Figures;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tensor::{InputSettings, TensorError};
use tokio_util::sync::CancellationToken;

/// Different random requests per model. They are sent in turn, so that a server cannot
/// answer from its caches alone.
const RANDOM_CASES: usize = 8;

/// Bit 63 marks the random streams of inputs; arrivals use the streams below it.
const INPUT_STREAMS: u64 = 1 << 63;

/// A run to make.
#[derive(Clone, Debug)]
pub struct Bench {
    /// The servers' addresses; requests of each model take turns over them.
    pub urls: Vec<ServerUrl>,
    /// The models, their objectives, inputs and arrivals, and the time.
    pub workload: Workload,
    /// How requests are paced. In closed loop the workload's arrivals are not used.
    pub pacing: Loop,
    /// The seed of arrivals and random inputs.
    pub seed: u64,
    /// Where answers are checked: the folder of expectation files.
    pub expect: Option<PathBuf>,
    /// Whether each request tells the server its objective (parameter `slo_us`).
    pub send_slo: bool,
    /// What goes through shared memory.
    pub shared_memory: SharedMemory,
    /// The most requests of one model that may be unanswered at once.
    pub max_outstanding: u32,
    /// How long to wait for replies after the last request.
    pub drain: Duration,
    /// The server's process, where its CPU time is to be measured (on this machine).
    pub server_pid: Option<u32>,
    /// What the report says of how, where and when it was made.
    pub provenance: Option<Provenance>,
}

/// Why a run could not be made. Errors of single requests are counted, not returned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// No address.
    #[error("no server address; hint: `--url grpc://127.0.0.1:8001`")]
    NoUrl,
    /// A client could not be made.
    #[error("cannot use address {url}")]
    Client {
        /// The address.
        url: String,
        /// The cause.
        source: CallError,
    },
    /// A model's inputs could not be asked from the server.
    #[error("cannot get the inputs of model `{model}` from {url}")]
    Metadata {
        /// The model.
        model: String,
        /// The server.
        url: String,
        /// The cause.
        source: CallError,
    },
    /// A model's random inputs could not be made.
    #[error("cannot make inputs for model `{model}`")]
    Inputs {
        /// The model.
        model: String,
        /// The cause.
        source: TensorError,
    },
    /// A model's expectations could not be read.
    #[error("cannot check the answers of model `{model}`")]
    Expect {
        /// The model.
        model: String,
        /// The cause.
        source: ExpectError,
    },
    /// A model's inputs and outputs could not be put into shared memory.
    #[error("cannot use shared memory for model `{model}`")]
    SharedMemory {
        /// The model.
        model: String,
        /// The cause.
        source: RegionError,
    },
    /// It was cancelled while it was prepared.
    #[error("the run was interrupted before its first request")]
    Interrupted,
    /// Expectations hold single items.
    #[error(
        "model `{model}` sends {batch} items per request, expected 1 where answers are checked"
    )]
    ExpectBatch {
        /// The model.
        model: String,
        /// Its batch.
        batch: u32,
    },
}

/// Makes a run and reports it. Cancelling `stop` ends it early; the report then covers
/// the time until then. Must run inside a tokio runtime with time and I/O.
///
/// # Errors
/// [`BenchError`], before the first request is sent.
pub async fn run(bench: &Bench, stop: CancellationToken) -> Result<Report, BenchError> {
    if bench.urls.is_empty() {
        return Err(BenchError::NoUrl);
    }
    let mut clients = Vec::with_capacity(bench.urls.len());
    for url in &bench.urls {
        let client = Client::new(url).map_err(|source| BenchError::Client {
            url: url.to_string(),
            source,
        })?;
        clients.push(client);
    }
    // A server that does not answer must not hold the run; shared memory that is made by then
    // goes with what is prepared.
    let targets = tokio::select! {
        targets = targets(bench, &clients) => targets?,
        () = stop.cancelled() => return Err(BenchError::Interrupted),
    };
    Ok(measure(bench, clients, targets, stop).await)
}

/// What is sent to each model.
async fn targets(bench: &Bench, clients: &[Client]) -> Result<Vec<Target>, BenchError> {
    let mut targets = Vec::new();
    for (model, stream) in bench.workload.models().iter().zip(INPUT_STREAMS..) {
        let cases = cases(bench, model, stream, &clients[0]).await?;
        let regions = match bench.shared_memory {
            SharedMemory::None => None,
            SharedMemory::System => {
                let regions = regions(bench, model, &cases, clients).await;
                Some(regions.map_err(|source| BenchError::SharedMemory {
                    model: model.name.clone(),
                    source,
                })?)
            }
        };
        targets.push(target(bench, model, cases, clients, regions));
    }
    Ok(targets)
}

/// What is sent for `model`: its expectations, or random inputs.
async fn cases(
    bench: &Bench,
    model: &ModelLoad,
    stream: u64,
    client: &Client,
) -> Result<Vec<Case>, BenchError> {
    let name = || model.name.clone();
    if let Some(dir) = &bench.expect {
        if model.batch.0 != 1 {
            return Err(BenchError::ExpectBatch {
                model: name(),
                batch: model.batch.0,
            });
        }
        return read_cases(dir, &model.name).map_err(|source| BenchError::Expect {
            model: name(),
            source,
        });
    }
    let specs = client.inputs(&model.name).await;
    let specs = specs.map_err(|source| BenchError::Metadata {
        model: name(),
        url: client.url().to_string(),
        source,
    })?;
    let mut rng = ChaCha8Rng::seed_from_u64(bench.seed);
    rng.set_stream(stream);
    let settings = InputSettings::of(model);
    let cases = (0..RANDOM_CASES).map(|_| {
        let inputs = settings.random_inputs(&specs, &mut rng)?;
        Ok(Case {
            inputs,
            outputs: Vec::new(),
        })
    });
    cases
        .collect::<Result<_, _>>()
        .map_err(|source| BenchError::Inputs {
            model: name(),
            source,
        })
}

/// Shared memory for a model's cases, with outputs as large as those of one request that
/// is sent without it.
async fn regions(
    bench: &Bench,
    model: &ModelLoad,
    cases: &[Case],
    clients: &[Client],
) -> Result<Regions, RegionError> {
    let client = &clients[0];
    let request = client.prepare(&model.name, &cases[0].inputs, None);
    let reply = client.infer(&request, client::Outputs::Read).await;
    let sizes = regions::sizes_of(&reply.map_err(RegionError::Sizes)?.outputs);
    let slots = match bench.pacing {
        Loop::Open => bench.max_outstanding,
        Loop::Closed { concurrency } => concurrency,
    };
    Regions::register(cases, &sizes, slots, clients).await
}

fn target(
    bench: &Bench,
    model: &ModelLoad,
    cases: Vec<Case>,
    clients: &[Client],
    regions: Option<Regions>,
) -> Target {
    let slo = objective(model).filter(|_| bench.send_slo);
    let requests = clients.iter().enumerate().map(|(at, client)| {
        let cases = cases.iter().enumerate();
        let prepared = cases.map(|(case, Case { inputs, .. })| match &regions {
            None => client.prepare(&model.name, inputs, slo),
            Some(regions) => {
                let from = regions.inputs_of(at, case);
                client.prepare_from(&model.name, inputs, &from, slo)
            }
        });
        prepared.collect::<Vec<Prepared>>()
    });
    let requests = requests.collect();
    let expected = match bench.expect {
        Some(_) => cases.into_iter().map(|case| case.outputs).collect(),
        None => Vec::new(),
    };
    Target {
        requests,
        expected,
        regions,
    }
}

/// The objective; [`Nanos::MAX`] stands for none.
fn objective(model: &ModelLoad) -> Option<Nanos> {
    (model.slo != Nanos::MAX).then_some(model.slo)
}

async fn measure(
    bench: &Bench,
    clients: Vec<Client>,
    targets: Vec<Target>,
    stop: CancellationToken,
) -> Report {
    let workload = &bench.workload;
    let server = bench.server_pid.map(Process::Id);
    let before = (cpu_time(Process::Own), server.and_then(cpu_time));
    let load = Load::new(
        clients,
        targets,
        workload.warmup(),
        bench.max_outstanding,
        stop.clone(),
    );
    // The time of the interruption ends the measured time; waiting for replies does not.
    let watch = {
        let (load, stop) = (Arc::clone(&load), stop.clone());
        tokio::spawn(async move {
            stop.cancelled().await;
            load.now()
        })
    };
    let end = Timestamp::ZERO + workload.end();
    match bench.pacing {
        Loop::Open => {
            let arrivals = workload.arrivals(bench.seed);
            load.open(arrivals, Pacing::Thread, bench.drain).await;
        }
        Loop::Closed { concurrency } => load.closed(concurrency, end, bench.drain).await,
    }
    let interrupted = stop.is_cancelled();
    let stopped = if interrupted {
        watch.await.map_or(end, |stopped| stopped.min(end))
    } else {
        watch.abort();
        end
    };
    let after = (cpu_time(Process::Own), server.and_then(cpu_time));
    let wall = load.now() - Timestamp::ZERO;
    let used = |before: Option<Duration>, after: Option<Duration>| {
        Some(after?.saturating_sub(before?).as_secs_f64())
    };
    let measured = stopped - (Timestamp::ZERO + workload.warmup());
    let server = bench.server_pid.zip(used(before.1, after.1));
    let server = server.map(|(pid, cpu_s)| ServerUsage {
        pid,
        cpu_s,
        cpu_us_per_request: (load.sent() > 0).then(|| cpu_s * 1e6 / load.sent() as f64),
    });
    let client = ClientUsage {
        cpu_s: used(before.0, after.0),
        nice: own_niceness(),
        wall_s: wall.as_secs_f64(),
        max_outstanding: bench.max_outstanding,
    };
    let mut report = report(bench, &load, measured, interrupted, client, server);
    if let Err(error) = load.unregister().await {
        let warning = format!("a shared-memory region was not taken back: {error}");
        report.warnings.push(warning);
    }
    report
}

fn report(
    bench: &Bench,
    load: &Load,
    measured: Nanos,
    interrupted: bool,
    client: ClientUsage,
    server: Option<ServerUsage>,
) -> Report {
    let workload = &bench.workload;
    let recorded = workload.models().iter().zip(load.recorded());
    let models: Vec<ModelReport> = recorded
        .map(|(model, recorder)| ModelReport {
            name: model.name.clone(),
            slo_ms: objective(model).map(Nanos::as_millis_f64),
            offered_rps: match bench.pacing {
                Loop::Open => Some(model.arrivals.mean_rate(workload.end())),
                Loop::Closed { .. } => None,
            },
            batch: model.batch.0,
            figures: recorder.figures(objective(model), measured),
        })
        .collect();
    let mut report = Report {
        schema: REPORT_SCHEMA.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        provenance: bench.provenance.clone(),
        pacing: bench.pacing,
        interrupted,
        urls: bench.urls.iter().map(ToString::to_string).collect(),
        seed: bench.seed,
        checked: bench.expect.is_some(),
        shared_memory: bench.shared_memory == SharedMemory::System,
        warmup_s: workload.warmup().as_secs_f64(),
        measured_s: measured.as_secs_f64(),
        client,
        server,
        total: Figures::total(models.iter().map(|model| &model.figures), measured),
        models,
        warnings: Vec::new(),
    };
    report.add_warnings();
    report
}

#[cfg(test)]
mod tests;

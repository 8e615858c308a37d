//! What the server adds to a run: a request through the engine of a server in this process, its
//! driver and its scheduler, against the same batch handed to a device by itself. No protocol is
//! between them: what that costs is of the client too.

use super::stage::{Host, OnStage, Place, Stage, item, micros, sources};
use crate::api::{InferRequest, InferenceService, NamedInput};
use crate::config::{Config, ConfigError, DeviceKind, ModelControlMode, Policy};
use crate::engine::InProcess;
use crate::gpu_check::Setup;
use crate::gpu_check::inputs::element;
use crate::gpu_check::report::{Answer, Budget, Verdict};
use anyhow::Context;
use fugato_core::{Nanos, PartitionId};
use fugato_device::{LoadOptions, RequestInputs};
use fugato_zoo::ZooModel;
use serde_json::json;

/// The server adds less than this in the median.
const LESS_THAN: Nanos = Nanos::from_micros(100);

/// Fewer of each tell no median.
const LEAST: usize = 200;

/// Runs of each before any counts: graphs are made, and caches filled.
const WARM_UPS: usize = 20;

/// Pairs after which what was found is kept.
const KEPT: usize = 50;

/// What is run.
pub(super) struct Plan {
    pub(super) zoo: &'static ZooModel,
    /// A request through the server and a bare run, in turn.
    pub(super) pairs: usize,
    /// Of the server.
    pub(super) config: Config,
}

/// The server's configuration: one model, every task alone on the whole device, no measuring of
/// its own, and ports that nobody knows.
pub(super) fn config(
    setup: &Setup,
    kind: DeviceKind,
    zoo: &ZooModel,
) -> Result<Config, ConfigError> {
    let mut sources = sources(setup, kind);
    let flags = &mut sources.flags;
    let server = &mut flags.server;
    server.model_repository = Some(setup.models.clone());
    server.model_control_mode = Some(ModelControlMode::Explicit);
    server.load_model = Some(vec![zoo.name.to_owned()]);
    server.http_port = Some(0);
    server.grpc_port = Some(0);
    server.metrics_port = Some(0);
    flags.scheduler.policy = Some(Policy::Fifo);
    flags.profile.online_share = Some(0.0);
    Config::resolve(&sources)
}

/// What the two took, pair by pair.
#[derive(Clone, Debug, Default)]
struct Found {
    /// From the request's arrival at the engine to its reply.
    served: Vec<Nanos>,
    /// From handing it to the device to the results in host memory.
    bare: Vec<Nanos>,
    /// The run alone of those, by the device's clock.
    run: Vec<Nanos>,
}

pub(super) fn run<D: Host>(
    stage: &mut Stage<D>,
    plan: &Plan,
    budget: &mut Budget<'_>,
) -> anyhow::Result<Answer> {
    // The server finds it written, and stored.
    let model = stage.load(plan.zoo, &LoadOptions::default())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let server = runtime.block_on(InProcess::start(plan.config.clone()))?;
    let mut found = Found::default();
    let client = Client {
        runtime: &runtime,
        server: &server,
        inputs: item(plan.zoo, 0)?,
        zoo: plan.zoo,
    };
    let measured = measure(stage, (&model, &client), plan, &mut found, budget);
    stage.unload(&model);
    runtime.block_on(server.end());
    runtime.shutdown_background();
    measured?;
    Ok(answer(&found, plan))
}

fn measure<D: Host>(
    stage: &mut Stage<D>,
    (model, client): (&OnStage, &Client<'_>),
    plan: &Plan,
    found: &mut Found,
    budget: &mut Budget<'_>,
) -> anyhow::Result<()> {
    for _ in 0..WARM_UPS {
        bare(stage, model, &client.inputs)?;
        client.ask()?;
    }
    for pair in 0..plan.pairs {
        if budget.is_spent() {
            break;
        }
        // Neither is always the one after the other.
        let (served, (bare, run)) = if pair % 2 == 0 {
            let bare = bare(stage, model, &client.inputs)?;
            (client.ask()?, bare)
        } else {
            let served = client.ask()?;
            (served, bare(stage, model, &client.inputs)?)
        };
        found.served.push(served);
        found.bare.push(bare);
        found.run.push(run);
        if (pair + 1) % KEPT == 0 {
            budget.keep(answer(found, plan))?;
        }
    }
    Ok(())
}

/// One item on the whole device that does nothing else: what all of it took, and the run of it.
fn bare<D: Host>(
    stage: &mut Stage<D>,
    model: &OnStage,
    inputs: &RequestInputs,
) -> anyhow::Result<(Nanos, Nanos)> {
    let begun = stage.clock.now();
    let place = Place::of(PartitionId(0));
    let ran = stage.run(model, place, std::slice::from_ref(inputs))?;
    Ok((stage.clock.now() - begun, ran.split.infer))
}

/// Whoever asks the server.
struct Client<'a> {
    runtime: &'a tokio::runtime::Runtime,
    server: &'a InProcess,
    inputs: RequestInputs,
    zoo: &'static ZooModel,
}

impl Client<'_> {
    /// One request of one item: how long its reply took.
    fn ask(&self) -> anyhow::Result<Nanos> {
        let engine = self.server.engine();
        let mut request = self.request()?;
        let begun = engine.clock().now();
        request.arrived = begun;
        let reply = self.runtime.block_on(engine.infer(request));
        let took = engine.clock().now() - begun;
        reply.map_err(|error| anyhow::anyhow!("the server answered: {error}"))?;
        Ok(took)
    }

    fn request(&self) -> anyhow::Result<InferRequest> {
        let ports = self.zoo.inputs();
        let inputs = ports.iter().enumerate().map(|(index, input)| {
            let tensor = self.inputs.inputs.get(index);
            let tensor = tensor.context("an item has every input")?;
            Ok(NamedInput {
                name: input.port.name.clone(),
                element: element(input.port.data_type)?,
                shape: tensor.shape.clone(),
                data: tensor.data.clone(),
            })
        });
        Ok(InferRequest {
            model: self.zoo.name.to_owned(),
            version: None,
            id: String::new(),
            inputs: inputs.collect::<anyhow::Result<_>>()?,
            outputs: Vec::new(),
            arrived: self.server.engine().clock().now(),
            deadline: None,
            queue_timeout: None,
            priority: 0,
            trace: None,
        })
    }
}

/// A time of those, by nearest rank; of none, zero.
fn quantile(times: &[Nanos], quantile: f64) -> Nanos {
    let mut times = times.to_vec();
    times.sort_unstable();
    let rank = (quantile * times.len() as f64).ceil() as usize;
    let index = rank.clamp(1, times.len().max(1)) - 1;
    times.get(index).copied().unwrap_or_default()
}

fn answer(found: &Found, plan: &Plan) -> Answer {
    let [served, bare, run] =
        [&found.served, &found.bare, &found.run].map(|times| quantile(times, 0.5));
    let added = served.saturating_sub(bare);
    let pairs = found.served.len().min(found.bare.len());
    Answer {
        verdict: match (pairs >= LEAST, added < LESS_THAN) {
            (false, _) => Verdict::Unknown,
            (true, holds) => Verdict::of(holds),
        },
        words: format!(
            "a request of {} takes {:.1} us in the median of {pairs}, {:.1} us more than the {:.1} \
             us of a bare run with its copies (expected less than {:.0}), of which the run by \
             itself is {:.1} us",
            plan.zoo.name,
            micros(served),
            micros(added),
            micros(bare),
            micros(LESS_THAN),
            micros(run)
        ),
        facts: json!({
            "model": plan.zoo.name,
            "pairs": pairs,
            "policy": "fifo",
            "added_us": micros(added),
            "added_p99_us": micros(
                quantile(&found.served, 0.99).saturating_sub(quantile(&found.bare, 0.99)),
            ),
            "served_us": times(&found.served),
            "bare_us": times(&found.bare),
            "run_us": times(&found.run),
        }),
    }
}

fn times(times: &[Nanos]) -> serde_json::Value {
    json!({ "p50": micros(quantile(times, 0.5)), "p99": micros(quantile(times, 0.99)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(served_us: u64, pairs: usize) -> Answer {
        let zoo = fugato_zoo::find("identity").expect("one");
        let of = |micros| vec![Nanos::from_micros(micros); pairs];
        let found = Found {
            served: of(served_us),
            bare: of(700),
            run: of(600),
        };
        let plan = Plan {
            zoo,
            pairs,
            config: Config::resolve(&crate::config::Sources::default()).expect("the defaults"),
        };
        answer(&found, &plan)
    }

    #[test]
    fn the_server_adds_less_than_a_tenth_of_a_millisecond_in_the_median_of_many() {
        assert_eq!(judged(799, LEAST).verdict, Verdict::Holds);
        assert_eq!(judged(800, LEAST).verdict, Verdict::Fails);
        assert_eq!(judged(799, LEAST - 1).verdict, Verdict::Unknown);
        assert_eq!(judged(900, LEAST - 1).verdict, Verdict::Unknown);
        // A bare run that took longer says that what is added is within the noise.
        assert_eq!(judged(690, LEAST).verdict, Verdict::Holds);
        let words = judged(799, LEAST).words;
        assert!(words.contains("99.0 us more than the 700.0 us"), "{words}");
    }

    #[test]
    fn the_median_is_not_moved_by_a_few_that_take_long() {
        let mut times = vec![Nanos::from_micros(10); 100];
        times.extend(vec![Nanos::from_millis(10); 99]);
        assert_eq!(quantile(&times, 0.5), Nanos::from_micros(10));
        assert_eq!(quantile(&times, 0.99), Nanos::from_millis(10));
        assert_eq!(quantile(&[], 0.5), Nanos::ZERO);
    }
}

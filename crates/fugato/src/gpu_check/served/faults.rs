//! What faults cost those that they do not hit. With the device's memory full a model is refused,
//! for that reason, and the others go on; a supervised server whose worker is killed answers
//! again; and after an error that only a new process heals, legs end as of a lost device, with
//! which a server's worker ends by itself.

use super::stage::{Host, OnStage, Place, Stage, item, store};
use crate::bench::client::{Client, Outputs, Prepared};
use crate::bench::tensor::Tensor;
use crate::gpu_check::compare::apart;
use crate::gpu_check::inputs::element;
use crate::gpu_check::report::{Answer, Budget, Verdict};
use anyhow::Context;
use fugato_core::PartitionId;
use fugato_device::{
    InputData, LoadErrorKind, LoadOptions, OutputTensor, RunErrorKind, TensorData,
};
use fugato_zoo::ZooModel;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::any::Any;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// By when every model of a server answers again.
const AGAIN: Duration = Duration::from_secs(5);

/// The largest deviation of an answer while memory is full, relative to its largest value.
const APART: f64 = 1e-5;

/// Between two looks at what another process does.
const PAUSE: Duration = Duration::from_millis(10);

/// How long a server may take to end once it is told to.
const END: Duration = Duration::from_secs(15);

/// What is tried.
pub(super) struct Plan {
    /// Runs all the time.
    pub(super) beside: &'static ZooModel,
    /// Is to be refused while memory is full.
    pub(super) refused: &'static ZooModel,
    /// What the server serves.
    pub(super) served: Vec<&'static ZooModel>,
    /// Starts a supervised server of these models, which leaves its addresses in this file.
    pub(super) server: fn(&Self, &Path) -> anyhow::Result<Command>,
    /// Where models are written.
    pub(super) setup: crate::gpu_check::Setup,
}

/// Takes the device's memory until what it gives is dropped.
pub(super) type Fill<'a> = &'a mut dyn FnMut() -> anyhow::Result<Box<dyn Any>>;

/// Has the device fail for good in this process.
pub(super) type Break<'a> = &'a mut dyn FnMut() -> anyhow::Result<()>;

/// With full memory.
struct Full {
    /// Why the model was not loaded; `None`: it was.
    refused: Option<(LoadErrorKind, String)>,
    /// Whether the other model answered meanwhile, or how it failed.
    beside: Result<f64, String>,
    /// Whether the model was loaded and ran with the memory given back, or how it failed.
    after: Result<(), String>,
}

impl Full {
    fn fault(&self) -> Option<String> {
        match &self.refused {
            None => return Some("a model was loaded with the memory full".to_owned()),
            Some((LoadErrorKind::DeviceMemory, _)) => {}
            Some((_, words)) => {
                return Some(format!(
                    "with the memory full a model was refused for another reason: {words}"
                ));
            }
        }
        match (&self.beside, &self.after) {
            (Err(error), _) => Some(format!("with the memory full another failed: {error}")),
            (Ok(apart), _) if *apart > APART => Some(format!(
                "with the memory full answers of another deviate by {apart:.1e}"
            )),
            (_, Err(error)) => Some(format!("with the memory given back: {error}")),
            (Ok(_), Ok(())) => None,
        }
    }
}

/// A server whose worker was killed.
struct Restart {
    /// From the start of the first one until it was ready.
    started: Duration,
    /// From the kill to the first answer of each model.
    answered: Vec<(&'static str, Duration)>,
    /// Which model did not, though it had the time, and what was said last.
    missing: Option<String>,
}

impl Restart {
    fn last(&self) -> Duration {
        let times = self.answered.iter().map(|(_, time)| *time);
        times.max().unwrap_or_default()
    }
}

#[derive(Default)]
struct Found {
    full: Option<Full>,
    restart: Option<Restart>,
    /// Whether a leg ended as of a lost device, or what came instead.
    lost: Option<Result<Duration, String>>,
}

pub(super) fn run<D: Host>(
    stage: &mut Stage<D>,
    plan: &Plan,
    (fill, break_device): (Fill<'_>, Break<'_>),
    budget: &mut Budget<'_>,
) -> anyhow::Result<Answer> {
    let mut found = Found::default();
    if !budget.is_spent() {
        found.full = Some(full(stage, plan, fill)?);
        budget.keep(answer(&found))?;
    }
    if !budget.is_spent() {
        found.restart = restart(stage, plan, budget)?;
        budget.keep(answer(&found))?;
    }
    // The last, since nothing runs here after it.
    if !budget.is_spent() {
        found.lost = Some(lost(stage, plan, break_device)?);
        // What has lost its device may not come to an end.
        budget.keep(answer(&found))?;
    }
    Ok(answer(&found))
}

fn full<D: Host>(stage: &mut Stage<D>, plan: &Plan, fill: Fill<'_>) -> anyhow::Result<Full> {
    let options = LoadOptions {
        max_batch: 1,
        ..LoadOptions::default()
    };
    let stored = stage.prepare(plan.refused)?;
    let beside = stage.load(plan.beside, &options)?;
    let before = once(stage, &beside)?;
    let taken = fill()?;
    let error = stage.refusal(&stored, &options);
    let refused = error.map(|error| (error.kind(), error.report()));
    let meanwhile = once(stage, &beside).and_then(|during| deviation(&during, &before));
    drop(taken);
    let after = stage.load(plan.refused, &options).and_then(|model| {
        once(stage, &model)?;
        stage.unload(&model);
        Ok(())
    });
    stage.unload(&beside);
    let told = |error: anyhow::Error| format!("{error:#}");
    Ok(Full {
        refused,
        beside: meanwhile.map_err(told),
        after: after.map_err(told),
    })
}

/// From the fault to the end of a leg that was started after it.
fn lost<D: Host>(
    stage: &mut Stage<D>,
    plan: &Plan,
    break_device: Break<'_>,
) -> anyhow::Result<Result<Duration, String>> {
    let model = stage.load(plan.beside, &LoadOptions::default())?;
    once(stage, &model)?;
    let item = item(model.zoo, 0)?;
    break_device()?;
    let broken = Instant::now();
    let (error, told) = stage.fate(&model, Place::of(PartitionId(0)), &[item])?;
    let took = broken.elapsed();
    Ok(match (error, told) {
        (None, _) => Err("a leg ran on after the device had failed".to_owned()),
        (Some(error), _) if error.kind != RunErrorKind::DeviceLost => Err(format!(
            "after the device had failed a leg failed as of another fault: {}",
            error.detail
        )),
        (Some(_), false) => Err("the device does not say that it is lost".to_owned()),
        (Some(_), true) => Ok(took),
    })
}

/// The words after the program's name: ports that nobody knows, and no models but these.
pub(super) fn arguments(plan: &Plan, device: &str, ready: &Path) -> Vec<OsString> {
    let setup = &plan.setup;
    let mut arguments: Vec<OsString> = Vec::new();
    let mut flag = |name: &str, value: &OsStr| {
        arguments.extend([OsString::from(name), value.to_owned()]);
    };
    flag("--model-repository", setup.models.as_os_str());
    flag("--model-store", store(setup, device == "cpu").as_os_str());
    flag("--onnxruntime", setup.onnxruntime.as_os_str());
    flag("--ready-file", ready.as_os_str());
    flag("--device", device.as_ref());
    flag("--model-control-mode", "explicit".as_ref());
    for port in ["--http-port", "--grpc-port", "--metrics-port"] {
        flag(port, "0".as_ref());
    }
    for zoo in &plan.served {
        flag("--load-model", zoo.name.as_ref());
    }
    arguments.splice(0..0, ["serve", "--supervise=on"].map(OsString::from));
    arguments
}

/// What a model answers to one item on the whole device.
fn once<D: Host>(stage: &mut Stage<D>, model: &OnStage) -> anyhow::Result<Vec<OutputTensor>> {
    let item = item(model.zoo, 0)?;
    let ran = stage.run(model, Place::of(PartitionId(0)), &[item])?;
    let mut outputs = ran.outputs.into_iter();
    outputs.next().context("one item has one answer")
}

/// The largest deviation of these outputs, relative to the largest value of each.
fn deviation(found: &[OutputTensor], expected: &[OutputTensor]) -> anyhow::Result<f64> {
    let mut most = 0.0_f64;
    for (found, expected) in found.iter().zip(expected) {
        most = most.max(apart(&floats(found)?, &floats(expected)?)?);
    }
    Ok(most)
}

fn floats(output: &OutputTensor) -> anyhow::Result<Vec<f32>> {
    let TensorData::Raw(bytes) = &output.data else {
        anyhow::bail!("an output has strings");
    };
    let values = bytes.chunks_exact(4).map(|value| {
        let value = value.try_into().expect("chunks of four");
        f32::from_le_bytes(value)
    });
    Ok(values.collect())
}

/// A server that ends with this, however that comes.
struct Server(Child);

impl Server {
    fn pid(&self) -> anyhow::Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.0.id())?))
    }

    /// Has it drain and waits for that.
    fn end(&mut self) -> anyhow::Result<()> {
        kill(self.pid()?, Signal::SIGTERM)?;
        let patience = Instant::now() + END;
        while self.0.try_wait()?.is_none() {
            if Instant::now() > patience {
                anyhow::bail!("the server does not end");
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended cannot be killed; its worker drains once this process is gone.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `None`: there was not the time.
fn restart<D: Host>(
    stage: &Stage<D>,
    plan: &Plan,
    budget: &Budget<'_>,
) -> anyhow::Result<Option<Restart>> {
    for zoo in &plan.served {
        // So that a start neither writes nor optimises them.
        stage.prepare(zoo)?;
    }
    let folder = tempfile::tempdir()?;
    let ready = folder.path().join("ready.json");
    let begun = Instant::now();
    let mut command = (plan.server)(plan, &ready)?;
    let process = command.stdin(Stdio::null()).spawn();
    let mut server = Server(process.context("the server cannot be started")?);
    let address = loop {
        if budget.is_spent() {
            return Ok(None);
        }
        if let Some(status) = server.0.try_wait()? {
            anyhow::bail!("the server ended before it was ready: {status}");
        }
        if ready.exists() {
            let told: serde_json::Value = serde_json::from_slice(&fs::read(&ready)?)?;
            let address = told["http"].as_str();
            break address.context("the server tells no address")?.to_owned();
        }
        std::thread::sleep(PAUSE);
    };
    let started = begun.elapsed();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let found = runtime.block_on(async {
        let client = Client::new(&format!("http://{address}").parse()?)?;
        let requests = plan
            .served
            .iter()
            .map(|&zoo| Ok((zoo, request(&client, zoo)?)));
        let requests: Vec<_> = requests.collect::<anyhow::Result<_>>()?;
        for (zoo, request) in &requests {
            // A server that hangs must not outlive this process, which is stopped then.
            let reply = timeout(budget.left(), client.infer(request, Outputs::Drop)).await;
            let Ok(reply) = reply else { return Ok(None) };
            reply.with_context(|| format!("{} before the fault", zoo.name))?;
        }
        kill(worker_of(server.0.id())?, Signal::SIGKILL)?;
        again(&client, &requests, budget).await
    })?;
    server.end()?;
    Ok(found.map(|(answered, missing)| Restart {
        started,
        answered,
        missing,
    }))
}

/// From now to the first answer of each model, and the first that did not answer in all the time
/// that there was; `None` where that was too short to tell.
type Again = Option<(Vec<(&'static str, Duration)>, Option<String>)>;

async fn again(
    client: &Client,
    requests: &[(&'static ZooModel, Prepared)],
    budget: &Budget<'_>,
) -> anyhow::Result<Again> {
    let killed = Instant::now();
    let mut answered = Vec::new();
    for (zoo, request) in requests {
        let mut last = "it says nothing".to_owned();
        loop {
            match timeout(budget.left(), client.infer(request, Outputs::Drop)).await {
                Ok(Ok(_)) => break,
                // While it starts and loads them it answers with errors, or cuts connections.
                Ok(Err(error)) => last = error.to_string(),
                Err(_) => {}
            }
            if budget.is_spent() {
                let missing = format!("{} does not answer: {last}", zoo.name);
                return Ok((killed.elapsed() >= AGAIN).then_some((answered, Some(missing))));
            }
            sleep(PAUSE).await;
        }
        answered.push((zoo.name, killed.elapsed()));
    }
    Ok(Some((answered, None)))
}

fn request(client: &Client, zoo: &ZooModel) -> anyhow::Result<Prepared> {
    let item = item(zoo, 0)?;
    let ports = zoo.inputs();
    let inputs = ports.iter().zip(item.inputs.iter()).map(|(input, tensor)| {
        let element = element(input.port.data_type)?;
        let InputData::Here(data) = &tensor.data else {
            anyhow::bail!("an input is in shared memory");
        };
        Ok(Tensor::of(
            input.port.name.clone(),
            element,
            tensor.shape.clone(),
            data.clone(),
        ))
    });
    let inputs = inputs.collect::<anyhow::Result<Vec<_>>>()?;
    Ok(client.prepare(zoo.name, &inputs, None))
}

/// The one process that a supervisor has started and that runs.
fn worker_of(supervisor: u32) -> anyhow::Result<Pid> {
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // It may have ended since.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        let fields = stat.rsplit_once(") ").map(|(_, after)| after);
        let mut fields = fields.unwrap_or_default().split(' ');
        let runs = fields.next().is_some_and(|state| state != "Z");
        let parent: Option<u32> = fields.next().and_then(|parent| parent.parse().ok());
        if runs && parent == Some(supervisor) {
            return Ok(Pid::from_raw(pid));
        }
    }
    anyhow::bail!("the server has no worker")
}

fn answer(found: &Found) -> Answer {
    let Found {
        full,
        restart,
        lost,
    } = found;
    let mut words = Vec::new();
    let mut fails = false;
    words.push(match full.as_ref().map(Full::fault) {
        None => "full memory was not tried".to_owned(),
        Some(Some(fault)) => {
            fails = true;
            fault
        }
        Some(None) => "full memory refuses the model that is loaded then, by name, and no other \
                       is the worse for it"
            .to_owned(),
    });
    words.push(match restart {
        None => "no server was seen to answer again".to_owned(),
        Some(Restart {
            missing: Some(missing),
            ..
        }) => {
            fails = true;
            format!("once the worker is killed {missing}")
        }
        Some(restart) => {
            fails |= restart.last() >= AGAIN;
            format!(
                "all {} models of a server whose worker is killed answer again after {:.1} s \
                 (expected less than {})",
                restart.answered.len(),
                restart.last().as_secs_f64(),
                AGAIN.as_secs()
            )
        }
    });
    words.push(match lost {
        None => "an error that only a new process heals was not tried".to_owned(),
        Some(Err(error)) => {
            fails = true;
            error.clone()
        }
        Some(Ok(_)) => "after a trap of a kernel legs end as of a lost device".to_owned(),
    });
    let is_whole = full.is_some() && restart.is_some() && lost.is_some();
    Answer {
        verdict: match (fails, is_whole) {
            (true, _) => Verdict::Fails,
            (false, true) => Verdict::Holds,
            (false, false) => Verdict::Unknown,
        },
        words: words.join("; "),
        facts: json!({
            "full_memory": full.as_ref().map(|full| json!({
                "refused": full.refused.as_ref().map(|(_, words)| words),
                "deviation_of_another": full.beside.as_ref().ok(),
                "failed_of_another": full.beside.as_ref().err(),
                "failed_afterwards": full.after.as_ref().err(),
            })),
            "device_lost": lost.as_ref().map(|lost| json!({
                "told_after_s": lost.as_ref().ok().map(Duration::as_secs_f64),
                "failed": lost.as_ref().err(),
            })),
            "worker_killed": restart.as_ref().map(|restart| json!({
                "first_start_s": restart.started.as_secs_f64(),
                "missing": restart.missing,
                "again_s": restart.answered.iter().map(|(model, time)| {
                    json!({ "model": model, "seconds": time.as_secs_f64() })
                }).collect::<Vec<_>>(),
            })),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Full {
        Full {
            refused: Some((LoadErrorKind::DeviceMemory, "no memory for it".to_owned())),
            beside: Ok(0.0),
            after: Ok(()),
        }
    }

    fn judged(full: Full, again: Option<u64>) -> Answer {
        answer(&Found {
            full: Some(full),
            restart: again.map(|millis| Restart {
                started: Duration::from_secs(9),
                answered: vec![
                    ("resnet18", Duration::from_millis(millis)),
                    ("identity", Duration::from_millis(700)),
                ],
                missing: None,
            }),
            lost: Some(Ok(Duration::from_millis(1))),
        })
    }

    #[test]
    fn the_last_model_answers_again_within_five_seconds() {
        assert_eq!(judged(full(), Some(4_999)).verdict, Verdict::Holds);
        assert_eq!(judged(full(), Some(5_000)).verdict, Verdict::Fails);
        assert_eq!(judged(full(), None).verdict, Verdict::Unknown);
        assert_eq!(answer(&Found::default()).verdict, Verdict::Unknown);
        let words = judged(full(), Some(4_000)).words;
        assert!(words.contains("all 2 models"), "{words}");
        assert!(words.contains("after 4.0 s"), "{words}");
    }

    #[test]
    fn a_model_that_does_not_answer_any_more_fails_by_name() {
        let judged = answer(&Found {
            full: Some(full()),
            restart: Some(Restart {
                started: Duration::from_secs(9),
                answered: Vec::new(),
                missing: Some("resnet18 does not answer: gone".to_owned()),
            }),
            lost: None,
        });
        assert_eq!(judged.verdict, Verdict::Fails);
        assert!(judged.words.contains("resnet18 does not answer: gone"));
    }

    #[test]
    fn full_memory_is_to_be_the_reason_and_nobody_elses_fault() {
        let runtime = || Some((LoadErrorKind::Runtime, "it failed".to_owned()));
        for (fault, full) in [
            (
                "was loaded",
                Full {
                    refused: None,
                    ..full()
                },
            ),
            (
                "another reason: it failed",
                Full {
                    refused: runtime(),
                    ..full()
                },
            ),
            (
                "another failed: x",
                Full {
                    beside: Err("x".to_owned()),
                    ..full()
                },
            ),
            (
                "deviate by 1.0e-1",
                Full {
                    beside: Ok(0.1),
                    ..full()
                },
            ),
            (
                "given back: y",
                Full {
                    after: Err("y".to_owned()),
                    ..full()
                },
            ),
        ] {
            let judged = judged(full, None);
            assert_eq!(judged.verdict, Verdict::Fails, "{fault}");
            assert!(judged.words.contains(fault), "{}", judged.words);
        }
    }
}

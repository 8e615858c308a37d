//! What is tried on an NVIDIA device.

use super::stage::{Stage, named};
use super::{beside, faults, knees, memory, models, plans, policies, server, switch, zoo};
use crate::config::DeviceKind;
use crate::gpu_check::Setup;
use crate::gpu_check::report::{Answer, Budget};
use anyhow::Context;
use fugato_core::capacity::LargestSettings;
use fugato_core::plan::CostModel;
use fugato_core::profile::Profile;
use fugato_core::{Nanos, Share};
use fugato_device::cuda::{CudaLibraries, DeviceMemory, Driver, Gpu, Partition};
use fugato_device::{AnyDevice, Device, Precision};
use fugato_zoo::ZooModel;
use std::any::Any;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The models of the papers' mixes, those of the smaller mixes first.
const OF_MIXES: [&str; 7] = [
    "mobilenet_v2",
    "alexnet",
    "resnet50",
    "vgg19",
    "bert-base",
    "resnet18",
    "inception_v3",
];

/// The eighth of D-STACK's table.
const EIGHTH: &str = "resnext50_32x4d";

/// Those that are cut into legs: of few wide operators, of many narrow ones, and of branches.
const OF_LEGS: [&str; 3] = ["vgg19", "resnet50", "inception_v3"];

/// Those whose operators run side by side most, the one of the fewest sessions first.
const OF_PLANS: [&str; 3] = ["inception_v3", "randwire_ws", "nasnet_a_large"];

/// In the order they are tried. `convnet` is left out: its networks are made up, and the zoo
/// has none of them.
const MIXES: [&str; 5] = ["c-4", "c-7", "arv", "c-3", "c-2"];

/// The batch that the papers publish their table at.
const LARGEST_BATCH: u32 = 16;

fn gpu(setup: &Setup) -> anyhow::Result<(Stage<AnyDevice>, String)> {
    // From all folders; what is loaded is found by name.
    CudaLibraries::load(&setup.libraries)?;
    Stage::open(setup, DeviceKind::Cuda)
}

fn all(names: &[&str]) -> anyhow::Result<Vec<&'static ZooModel>> {
    names.iter().map(|name| named(name)).collect()
}

/// Every model of the zoo, those of the mixes first.
fn every_model() -> anyhow::Result<Vec<&'static ZooModel>> {
    let mut models = all(&OF_MIXES)?;
    let others = fugato_zoo::models().iter();
    models.extend(others.filter(|model| !OF_MIXES.contains(&model.name)));
    Ok(models)
}

fn profile_path(setup: &Setup) -> PathBuf {
    setup.out.join("profile.json")
}

pub(crate) fn zoo(setup: &Setup, budget: &mut Budget<'_>) -> anyhow::Result<Answer> {
    let (mut stage, _) = gpu(setup)?;
    let (mut cpu, _) = Stage::open(setup, DeviceKind::Cpu)?;
    let plan = zoo::Plan {
        models: every_model()?,
        precisions: vec![Precision::Fp32, Precision::Fp16],
        batches: vec![1, 8, 32],
        rounds: 20,
    };
    zoo::run(&mut stage, &mut cpu, &plan, budget)
}

pub(crate) fn knees(setup: &Setup, budget: &mut Budget<'_>) -> anyhow::Result<Answer> {
    let (mut stage, runtime) = gpu(setup)?;
    let plan = knees::Plan {
        models: every_model()?,
        first: OF_MIXES.len(),
        batches: vec![1, 4, LARGEST_BATCH],
        shares: knees::shares(stage.device.spec()),
        runtime,
        out: profile_path(setup),
        legs: None,
    };
    knees::run(&mut stage, &plan, budget)
}

pub(crate) fn legs(setup: &Setup, budget: &mut Budget<'_>) -> anyhow::Result<Answer> {
    let from = profile_path(setup);
    let profile = profile_of_knees(&from)?;
    let (mut stage, runtime) = gpu(setup)?;
    profile.matches(&stage.key(), &runtime)?;
    let plan = knees::Plan {
        models: all(&OF_LEGS)?,
        first: OF_LEGS.len(),
        batches: vec![1, LARGEST_BATCH],
        shares: knees::shares(stage.device.spec()),
        runtime,
        out: legs_path(setup),
        legs: Some(knees::Legs {
            longest: Nanos::from_micros(500),
            from,
        }),
    };
    knees::run(&mut stage, &plan, budget)
}

fn legs_path(setup: &Setup) -> PathBuf {
    setup.out.join("profile-legs.json")
}

/// What the part `knees` wrote.
fn profile_of_knees(path: &Path) -> anyhow::Result<Profile> {
    let profile = knees::read(path)?;
    profile.with_context(|| {
        let path = path.display();
        format!("there is no profile at `{path}`, which `--only knees` writes")
    })
}

pub(crate) fn policies(setup: &Setup, budget: &mut Budget<'_>) -> anyhow::Result<Answer> {
    let path = profile_path(setup);
    let profile = profile_of_knees(&path)?;
    let (mut stage, runtime) = gpu(setup)?;
    profile.matches(&stage.key(), &runtime)?;
    let plan = policies::Plan {
        // One of another device or runtime is of an earlier check.
        legs: knees::read(&legs_path(setup))?
            .filter(|legs| legs.device == profile.device && legs.runtime == profile.runtime),
        profile,
        mixes: policies::mixes(&MIXES),
        policies: policies::order(),
        first: policies::FIRST.len(),
        aims: policies::Aim::ALL.to_vec(),
        search: LargestSettings {
            start: 0.5,
            step: 1.5,
            tolerance: 0.1,
            least: 0.05,
            most: 4.0,
        },
        duration: Nanos::from_millis(1_200),
    };
    policies::run(&mut stage, &plan, budget)
}

pub(crate) fn switch(setup: &Setup, budget: &mut Budget<'_>) -> anyhow::Result<Answer> {
    let (mut stage, _) = gpu(setup)?;
    let plan = switch::Plan {
        zoo: named("resnet50")?,
        legs: 201,
    };
    switch::run(&mut stage, &plan, budget)
}

pub(crate) fn server(setup: &Setup, budget: &mut Budget<'_>) -> anyhow::Result<Answer> {
    let (mut stage, _) = gpu(setup)?;
    let zoo = named("resnet50")?;
    let plan = server::Plan {
        zoo,
        pairs: 1_000,
        config: server::config(setup, DeviceKind::Cuda, zoo)?,
    };
    server::run(&mut stage, &plan, budget)
}

pub(crate) fn plans(setup: &Setup, budget: &mut Budget<'_>) -> anyhow::Result<Answer> {
    let (mut stage, runtime) = gpu(setup)?;
    // Those that are loaded by now.
    let libraries = CudaLibraries::load(&setup.libraries)?.versions();
    let plan = plans::Plan {
        libraries,
        models: all(&OF_PLANS)?,
        planner: "list".parse()?,
        // Nothing is known of this device before it is measured, which would take the time that
        // there is; what pays is found out by running it.
        costs: CostModel::IOS_V100,
        share: Share(80),
        rounds: 30,
        runtime,
    };
    plans::run(&mut stage, &plan, budget)
}

pub(crate) fn memory(setup: &Setup, budget: &mut Budget<'_>) -> anyhow::Result<Answer> {
    let (mut stage, _) = gpu(setup)?;
    let gpu = Gpu::open(Driver::find()?, setup.device)?;
    let mut free = || Ok(gpu.memory_free()?);
    let plan = memory::Plan {
        // The weights of the first are more than a further session may take.
        models: all(&["bert-base", "resnet50", "mobilenet_v2"])?,
        sessions: 4,
    };
    memory::run(&mut stage, &plan, &mut free, budget)
}

pub(crate) fn models(setup: &Setup, budget: &mut Budget<'_>) -> anyhow::Result<Answer> {
    let (mut stage, _) = gpu(setup)?;
    let gpu = Gpu::open(Driver::find()?, setup.device)?;
    let mut free = || Ok(gpu.memory_free()?);
    let plan = models::Plan {
        models: all(&[&OF_MIXES[..], &[EIGHTH]].concat())?,
        partitions: 3,
        max_batch: LARGEST_BATCH,
        // Those of VGG-19 are larger: half of them is more than the quarter of a GiB that a session
        // may take besides.
        large: 512 << 20,
    };
    models::run(&mut stage, &plan, &mut free, budget)
}

/// Less than this stays free where memory is filled.
const PIECE: usize = 64 << 20;

pub(crate) fn faults(setup: &Setup, budget: &mut Budget<'_>) -> anyhow::Result<Answer> {
    let (mut stage, _) = gpu(setup)?;
    let gpu = Gpu::open(Driver::find()?, setup.device)?;
    let mut fill = || {
        let mut taken = Vec::new();
        let mut piece = usize::try_from(gpu.memory_free()?)?;
        while piece >= PIECE {
            match DeviceMemory::new(&gpu, piece) {
                Ok(memory) => taken.push(memory),
                Err(error) if error.is_sticky() => return Err(error.into()),
                Err(_) => piece /= 2,
            }
        }
        Ok(Box::new(taken) as Box<dyn Any>)
    };
    let plan = faults::Plan {
        beside: named("mobilenet_v2")?,
        // Its weights are far more than stays free.
        refused: named("vgg19")?,
        // Those of the first mix.
        served: all(&OF_MIXES[..4])?,
        server: served_models,
        setup: setup.clone(),
    };
    let whole = Partition::new(&gpu, &gpu.whole()?, 0, 1)?;
    let stream = whole.stream(0)?;
    let mut trap = || match stream.trap()? {
        Err(error) if error.is_sticky() => Ok(()),
        Err(error) => Err(anyhow::Error::new(error).context("a trap is no sticky error")),
        Ok(()) => anyhow::bail!("a kernel that traps came to its end"),
    };
    faults::run(&mut stage, &plan, (&mut fill, &mut trap), budget)
}

/// This program as a server, as people start it.
fn served_models(plan: &faults::Plan, ready: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(faults::arguments(plan, "cuda", ready));
    command.env("FUGATO_DEVICE_GPU", plan.setup.device.to_string());
    if let Some(folder) = plan.setup.libraries.first() {
        command.env("FUGATO_DEVICE_GPU_LIBRARIES", folder);
    }
    Ok(command)
}

pub(crate) fn beside(setup: &Setup, budget: &mut Budget<'_>) -> anyhow::Result<Answer> {
    let (mut stage, _) = gpu(setup)?;
    let other = |what, name, batch| -> anyhow::Result<beside::Other> {
        Ok(beside::Other {
            what,
            zoo: named(name)?,
            batch,
        })
    };
    let plan = beside::Plan {
        zoo: named("resnet50")?,
        // At one item VGG-19 reads half a gigabyte of weights for what it computes.
        neighbours: vec![
            other("memory", "vgg19", 1)?,
            other("compute", "resnet50", LARGEST_BATCH)?,
        ],
        legs: 300,
    };
    beside::run(&mut stage, &plan, budget)
}

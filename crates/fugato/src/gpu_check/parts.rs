//! The parts.

mod capture;
mod device;
mod neighbours;
mod overlap;
mod partitions;
mod retarget;

use super::bench::Bench;
use super::report::{Answer, Budget};
use super::served::on_gpu;
use super::{Part, Report, Setup};

pub(super) fn run(part: Part, setup: &Setup, budget: &mut Budget<'_>) -> anyhow::Result<Report> {
    let on = |run: fn(&Bench) -> anyhow::Result<Answer>| run(&Bench::open(setup)?);
    let answer = match part {
        Part::Device => on(device::run),
        Part::Capture => capture::run(&Bench::open(setup)?, budget),
        Part::Overlap => on(overlap::run),
        Part::Memory => on_gpu::memory(setup, budget),
        Part::Partitions => partitions::run(&Bench::open(setup)?, budget),
        Part::Neighbours => on(neighbours::run),
        Part::Retarget => on(retarget::run),
        Part::Zoo => on_gpu::zoo(setup, budget),
        Part::Knees => on_gpu::knees(setup, budget),
        Part::Legs => on_gpu::legs(setup, budget),
        Part::Policies => on_gpu::policies(setup, budget),
        Part::Server => on_gpu::server(setup, budget),
        Part::Switch => on_gpu::switch(setup, budget),
        Part::Beside => on_gpu::beside(setup, budget),
        Part::Models => on_gpu::models(setup, budget),
        Part::Plans => on_gpu::plans(setup, budget),
        Part::Faults => on_gpu::faults(setup, budget),
    }?;
    Ok(Report::of(part, answer))
}

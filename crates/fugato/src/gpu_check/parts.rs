//! The parts.

mod capture;
mod device;
mod memory;
mod neighbours;
mod overlap;
mod partitions;
mod retarget;

use super::bench::Bench;
use super::{Part, Report, Setup, Verdict};
use serde_json::Value;

/// What a part answers.
struct Answer {
    holds: bool,
    words: String,
    facts: Value,
}

pub(super) fn run(part: Part, setup: &Setup) -> anyhow::Result<Report> {
    let bench = Bench::open(setup)?;
    let answer = match part {
        Part::Device => device::run(&bench),
        Part::Capture => capture::run(&bench),
        Part::Overlap => overlap::run(&bench),
        Part::Memory => memory::run(&bench),
        Part::Partitions => partitions::run(&bench),
        Part::Neighbours => neighbours::run(&bench),
        Part::Retarget => retarget::run(&bench),
    }?;
    let verdict = match answer.holds {
        true => Verdict::Holds,
        false => Verdict::Fails,
    };
    let mut report = Report::new(part, verdict, answer.words);
    report.facts = answer.facts;
    Ok(report)
}

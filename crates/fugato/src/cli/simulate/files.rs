//! What a simulation writes beside what it prints: traces, pictures, a page.

use super::{ATTAINMENT, Args};
use crate::cli::places;
use crate::plots::{Chart, LoadCurves, LoadLine, LoadPoint, against_load, space_time};
use crate::report::{self, Run};
use crate::simulation::{Contender, Plan, Ran, sweep};
use crate::timeline::{Scene, write_trace};
use anyhow::Context;
use fugato_core::ModelId;
use fugato_core::device::DeviceSpec;
use fugato_core::timeline::{Timeline, TimelineLeg};
use fugato_core::{DeviceId, Nanos, Timestamp};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

/// Legs that a trace and a picture hold: what a viewer opens in a moment.
pub(super) const LEGS_MAX: usize = 100_000;

/// What a picture of what ran where shows: from the end of the warm-up on, so long that runs
/// of some milliseconds are wide enough to read.
const SHOWN: Nanos = Nanos::from_millis(300);

/// The multiples of the workload that pictures against load show.
const MULTIPLES: [f64; 8] = [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0];

/// Those that they go on with, one by one, until every policy has fallen under the aim.
const FURTHER: [f64; 4] = [2.5, 3.0, 3.5, 4.0];

/// Seeds per point of such a picture.
const SEEDS: NonZeroU32 = NonZeroU32::new(3).expect("not zero");

/// Tries to write to each of the places that [`write()`] will write to.
pub(super) fn try_places(args: &Args, plan: &Plan) -> anyhow::Result<()> {
    if let Some(path) = &args.timeline {
        let traced = plan.policies.iter();
        for contender in traced.filter(|contender| **contender != Contender::Ideal) {
            places::try_file(&trace_path(path, plan, contender.name()))?;
        }
    }
    if let Some(folder) = &args.plots {
        places::try_folder(folder)?;
    }
    args.report.as_deref().map_or(Ok(()), places::try_file)
}

/// Where the trace of a policy goes.
fn trace_path(path: &Path, plan: &Plan, label: &str) -> PathBuf {
    match plan.policies.len() {
        1 => path.to_owned(),
        _ => beside(path, label),
    }
}

/// Writes the files that were asked for.
pub(super) fn write(args: &Args, plan: &Plan, ran: &Ran) -> anyhow::Result<()> {
    if let Some(path) = &args.timeline {
        traces(path, plan, ran)?;
    }
    if let Some(folder) = &args.plots {
        for chart in pictures(args, plan, ran)? {
            write_file(&folder.join(&chart.file), chart.svg.as_bytes())?;
        }
    }
    if let Some(path) = &args.report {
        let json = serde_json::to_string(&ran.report)?;
        let run = Run::from_json(what(args, plan), &json)?;
        write_file(path, report::page(&[run]).as_bytes())?;
    }
    Ok(())
}

fn write_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write `{}`", path.display()))
}

fn what(args: &Args, plan: &Plan) -> String {
    format!(
        "{} on {}, seed {}",
        args.workload.display(),
        plan.profile.device.name,
        plan.seed
    )
}

/// What ran under one policy, of all its worlds.
struct Shown {
    label: String,
    devices: Vec<DeviceSpec>,
    legs: Vec<TimelineLeg>,
    lost: u64,
}

/// Each policy that the scheduler ran.
fn shown<'a>(plan: &'a Plan, ran: &'a Ran) -> impl Iterator<Item = Shown> + use<'a> {
    let policies = plan.policies.iter().zip(&ran.runs);
    policies
        .filter(|(_, runs)| !runs.is_empty())
        .map(|(contender, runs)| {
            let timelines = || runs.iter().filter_map(|run| run.timeline.as_ref());
            let device = plan.scenario.device();
            Shown {
                label: contender.name().to_owned(),
                devices: (0..u16::try_from(plan.devices).unwrap_or(u16::MAX))
                    .map(|id| DeviceSpec {
                        id: DeviceId(id),
                        ..device.clone()
                    })
                    .collect(),
                legs: timelines().flat_map(Timeline::legs).copied().collect(),
                lost: timelines().map(Timeline::lost).sum(),
            }
        })
}

fn names(plan: &Plan) -> BTreeMap<ModelId, String> {
    let models = plan.scenario.workload().models().iter();
    (0..)
        .map(ModelId)
        .zip(models.map(|model| model.name.clone()))
        .collect()
}

fn traces(path: &Path, plan: &Plan, ran: &Ran) -> anyhow::Result<()> {
    let names = names(plan);
    for shown in shown(plan, ran) {
        let path = trace_path(path, plan, &shown.label);
        let scene = Scene {
            simulated: true,
            what: &shown.label,
            devices: &shown.devices,
            models: &names,
            legs: &shown.legs,
            lost: shown.lost,
        };
        let unwritten = || format!("cannot write `{}`", path.display());
        let file = File::create(&path).with_context(unwritten)?;
        write_trace(&scene, file).with_context(unwritten)?;
    }
    Ok(())
}

/// `arv.json` becomes `arv-edf.json`.
fn beside(path: &Path, label: &str) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut name = format!("{stem}-{}", file_name(label));
    if let Some(extension) = path.extension() {
        name = format!("{name}.{}", extension.to_string_lossy());
    }
    path.with_file_name(name)
}

fn file_name(label: &str) -> String {
    label.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "-")
}

fn pictures(args: &Args, plan: &Plan, ran: &Ran) -> anyhow::Result<Vec<Chart>> {
    let names = names(plan);
    let begin = Timestamp::ZERO + plan.scenario.workload().warmup();
    let mut charts: Vec<Chart> = shown(plan, ran)
        .map(|shown| {
            let scene = Scene {
                simulated: true,
                what: &what(args, plan),
                devices: &shown.devices,
                models: &names,
                legs: &shown.legs,
                lost: shown.lost,
            };
            // Of a long run only the last legs are kept.
            let kept = shown.legs.iter().map(|leg| leg.started).min();
            let begin = match kept {
                Some(first) if shown.lost > 0 => begin.max(first),
                _ => begin,
            };
            let chart = space_time(&scene, &shown.label, Some(begin..begin + SHOWN));
            let file = format!("space-time-{}.svg", file_name(&shown.label));
            Chart { file, ..chart }
        })
        .collect();
    if !plan.scenario.workload().is_saturated() {
        charts.extend(against_load(&curves(args, plan)?));
    }
    Ok(charts)
}

fn curves(args: &Args, plan: &Plan) -> anyhow::Result<LoadCurves> {
    let aim = args.attainment.unwrap_or(ATTAINMENT);
    let mut lines = lines(plan, &MULTIPLES)?;
    for multiple in FURTHER {
        if lines.iter().all(|line| has_fallen(line, aim)) {
            break;
        }
        for (line, further) in lines.iter_mut().zip(self::lines(plan, &[multiple])?) {
            line.points.extend(further.points);
        }
    }
    Ok(LoadCurves {
        simulated: true,
        what: what(args, plan),
        load_title: "load, requests/s".to_owned(),
        aim,
        lines,
    })
}

/// A line per policy, with a point per multiple of the workload.
fn lines(plan: &Plan, multiples: &[f64]) -> anyhow::Result<Vec<LoadLine>> {
    let swept = sweep(plan, multiples, SEEDS)?;
    let policies = plan.policies.iter().zip(&swept.reports);
    let lines = policies.map(|(contender, points)| LoadLine {
        name: contender.name().to_owned(),
        points: swept
            .multiples
            .iter()
            .zip(points)
            .map(|(multiple, seeds)| LoadPoint {
                load: multiple * swept.rate,
                attainment: seeds.iter().filter_map(|seed| seed.attainment).collect(),
                goodput: seeds.iter().map(|seed| seed.goodput).collect(),
            })
            .collect(),
    });
    Ok(lines.collect())
}

/// Whether a policy is under the aim at the largest load, on the mean of the seeds.
fn has_fallen(line: &LoadLine, aim: f64) -> bool {
    let last = line
        .points
        .last()
        .map_or(&[][..], |point| &point.attainment);
    last.is_empty() || last.iter().sum::<f64>() < aim * last.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_has_fallen_where_the_largest_load_is_not_held() {
        let line = |last: [f64; 2]| LoadLine {
            name: "edf".to_owned(),
            points: [[0.5, 0.5], last]
                .map(|attainment| LoadPoint {
                    load: 1.0,
                    attainment: attainment.to_vec(),
                    goodput: vec![1.0, 1.0],
                })
                .to_vec(),
        };
        assert!(has_fallen(&line([1.0, 0.9]), 0.99));
        assert!(!has_fallen(&line([1.0, 0.98]), 0.99));
    }
}

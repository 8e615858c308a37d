//! Whether every model of the zoo answers as on the CPU in each precision, and how long it takes.

use super::stage::{Host, OnStage, Place, Ran, Stage, items, median, micros};
use crate::gpu_check::compare::apart;
use crate::gpu_check::report::{Answer, Budget, Verdict};
use fugato_core::{Nanos, PartitionId};
use fugato_device::{
    AnyDevice, GpuTuning, LoadOptions, OutputTensor, Precision, RequestInputs, TensorData,
};
use fugato_zoo::ZooModel;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Instant;

/// Largest deviation over the largest value of an output that is the same answer, in 32-bit
/// floats: other kernels add in another order, and deep models add up such differences.
const SAME: f64 = 1e-3;

/// The same of a model in half precision, whose sums and products have three digits.
const SAME_HALF: f64 = 5e-2;

/// Items that the CPU answers at once. What else is in a batch must not matter, so its answers
/// are those to expect in batches of any size.
const REFERENCE_BATCH: u32 = 8;

/// What is tried.
pub(super) struct Plan {
    /// In the order they are tried.
    pub(super) models: Vec<&'static ZooModel>,
    /// All models in the first before any in the next.
    pub(super) precisions: Vec<Precision>,
    /// Rising.
    pub(super) batches: Vec<u32>,
    /// Runs of which the median counts.
    pub(super) rounds: usize,
}

impl Plan {
    fn largest(&self) -> u32 {
        self.batches.last().copied().unwrap_or(1)
    }
}

/// What became of a model in a precision at a batch.
struct Row {
    model: &'static str,
    precision: Precision,
    batch: u32,
    found: Result<Found, String>,
}

struct Found {
    deviation: f64,
    /// The run by itself, with graphs allowed and operator by operator.
    graphs: Nanos,
    eager: Nanos,
    /// Whether all runs with graphs allowed were by graphs: else they were eager too.
    is_captured: bool,
    /// From the moment the lane took the batch up until its results lay in memory.
    leg: Nanos,
}

/// A model that was tried in a precision.
struct Tried {
    rows: Vec<Row>,
    load_s: f64,
}

pub(super) fn run<D: Host>(
    stage: &mut Stage<D>,
    cpu: &mut Stage<AnyDevice>,
    plan: &Plan,
    budget: &mut Budget<'_>,
) -> anyhow::Result<Answer> {
    let mut all = Vec::new();
    // By place of the model: what the CPU says is asked once.
    let mut known: Vec<Result<Cases, String>> = Vec::new();
    for &precision in &plan.precisions {
        for (place, zoo) in plan.models.iter().enumerate() {
            if budget.is_spent() {
                return Ok(answer(&all, plan));
            }
            if place == known.len() {
                let cases = Cases::of(cpu, zoo, plan.largest());
                known.push(cases.map_err(|error| format!("{error:#}")));
            }
            let tried = known[place].as_ref().map_err(String::clone);
            let tried = tried.and_then(|cases| {
                let tried = one(stage, plan, cases, precision);
                tried.map_err(|error| format!("{error:#}"))
            });
            all.push(tried.unwrap_or_else(|error| Tried::failed(plan, (zoo, precision), &error)));
            budget.keep(answer(&all, plan))?;
        }
    }
    Ok(answer(&all, plan))
}

impl Tried {
    /// A model that could not be tried at all.
    fn failed(plan: &Plan, of: (&'static ZooModel, Precision), error: &str) -> Self {
        let failed = |&batch| Row {
            model: of.0.name,
            precision: of.1,
            batch,
            found: Err(error.to_owned()),
        };
        Self {
            rows: plan.batches.iter().map(failed).collect(),
            load_s: 0.0,
        }
    }
}

/// A model with what it is given.
struct Cases {
    zoo: &'static ZooModel,
    items: Vec<RequestInputs>,
    /// What the CPU answers to each item in 32 bits.
    expected: Vec<Vec<OutputTensor>>,
}

impl Cases {
    fn of(cpu: &mut Stage<AnyDevice>, zoo: &'static ZooModel, count: u32) -> anyhow::Result<Self> {
        let items = items(zoo, count)?;
        Ok(Self {
            expected: expected(cpu, zoo, &items)?,
            zoo,
            items,
        })
    }
}

fn one<D: Host>(
    stage: &mut Stage<D>,
    plan: &Plan,
    cases: &Cases,
    precision: Precision,
) -> anyhow::Result<Tried> {
    let mut found = Vec::new();
    let mut load_s = 0.0;
    for graphs in [true, false] {
        let options = LoadOptions {
            max_batch: plan.largest(),
            slots: 1,
            gpu: GpuTuning {
                graphs,
                tf32: false,
                ..GpuTuning::default()
            },
            ..LoadOptions::default()
        };
        let begun = Instant::now();
        let model = stage.load_in(cases.zoo, precision, &options)?;
        if graphs {
            load_s = begun.elapsed().as_secs_f64();
        }
        let of_batches = plan.batches.iter().map(|&batch| {
            let items = &cases.items[..batch as usize];
            at(stage, &model, (items, &cases.expected), plan.rounds)
        });
        found.push(of_batches.collect::<Vec<_>>());
        stage.unload(&model);
    }
    let eager = found.pop().unwrap_or_default();
    let captured = found.pop().unwrap_or_default();
    let rows = plan.batches.iter().zip(captured).zip(eager);
    let rows = rows.map(|((&batch, captured), eager)| {
        let both = captured.and_then(|captured| Ok((captured, eager?)));
        let found = both.map(|(captured, eager)| Found {
            deviation: captured.deviation.max(eager.deviation),
            graphs: captured.run,
            eager: eager.run,
            is_captured: captured.is_captured,
            leg: captured.leg,
        });
        Row {
            model: cases.zoo.name,
            precision,
            batch,
            found: found.map_err(|error| format!("{error:#}")),
        }
    });
    Ok(Tried {
        rows: rows.collect(),
        load_s,
    })
}

/// What the CPU answers to each item.
fn expected(
    cpu: &mut Stage<AnyDevice>,
    zoo: &'static ZooModel,
    items: &[RequestInputs],
) -> anyhow::Result<Vec<Vec<OutputTensor>>> {
    let options = LoadOptions {
        max_batch: REFERENCE_BATCH,
        slots: 1,
        ..LoadOptions::default()
    };
    let model = cpu.load(zoo, &options)?;
    let mut expected = Vec::new();
    for chunk in items.chunks(REFERENCE_BATCH as usize) {
        expected.extend(cpu.run(&model, Place::of(PartitionId(0)), chunk)?.outputs);
    }
    cpu.unload(&model);
    Ok(expected)
}

/// A batch in one way of running it.
struct Timed {
    deviation: f64,
    is_captured: bool,
    run: Nanos,
    leg: Nanos,
}

fn at<D: Host>(
    stage: &mut Stage<D>,
    model: &OnStage,
    (items, expected): (&[RequestInputs], &[Vec<OutputTensor>]),
    rounds: usize,
) -> anyhow::Result<Timed> {
    let place = Place::of(PartitionId(0));
    let first = stage.run(model, place, items)?;
    let mut deviation = deviation(&first.outputs, expected)?;
    let captured = |stage: &Stage<D>| stage.device.metrics().legs_captured;
    let before = captured(stage);
    let ran: Result<Vec<Ran>, _> = (0..rounds.max(1))
        .map(|_| stage.run(model, place, items))
        .collect();
    let ran = ran?;
    let replays = captured(stage).saturating_sub(before);
    // The last one too: a graph may answer another time than it did the first.
    if let Some(last) = ran.last() {
        deviation = deviation.max(self::deviation(&last.outputs, expected)?);
    }
    Ok(Timed {
        deviation,
        is_captured: replays == ran.len() as u64,
        run: median(ran.iter().map(|ran| ran.split.infer).collect()),
        leg: median(ran.iter().map(Ran::took).collect()),
    })
}

/// The largest deviation of an output over its largest value, over all items of a batch.
pub(super) fn deviation(
    found: &[Vec<OutputTensor>],
    expected: &[Vec<OutputTensor>],
) -> anyhow::Result<f64> {
    let Some(first) = found.first() else {
        anyhow::bail!("there are no answers");
    };
    let mut worst = 0.0_f64;
    for output in 0..first.len() {
        let all = |items: &[Vec<OutputTensor>]| -> anyhow::Result<Vec<f32>> {
            let mut values = Vec::new();
            for item in items.iter().take(found.len()) {
                let tensor = item.get(output);
                let tensor = tensor.ok_or_else(|| anyhow::anyhow!("output {output} is missing"))?;
                values.extend(floats(tensor)?);
            }
            Ok(values)
        };
        let (found, expected) = (all(found)?, all(expected)?);
        anyhow::ensure!(
            found.len() == expected.len(),
            "output {output} has {} values, expected {}",
            found.len(),
            expected.len()
        );
        worst = worst.max(apart(&found, &expected)?);
    }
    Ok(worst)
}

fn floats(tensor: &OutputTensor) -> anyhow::Result<Vec<f32>> {
    let TensorData::Raw(bytes) = &tensor.data else {
        anyhow::bail!("an answer is of strings");
    };
    let (words, _) = bytes.as_chunks::<4>();
    let floats = words.iter().map(|&word| f32::from_le_bytes(word));
    Ok(floats.collect())
}

fn answer(all: &[Tried], plan: &Plan) -> Answer {
    let rows = || all.iter().flat_map(|tried| &tried.rows);
    let faults: Vec<String> = rows().filter_map(fault).collect();
    let found = || rows().filter_map(|row| row.found.as_ref().ok());
    let added = median(found().map(added).collect());
    let is_whole = all.len() == plan.models.len() * plan.precisions.len();
    let eager: BTreeSet<&str> = all.iter().filter_map(fell_back).collect();
    let captured = match eager.is_empty() {
        true => String::new(),
        false => {
            let names: Vec<&str> = eager.into_iter().collect();
            format!("; graphs were allowed and not used by {}", names.join(", "))
        }
    };
    let counts = plan.precisions.iter().map(|&precision| {
        let of = |tried: &&Tried| tried.rows.iter().any(|row| row.precision == precision);
        let (count, models) = (all.iter().filter(of).count(), plan.models.len());
        format!("{count} of {models} models in {precision}")
    });
    let counts: Vec<String> = counts.collect();
    let tried = format!("{} at batches {:?}", counts.join(" and "), plan.batches);
    let worst = plan.precisions.iter().map(|&precision| {
        let of = rows().filter(|row| row.precision == precision);
        let worst = of
            .filter_map(|row| Some(row.found.as_ref().ok()?.deviation))
            .fold(0.0_f64, f64::max);
        (precision, worst)
    });
    let worst: Vec<(Precision, f64)> = worst.collect();
    let told = worst.iter().map(|&(precision, worst)| {
        let same = same(precision);
        format!("{worst:.1e} in {precision} (expected {same:.0e} at most)")
    });
    let told: Vec<String> = told.collect();
    Answer {
        verdict: match (faults.is_empty(), is_whole) {
            (true, true) => Verdict::Holds,
            (true, false) => Verdict::Unknown,
            (false, _) => Verdict::Fails,
        },
        words: match faults.as_slice() {
            [] => format!(
                "{tried}, largest deviation {}; the device adds {:.0} us to a run{captured}",
                told.join(", "),
                micros(added)
            ),
            faults => format!("{tried}: {}", faults.join("; ")),
        },
        facts: json!({
            "largest_deviation": worst
                .iter()
                .map(|(precision, worst)| (precision.to_string(), json!(worst)))
                .collect::<serde_json::Map<_, _>>(),
            "added_us": micros(added),
            "models": all.iter().map(facts).collect::<Vec<_>>(),
        }),
    }
}

/// What a model's answers in a precision may differ by.
fn same(precision: Precision) -> f64 {
    match precision {
        Precision::Fp32 => SAME,
        Precision::Fp16 => SAME_HALF,
    }
}

/// What is wrong with a row.
fn fault(row: &Row) -> Option<String> {
    let Row {
        model,
        precision,
        batch,
        found,
    } = row;
    let place = match precision {
        Precision::Fp32 => format!("{model} at batch {batch}"),
        Precision::Fp16 => format!("{model} in fp16 at batch {batch}"),
    };
    match found {
        Ok(found) if found.deviation <= same(*precision) => None,
        Ok(found) => Some(format!("{place} deviates by {:.1e}", found.deviation)),
        Err(error) => Some(format!("{place}: {error}")),
    }
}

/// The model, where runs of it were eager though graphs were allowed.
fn fell_back(tried: &Tried) -> Option<&'static str> {
    let mut rows = tried.rows.iter();
    let row = rows.find(|row| matches!(&row.found, Ok(found) if !found.is_captured))?;
    Some(row.model)
}

/// What a leg takes besides the run: copies, and what the host does.
fn added(found: &Found) -> Nanos {
    found.leg.saturating_sub(found.graphs)
}

fn facts(tried: &Tried) -> Value {
    let rows = tried.rows.iter().map(|row| match &row.found {
        Ok(found) => json!({
            "batch": row.batch,
            "deviation": found.deviation,
            "captured": found.is_captured,
            "graphs_us": micros(found.graphs),
            "eager_us": micros(found.eager),
            "leg_us": micros(found.leg),
            "added_us": micros(added(found)),
        }),
        Err(error) => json!({ "batch": row.batch, "error": error }),
    });
    json!({
        "model": tried.rows.first().map(|row| row.model),
        "precision": tried.rows.first().map(|row| row.precision.to_string()),
        "load_s": tried.load_s,
        "batches": rows.collect::<Vec<_>>(),
    })
}

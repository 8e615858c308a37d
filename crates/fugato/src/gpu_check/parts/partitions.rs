//! How models run on a part of the multiprocessors.

use crate::gpu_check::bench::{Bench, micros};
use crate::gpu_check::report::{Answer, Budget, Verdict};
use serde_json::{Value, json};

const MODELS: [&str; 3] = ["mobilenet_v2", "resnet50", "bert-base"];
const BATCHES: [u32; 3] = [1, 8, 32];

/// Into how many parts the device is divided; a model runs on one of them.
const DIVISIONS: [u32; 4] = [1, 2, 4, 8];

/// A half of the device may take this many times as long as the whole: 2 where kernels fill
/// it, and more only where a kernel that was chosen for the whole is a bad choice for a half.
const MOST: f64 = 2.3;

pub(super) fn run(bench: &Bench, budget: &mut Budget<'_>) -> anyhow::Result<Answer> {
    let mut rows = Vec::new();
    let mut worst = (0.0_f64, String::new());
    for (name, batch) in MODELS
        .into_iter()
        .flat_map(|name| BATCHES.map(|batch| (name, batch)))
    {
        if budget.is_spent() {
            break;
        }
        let mut times = Vec::new();
        for division in DIVISIONS {
            let partition = match division {
                1 => bench.whole()?,
                parts => bench.parts(parts)?.swap_remove(0),
            };
            let stream = partition.stream(0)?;
            let graph = bench.graph(name, batch, &stream)?;
            times.push((partition.sms(), bench.time(&graph, &stream)?));
        }
        let over = times[1].1.as_secs_f64() / times[0].1.as_secs_f64();
        if over > worst.0 {
            worst = (over, format!("{name} at batch {batch}"));
        }
        let times = times
            .iter()
            .map(|(sms, time)| json!({ "sms": sms, "us": micros(*time) }));
        rows.push(json!({
            "model": name,
            "batch": batch,
            "half_over_whole": over,
            "times": times.collect::<Vec<_>>(),
        }));
        budget.keep(answer(&rows, &worst))?;
    }
    Ok(answer(&rows, &worst))
}

fn answer(rows: &[Value], (worst, of): &(f64, String)) -> Answer {
    let all = MODELS.len() * BATCHES.len();
    Answer {
        verdict: match (*worst <= MOST, rows.len() == all) {
            (false, _) => Verdict::Fails,
            (true, true) => Verdict::Holds,
            (true, false) => Verdict::Unknown,
        },
        words: format!(
            "in {} of {all} runs a half takes at most {worst:.2} times as long as the whole, {of} \
             (expected {MOST} at most)",
            rows.len()
        ),
        facts: json!({ "runs": rows }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_half_that_takes_too_long_fails_and_all_have_to_be_tried() {
        let rows = |count| vec![Value::Null; count];
        let of = |over| (over, "resnet50 at batch 8".to_owned());
        assert_eq!(answer(&rows(9), &of(MOST)).verdict, Verdict::Holds);
        assert_eq!(answer(&rows(8), &of(MOST)).verdict, Verdict::Unknown);
        assert_eq!(answer(&rows(1), &of(MOST + 0.1)).verdict, Verdict::Fails);
    }
}

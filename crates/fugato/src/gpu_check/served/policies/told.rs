//! What is said of the mixes that were tried.

use super::{BASELINE, LeftOut, MixFound, OBJECTIVE, OURS, Plan, WANTED};
use crate::gpu_check::report::{Answer, Verdict};
use fugato_core::capacity::LargestSettings;
use fugato_core::device::DeviceSpec;
use serde_json::{Value, json};

pub(super) fn answer(
    found: &[MixFound],
    left_out: &[LeftOut],
    plan: &Plan,
    device: &DeviceSpec,
) -> Answer {
    let judged: Vec<_> = found
        .iter()
        .map(|mix| (mix, judge(mix, &plan.search)))
        .collect();
    let lost = || judged.iter().filter(|(_, won)| *won == Some(false));
    let is_whole = judged.iter().all(|(_, won)| won.is_some())
        && left_out.is_empty()
        && found.len() == plan.mixes.len();
    let errors: Vec<String> = found
        .iter()
        .flat_map(|mix| {
            let held = mix.held.iter();
            held.filter_map(|held| {
                let error = held.error.as_ref()?;
                Some(format!("{} on {}: {error}", held.policy, mix.name))
            })
        })
        .chain(left_out.iter().filter_map(|left| {
            let why = &left.why;
            left.is_fault.then(|| why.clone())
        }))
        .collect();
    let unmeasured = left_out.iter().filter(|left| !left.is_fault);
    let unmeasured: Vec<String> = unmeasured.map(|left| left.why.clone()).collect();
    let mixes: Vec<String> = found.iter().map(words).collect();
    Answer {
        verdict: match (lost().next().is_some() || !errors.is_empty(), is_whole) {
            (true, _) => Verdict::Fails,
            (false, true) => Verdict::Holds,
            (false, false) => Verdict::Unknown,
        },
        words: [mixes, errors, unmeasured].concat().join("; "),
        facts: json!({
            "attainment": WANTED,
            "objective": format!("{OBJECTIVE} times the latency alone at the knee"),
            "seconds": plan.duration.as_secs_f64(),
            "left_out": left_out.iter().map(|left| &left.why).collect::<Vec<_>>(),
            "partitions": device.partitions.iter().map(|part| part.share().0).collect::<Vec<_>>(),
            "mixes": found.iter().map(facts).collect::<Vec<_>>(),
        }),
    }
}

/// Whether ours held as much as the baseline, as far as the search tells loads apart; `None`
/// where either is not known.
fn judge(mix: &MixFound, search: &LargestSettings) -> Option<bool> {
    let held = |name: &str| {
        let mut all = mix.held.iter();
        let held = all.find(|held| held.policy == name && held.is_settled)?;
        // The smallest load that was tried, where not even that was held.
        Some(held.measured.holds.unwrap_or(0.0))
    };
    let (ours, theirs) = (held(OURS)?, held(BASELINE)?);
    // Where neither held any load, something else is wrong.
    Some(ours > 0.0 && ours * (1.0 + search.tolerance) >= theirs)
}

fn words(mix: &MixFound) -> String {
    let held = mix.held.iter().map(|held| {
        let simulated = mix.simulated.get(&held.policy).copied().flatten();
        format!(
            "{} {}{}",
            held.policy,
            held.measured
                .holds
                .map_or_else(|| "none".to_owned(), |holds| format!("{holds:.2}")),
            simulated.map_or_else(String::new, |said| format!(" (simulated {said:.2})"))
        )
    });
    format!("{}: {}", mix.name, held.collect::<Vec<_>>().join(", "))
}

fn facts(mix: &MixFound) -> Value {
    let policies = mix.held.iter().map(|held| {
        json!({
            "policy": held.policy,
            "holds": held.measured.holds,
            "fails": held.measured.fails,
            "rate": held.measured.holds.map(|holds| holds * mix.rate),
            "settled": held.is_settled,
            "simulated": mix.simulated.get(&held.policy).copied().flatten(),
            "error": held.error,
            "probes": held.probes,
        })
    });
    json!({
        "mix": mix.name,
        "workload": mix.workload,
        "policies": policies.collect::<Vec<_>>(),
        "ideal_simulated": mix.simulated.get("ideal").copied().flatten(),
        "simulation_error": mix.simulation_error,
    })
}

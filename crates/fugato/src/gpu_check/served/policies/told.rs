//! What is said of the mixes that were tried.

use super::aims::{Claim, Outcome};
use super::{LeftOut, MixFound, OBJECTIVE, Plan, WANTED, Way, label};
use crate::gpu_check::report::{Answer, Verdict};
use fugato_core::device::DeviceSpec;
use serde_json::{Value, json};

pub(super) fn answer(
    found: &[MixFound],
    left_out: &[LeftOut],
    plan: &Plan,
    device: &DeviceSpec,
) -> Answer {
    let claims: Vec<Vec<Claim>> = found.iter().map(|mix| claims(mix, plan)).collect();
    let all = || claims.iter().flatten();
    let fails = all().any(|claim| claim.outcome == Outcome::Misses);
    let is_whole = all().all(|claim| claim.outcome == Outcome::Holds)
        && left_out.is_empty()
        && found.len() == plan.mixes.len();
    let errors: Vec<String> = found
        .iter()
        .flat_map(|mix| {
            let held = mix.held.iter();
            held.filter_map(|held| {
                let error = held.error.as_ref()?;
                Some(format!("{} on {}: {error}", held.label(), mix.name))
            })
        })
        .chain(left_out.iter().filter_map(|left| {
            let why = &left.why;
            left.is_fault.then(|| why.clone())
        }))
        .collect();
    let unmeasured = left_out.iter().filter(|left| !left.is_fault);
    let unmeasured: Vec<String> = unmeasured.map(|left| left.why.clone()).collect();
    let tried = found.iter().zip(&claims);
    let mixes: Vec<String> = tried
        .clone()
        .map(|(mix, claims)| words(mix, claims))
        .collect();
    let not_reached = not_reached(found, left_out, plan);
    Answer {
        verdict: match (fails || !errors.is_empty(), is_whole) {
            (true, _) => Verdict::Fails,
            (false, true) => Verdict::Holds,
            (false, false) => Verdict::Unknown,
        },
        words: [mixes, errors, unmeasured, not_reached.clone()]
            .concat()
            .join("; "),
        facts: json!({
            "attainment": WANTED,
            "objective": format!("{OBJECTIVE} times the latency alone at the knee"),
            "seconds": plan.duration.as_secs_f64(),
            "not_reached": not_reached,
            "left_out": left_out.iter().map(|left| &left.why).collect::<Vec<_>>(),
            "partitions": device.partitions.iter().map(|part| part.share().0).collect::<Vec<_>>(),
            "mixes": tried.map(|(mix, claims)| facts(mix, claims)).collect::<Vec<_>>(),
        }),
    }
}

/// What is asked of a mix that was tried.
fn claims(mix: &MixFound, plan: &Plan) -> Vec<Claim> {
    let tolerance = plan.search.tolerance;
    let aims = plan.aims.iter();
    aims.map(|aim| aim.judge(mix, &plan.policies, tolerance))
        .collect()
}

/// What the time did not suffice for: policies by mix, and mixes.
fn not_reached(found: &[MixFound], left_out: &[LeftOut], plan: &Plan) -> Vec<String> {
    let missing = found.iter().filter_map(|mix| {
        let ways = [Way::Whole, Way::InLegs].into_iter();
        let all = ways.flat_map(|way| plan.policies.iter().map(move |policy| (policy, way)));
        let due = all.filter(|(policy, way)| mix.is_due(policy, *way));
        let policies: Vec<String> = due.map(|(policy, way)| label(policy, way)).collect();
        let policies = policies.join(", ");
        (!policies.is_empty()).then(|| format!("{}: not reached {policies}", mix.name))
    });
    // Mixes are tried in order, and one that is left out says why.
    let mixes = plan.mixes.iter().skip(found.len() + left_out.len());
    let mixes: Vec<&str> = mixes.map(|mix| mix.name.as_str()).collect();
    let mixes = (!mixes.is_empty()).then(|| format!("not reached: {}", mixes.join(", ")));
    missing.chain(mixes).collect()
}

fn words(mix: &MixFound, claims: &[Claim]) -> String {
    let held = mix.held.iter().map(|held| {
        let label = held.label();
        let simulated = mix.simulated.get(&label).copied().flatten();
        format!(
            "{label} {}{}",
            held.measured
                .holds
                .map_or_else(|| "none".to_owned(), |holds| format!("{holds:.2}")),
            simulated.map_or_else(String::new, |said| format!(" (simulated {said:.2})"))
        )
    });
    let held = held.collect::<Vec<_>>().join(", ");
    let claims = claims.iter().map(|claim| format!("; {}", claim.words()));
    let legs = mix.legs_left_out.as_ref();
    let legs = legs.map_or_else(String::new, |why| format!("; not in legs: {why}"));
    let pieces = match mix.in_one_piece.as_slice() {
        [] => String::new(),
        names => format!("; in one piece though it has legs: {}", names.join(", ")),
    };
    let claims = claims.collect::<String>();
    format!("{}: {held}{claims}{legs}{pieces}", mix.name)
}

fn facts(mix: &MixFound, claims: &[Claim]) -> Value {
    let policies = mix.held.iter().map(|held| {
        json!({
            "policy": held.policy,
            "in_legs": held.way == Way::InLegs,
            "holds": held.measured.holds,
            "fails": held.measured.fails,
            "rate": held.measured.holds.map(|holds| holds * mix.rate),
            "settled": held.is_settled,
            "simulated": mix.simulated.get(&held.label()).copied().flatten(),
            "error": held.error,
            "probes": held.probes,
        })
    });
    json!({
        "mix": mix.name,
        "workload": mix.workload,
        "policies": policies.collect::<Vec<_>>(),
        "aims": claims.iter().map(Claim::facts).collect::<Vec<_>>(),
        "legs_left_out": mix.legs_left_out,
        "in_one_piece": mix.in_one_piece,
        "not_simulated": mix.unsimulated,
        "ideal_error": mix.ideal_error,
        "ideal_simulated": mix.simulated.get("ideal").copied().flatten(),
        "simulation_error": mix.simulation_error,
    })
}

//! One simulation: policies side by side on the same requests.

use super::html::{Page, number, percent, ratio};
use crate::plots::inline::Bars;
use fugato_core::sched::DeadlineMode;
use fugato_core::sim::Setup;
use serde::Deserialize;

/// The schema of [`Simulation`].
pub(super) const SCHEMA: &str = "fugato.simulation/1";

/// What a page shows of the report of `fugato simulate`; the rest of it is passed over.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Simulation {
    pub(super) seed: u64,
    /// The profiled device.
    pub(super) profile: Option<String>,
    /// Whether the profile itself was computed.
    #[serde(default)]
    synthetic: bool,
    pub(super) devices: Option<u32>,
    pub(super) slices: Option<u16>,
    pub(super) duration_s: Option<f64>,
    /// Absent in reports that were written before it was.
    #[serde(flatten)]
    pub(super) setup: Option<Setup>,
    pub(super) policies: Vec<Policy>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Policy {
    pub(super) policy: String,
    pub(super) goodput: f64,
    pub(super) attainment: Option<f64>,
    pub(super) utilisation: f64,
    pub(super) occupancy: f64,
    pub(super) jain: f64,
    rejected: u64,
    #[serde(default)]
    dropped: u64,
    #[serde(default)]
    failed: u64,
    late: u64,
    models: Vec<Model>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Model {
    name: String,
    requests: u64,
    goodput: f64,
    attainment: Option<f64>,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    mean_batch: Option<f64>,
}

/// Adds all that is known of a simulation.
pub(super) fn section(page: &mut Page, simulation: &Simulation) {
    page.heading("What was simulated");
    page.facts(&facts(simulation));
    page.heading("By policy");
    let head = [
        "policy",
        "goodput/s",
        "of the first",
        "in time",
        "utilisation",
        "occupancy",
        "Jain",
        "late",
        "refused",
        "dropped",
        "failed",
    ];
    let first = simulation.policies.first().map(|policy| policy.goodput);
    let rows = simulation.policies.iter().map(|policy| {
        vec![
            policy.policy.clone(),
            number(policy.goodput, 1),
            ratio(Some(policy.goodput), first),
            percent(policy.attainment),
            percent(policy.utilisation),
            percent(policy.occupancy),
            number(policy.jain, 3),
            policy.late.to_string(),
            policy.rejected.to_string(),
            policy.dropped.to_string(),
            policy.failed.to_string(),
        ]
    });
    page.table(&head, &rows.collect::<Vec<_>>());
    page.note(
        "SIMULATED. Occupancy: slices held over time; utilisation: held up to the model's knee; \
         both over what the devices have. Jain's index of the models' device time: 1 where all \
         had the same. Refused: on arrival; dropped: accepted, and given up before it ran; all of \
         late, refused, dropped and failed missed.",
    );
    charts(page, simulation);
    for policy in &simulation.policies {
        page.folded(
            &format!("{}: by model (simulated)", policy.policy),
            |page| {
                models(page, policy);
            },
        );
    }
}

fn facts(simulation: &Simulation) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some(setup) = &simulation.setup {
        facts.push(("workload", workload(setup)));
    }
    if let Some(profile) = &simulation.profile {
        let kind = if simulation.synthetic {
            "computed profile (synthetic)"
        } else {
            "measured profile"
        };
        facts.push(("profile", format!("{profile}, {kind}")));
    }
    if let (Some(devices), Some(slices)) = (simulation.devices, simulation.slices) {
        facts.push(("devices", format!("{devices}, of {slices} slices")));
    }
    if let Some(seconds) = simulation.duration_s {
        facts.push(("time", format!("{seconds:.1} s, simulated")));
    }
    facts.push(("seed", simulation.seed.to_string()));
    if let Some(setup) = &simulation.setup {
        facts.push((
            "in flight",
            format!(
                "up to {} tasks of a model (slots), {} under `uncontrolled` (instances)",
                setup.slots, setup.instances
            ),
        ));
        facts.push((
            "overheads",
            format!(
                "{} us to launch a leg, {} us between two (boundary)",
                setup.launch_us, setup.boundary_us
            ),
        ));
        facts.push(("deadlines", deadlines(setup.deadlines).to_owned()));
        let noise = match setup.noise {
            true => "as the profile's times vary",
            false => "none: every run takes its median time",
        };
        facts.push(("noise", noise.to_owned()));
    }
    facts
}

/// The name of the workload, and what it asked of each model.
fn workload(setup: &Setup) -> String {
    let scale = match setup.scale {
        1.0 => String::new(),
        scale => format!(" at {scale} times its rates"),
    };
    let loads = setup.loads.iter().map(|load| {
        let rate = match load.rate {
            Some(rate) => format!("{rate:.1}/s"),
            None => "queue kept full".to_owned(),
        };
        format!("{} {rate} in {} ms", load.name, load.slo_ms)
    });
    let loads: Vec<String> = loads.collect();
    format!("{}{scale}: {}", setup.workload, loads.join(", "))
}

pub(super) const fn deadlines(mode: DeadlineMode) -> &'static str {
    match mode {
        DeadlineMode::Enforce => "enforced: what cannot be in time is refused or dropped",
        DeadlineMode::Observe => "observed: all is run",
    }
}

fn charts(page: &mut Page, simulation: &Simulation) {
    let bars = |title, unit, full, aim, value: fn(&Policy) -> Option<f64>| {
        let rows = simulation.policies.iter();
        let rows = rows.filter_map(|policy| Some((policy.policy.clone(), vec![value(policy)?])));
        let bars = Bars {
            title,
            unit,
            parts: vec![title.to_owned()],
            rows: rows.collect(),
            full,
            aim,
        };
        bars.svg()
    };
    page.charts(&[
        (
            "Goodput by policy (simulated)",
            bars("goodput", "/s", None, None, |policy| Some(policy.goodput)),
        ),
        (
            "Attainment by policy (simulated); the line is at 99 %",
            bars("attainment", "%", Some(100.0), Some(99.0), |policy| {
                policy.attainment.map(|part| part * 100.0)
            }),
        ),
        (
            "Utilisation by policy (simulated)",
            bars("utilisation", "%", Some(100.0), None, |policy| {
                Some(policy.utilisation * 100.0)
            }),
        ),
    ]);
}

fn models(page: &mut Page, policy: &Policy) {
    let head = [
        "model",
        "requests",
        "goodput/s",
        "in time",
        "p50 ms",
        "p99 ms",
        "batch",
    ];
    let rows = policy.models.iter().map(|model| {
        vec![
            model.name.clone(),
            model.requests.to_string(),
            number(model.goodput, 1),
            percent(model.attainment),
            number(model.p50_ms, 2),
            number(model.p99_ms, 2),
            number(model.mean_batch, 2),
        ]
    });
    page.table(&head, &rows.collect::<Vec<_>>());
}

//! Which load the policies hold on the papers' mixes, and what the simulator says of it on the
//! profile that was measured before.
//!
//! The time goes first to the policies that something is asked of, mix by mix; what is left to the
//! others, mix by mix; and the rest to those that choose anew at each leg, with models cut into
//! the legs that were measured. Half of what is left may go into bringing a mix up.

mod aims;
mod mixes;
mod simulated;
mod told;

pub(super) use aims::Aim;
pub(super) use mixes::{MixPlan, mixes};

use super::load::{self, Narrowed, Probe, Served};
use super::stage::{Host, OnStage, Stage};
use crate::gpu_check::report::{Answer, Budget};
use anyhow::Context;
use fugato_core::Nanos;
use fugato_core::capacity::{Capacity, Largest, LargestSettings};
use fugato_core::profile::Profile;
use fugato_core::sched::PolicySpec;
use fugato_core::workload::Workload;
use fugato_device::Device;
use mixes::{bring_up, describe, rate, unmeasured, workload};
use serde_json::{Value, json};
use simulated::{Wanted, simulate};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use told::answer;

/// The part of the requests that has to be answered in time.
const WANTED: f64 = 0.99;

/// A model's objective in its latency alone on the device, at its knee.
const OBJECTIVE: f64 = 3.0;

/// Sets of buffers of a model, as a server gives.
const SLOTS: u16 = 2;

/// The part of the time that is left that bringing a mix up may take: what is not measured then
/// says nothing of the policies.
const READYING: f64 = 0.5;

/// The part of the time that is left that simulating some policies on a mix may take.
const SIMULATING: f64 = 0.2;

/// The policy that the others are held against.
pub(super) const BASELINE: &str = "uncontrolled";

/// The one that has to hold as much as any.
pub(super) const OURS: &str = "fugato";

/// Those that more is asked of than to be no better than ours: they are tried first.
pub(super) const FIRST: [&str; 4] = ["temporal", "dstack", BASELINE, OURS];

/// Those that choose anew at each leg, in the order they are tried so.
const BY_LEGS: [&str; 2] = [OURS, "edf-legs"];

/// All policies in the order they are tried.
pub(super) fn order() -> Vec<String> {
    let others = PolicySpec::NAMES.into_iter();
    let others = others.filter(|name| !FIRST.contains(name));
    FIRST.into_iter().chain(others).map(str::to_owned).collect()
}

/// What is tried.
pub(super) struct Plan {
    /// Of the device and its models.
    pub(super) profile: Profile,
    /// The same where models were measured in legs too, which these are then cut into.
    pub(super) legs: Option<Profile>,
    /// In the order they are tried.
    pub(super) mixes: Vec<MixPlan>,
    /// In the order they are tried.
    pub(super) policies: Vec<String>,
    /// So many of them are tried on every mix before any other.
    pub(super) first: usize,
    /// What is asked of what they hold.
    pub(super) aims: Vec<Aim>,
    /// How a load is searched, in what would fill the device.
    pub(super) search: LargestSettings,
    /// Of one run, after a warm-up of a quarter of it.
    pub(super) duration: Nanos,
}

/// How models are run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Way {
    #[default]
    Whole,
    /// Those with measured legs in these.
    InLegs,
}

/// What a policy held of one mix.
struct Held {
    policy: String,
    way: Way,
    measured: Capacity,
    probes: Vec<Value>,
    /// Whether the search came to its end.
    is_settled: bool,
    error: Option<String>,
}

impl Held {
    fn label(&self) -> String {
        label(&self.policy, self.way)
    }
}

/// What a policy is called where it runs models so.
fn label(policy: &str, way: Way) -> String {
    match way {
        Way::Whole => policy.to_owned(),
        Way::InLegs => format!("{policy} in legs"),
    }
}

/// What came of a mix.
#[derive(Default)]
struct MixFound {
    name: String,
    workload: Value,
    /// Requests per second at a load of one.
    rate: f64,
    held: Vec<Held>,
    /// By label; `ideal` among them.
    simulated: BTreeMap<String, Option<f64>>,
    simulation_error: Option<String>,
    /// Why `ideal` cannot be simulated.
    ideal_error: Option<String>,
    /// Policies that the time did not suffice to simulate.
    unsimulated: Vec<String>,
    /// Whether models of it have legs, so that policies that choose anew at each are tried with
    /// these too.
    has_legs: bool,
    /// Why models that have legs were not run in them.
    legs_left_out: Option<String>,
    /// Models that have legs and were run in one piece all the same, where others were cut.
    in_one_piece: Vec<String>,
}

impl MixFound {
    /// Whether `ideal` is yet to be simulated: once is enough, since it is no policy of a group.
    fn wants_ideal(&self, way: Way) -> bool {
        let is_known = self.simulated.contains_key("ideal") || self.ideal_error.is_some();
        way == Way::Whole && !is_known
    }

    /// Whether a policy is still to be tried, as things are or in legs.
    fn is_due(&self, policy: &str, way: Way) -> bool {
        let mut held = self.held.iter();
        let is_asked = way == Way::Whole || self.has_legs && BY_LEGS.contains(&policy);
        is_asked && !held.any(|held| held.policy == policy && held.way == way)
    }

    /// Notes which of the models that were to be cut run in one piece, where a part of theirs did
    /// not work by itself: by name, with the legs that they were to have and those that they have.
    /// Says whether any is cut; where none is, the mix is not one in legs.
    fn note_pieces<'a>(&mut self, models: impl Iterator<Item = (&'a str, usize, u16)>) -> bool {
        let (cut, whole): (Vec<_>, Vec<_>) =
            models.partition(|&(_, wanted, legs)| wanted == usize::from(legs));
        let names: Vec<String> = whole.iter().map(|(name, ..)| (*name).to_owned()).collect();
        if cut.is_empty() {
            self.has_legs = false;
            self.legs_left_out = Some(format!(
                "a part of {} did not work by itself, so nothing is cut",
                names.join(" and of ")
            ));
            return false;
        }
        self.in_one_piece = names;
        true
    }
}

/// A mix that was not tried.
struct LeftOut {
    why: String,
    /// Not for want of time: it cannot be tried.
    is_fault: bool,
}

/// A mix whose models are on the device.
struct Ready {
    /// Among those found.
    place: usize,
    way: Way,
    served: Vec<Served>,
    workload: Workload,
}

/// A model on the device, and in how many lanes of the whole it has run.
struct Loaded {
    model: OnStage,
    lanes: usize,
}

/// Models on the device: by name, and whether cut.
type AllLoaded = BTreeMap<(String, bool), Loaded>;

/// The part as far as it has come.
struct Course<'a, D: Host> {
    stage: &'a mut Stage<D>,
    device: Arc<Narrowed<D>>,
    plan: &'a Plan,
    loaded: AllLoaded,
    found: Vec<MixFound>,
    left_out: Vec<LeftOut>,
}

pub(super) fn run<D: Host>(
    stage: &mut Stage<D>,
    plan: &Plan,
    budget: &mut Budget<'_>,
) -> anyhow::Result<Answer> {
    let profiles = [Some(&plan.profile), plan.legs.as_ref()];
    let models = profiles.into_iter().flatten();
    let shares: Vec<u16> = models
        .flat_map(|profile| &profile.models)
        .flat_map(|model| model.grid.iter().map(|point| point.share))
        .collect();
    let mut course = Course {
        device: Arc::new(Narrowed::new(&stage.device, &shares)),
        stage,
        plan,
        loaded: BTreeMap::new(),
        found: Vec::new(),
        left_out: Vec::new(),
    };
    let (first, others) = plan.policies.split_at(plan.first.min(plan.policies.len()));
    let mut all = Vec::new();
    for mix in &plan.mixes {
        if budget.is_spent() {
            break;
        }
        if let Some(mix) = course.ready(mix, budget)? {
            course.try_all(&mix, first, budget)?;
            all.push(mix);
        }
    }
    for mix in &all {
        course.try_all(mix, others, budget)?;
    }
    let by_legs = BY_LEGS.map(str::to_owned);
    let by_legs = by_legs.iter().filter(|name| plan.policies.contains(name));
    let by_legs: Vec<String> = by_legs.cloned().collect();
    for mix in &all {
        if let Some(cut) = course.cut(mix, budget) {
            course.try_all(&cut, &by_legs, budget)?;
        }
    }
    course.stage.listen();
    Ok(course.answer())
}

impl<D: Host> Course<'_, D> {
    fn answer(&self) -> Answer {
        answer(&self.found, &self.left_out, self.plan, self.device.spec())
    }

    /// Brings the models of a mix up as they are; `None`, with the reason among what was left out,
    /// where that cannot be.
    fn ready(&mut self, mix: &MixPlan, budget: &Budget<'_>) -> anyhow::Result<Option<Ready>> {
        let plan = self.plan;
        let left_out = |why: String, is_fault| LeftOut { why, is_fault };
        if let Some(name) = unmeasured(mix, &plan.profile) {
            let why = format!("{}: `{name}` is not in the profile", mix.name);
            self.left_out.push(left_out(why, false));
            return Ok(None);
        }
        let until = Instant::now() + budget.left().mul_f64(READYING);
        let profiles = (&plan.profile, None);
        let ready = bring_up(
            self.stage,
            &self.device,
            (&mix.models, profiles),
            &mut self.loaded,
            until,
        );
        self.stage.listen();
        let served = match ready {
            Ok(Some(served)) => served,
            Ok(None) => {
                self.left_out.push(unready(mix));
                return Ok(None);
            }
            Err(error) => {
                let why = format!("{}: {error:#}", mix.name);
                self.left_out.push(left_out(why, true));
                return Ok(None);
            }
        };
        let workload = workload(&served, &plan.profile, plan.duration)?;
        self.found.push(MixFound {
            name: mix.name.clone(),
            workload: workload.models().iter().map(describe).collect(),
            rate: rate(&workload),
            has_legs: plan.legs.as_ref().is_some_and(|legs| {
                let mut served = served.iter();
                served.any(|one| mixes::legs_of(legs, &one.profile).is_some())
            }),
            ..MixFound::default()
        });
        Ok(Some(Ready {
            place: self.found.len() - 1,
            way: Way::Whole,
            served,
            workload,
        }))
    }

    /// Brings a mix up once more with the models that have legs cut into them; `None` where none
    /// has, the time is over, or it cannot be, for which the mix then has the reason.
    fn cut(&mut self, mix: &Ready, budget: &Budget<'_>) -> Option<Ready> {
        let plan = self.plan;
        let legs = plan.legs.as_ref()?;
        let names: Vec<String> = mix.served.iter().map(|one| one.spec.name.clone()).collect();
        let is_cut = |one: &Served| mixes::legs_of(legs, &one.profile).is_some();
        if !mix.served.iter().any(is_cut) {
            return None;
        }
        let until = Instant::now() + budget.left().mul_f64(READYING);
        let profiles = (&plan.profile, Some(legs));
        let ready = bring_up(
            self.stage,
            &self.device,
            (&names, profiles),
            &mut self.loaded,
            until,
        );
        self.stage.listen();
        let why = match ready {
            Ok(Some(served)) => {
                let pieces = mix.served.iter().zip(&served).filter_map(|(whole, cut)| {
                    let (of_legs, _) = mixes::legs_of(legs, &whole.profile)?;
                    Some((&*cut.spec.name, of_legs.legs.len(), cut.spec.legs))
                });
                let found = &mut self.found[mix.place];
                if !found.note_pieces(pieces) {
                    return None;
                }
                return Some(Ready {
                    place: mix.place,
                    way: Way::InLegs,
                    served,
                    workload: mix.workload.clone(),
                });
            }
            Ok(None) => "the time did not suffice to make its models ready in legs".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        self.found[mix.place].legs_left_out = Some(why);
        None
    }

    /// Simulates these policies on a mix, then measures each from there on.
    fn try_all(
        &mut self,
        mix: &Ready,
        policies: &[String],
        budget: &mut Budget<'_>,
    ) -> anyhow::Result<()> {
        if policies.is_empty() || budget.is_spent() {
            return Ok(());
        }
        let wanted = Wanted {
            policies,
            ideal: self.found[mix.place].wants_ideal(mix.way),
            until: Instant::now() + budget.left().mul_f64(SIMULATING),
        };
        let simulated = simulate(self.plan, (mix, &wanted), self.device.spec());
        let found = &mut self.found[mix.place];
        match simulated {
            Ok(simulated) => {
                found.simulated.extend(simulated.held);
                found.ideal_error = found.ideal_error.take().or(simulated.ideal_error);
                let late = simulated.not_reached.iter();
                found
                    .unsimulated
                    .extend(late.map(|name| label(name, mix.way)));
            }
            Err(error) => found.simulation_error = Some(format!("{error:#}")),
        }
        budget.keep(self.answer())?;
        for policy in policies {
            if budget.is_spent() {
                break;
            }
            let found = &self.found[mix.place];
            let expected = found.simulated.get(&label(policy, mix.way));
            let search = match expected.copied().flatten() {
                Some(expected) => self.plan.search.near(expected),
                None => self.plan.search,
            };
            let held = hold(self.stage, &self.device, (policy, mix), search, budget);
            self.found[mix.place].held.push(held);
            budget.keep(self.answer())?;
        }
        Ok(())
    }
}

/// A mix that was not ready in time.
fn unready(mix: &MixPlan) -> LeftOut {
    let part = READYING * 100.0;
    LeftOut {
        why: format!(
            "{}: its models were not ready after {part:.0} % of the time that was left; `--time` \
             gives it more",
            mix.name
        ),
        is_fault: false,
    }
}

/// A policy by its name, with as many lanes as models where it takes lanes.
fn policy(name: &str, models: usize) -> anyhow::Result<PolicySpec> {
    let spec = PolicySpec::named(name).with_context(|| format!("there is no policy `{name}`"))?;
    let lanes = u16::try_from(models).unwrap_or(u16::MAX);
    Ok(if let PolicySpec::Uncontrolled { share, .. } = spec {
        PolicySpec::Uncontrolled { lanes, share }
    } else {
        spec
    })
}

/// Searches the largest load that a policy holds, from where it is expected on.
fn hold<D: Host>(
    stage: &Stage<D>,
    device: &Arc<Narrowed<D>>,
    (name, mix): (&str, &Ready),
    settings: LargestSettings,
    budget: &Budget<'_>,
) -> Held {
    let Ready {
        served,
        workload,
        way,
        ..
    } = mix;
    let mut held = Held {
        policy: name.to_owned(),
        way: *way,
        measured: Capacity::default(),
        probes: Vec::new(),
        is_settled: false,
        error: None,
    };
    let mut search = || -> anyhow::Result<()> {
        let policy = policy(name, served.len())?;
        policy.check(device.spec())?;
        let probe = |load: f64| {
            let workload = workload.scaled(load)?;
            let probe = Probe {
                policy: &policy,
                workload: &workload,
                models: served,
                seed: 1,
            };
            load::run(stage, device, &probe)
        };
        let mut search = Largest::new(settings)?;
        // Lanes that this policy uses and no other run for the first time here.
        probe(settings.start)?;
        while let Some(load) = search.next_probe() {
            if budget.is_spent() {
                held.measured = search.found();
                return Ok(());
            }
            let tally = probe(load)?;
            search.record(tally.holds(WANTED));
            held.measured = search.found();
            held.probes.push(json!({
                "load": load,
                "attainment": tally.attainment(),
                "fault": tally.fault,
                "models": tally.models.iter().map(|model| json!({
                    "requests": model.requests,
                    "in_time": model.in_time,
                    "refused": model.refused,
                    "failed": model.failed,
                    "p50_ms": quantile(&model.latencies, 0.5),
                    "p99_ms": quantile(&model.latencies, 0.99),
                })).collect::<Vec<_>>(),
            }));
        }
        held.is_settled = true;
        Ok(())
    };
    held.error = search().err().map(|error| format!("{error:#}"));
    held
}

/// Milliseconds, by nearest rank.
fn quantile(times: &[Nanos], quantile: f64) -> Option<f64> {
    let mut times = times.to_vec();
    times.sort_unstable();
    let rank = (quantile * times.len() as f64).ceil() as usize;
    let time = times.get(rank.clamp(1, times.len().max(1)) - 1)?;
    Some(time.as_millis_f64())
}

#[cfg(test)]
mod tests;

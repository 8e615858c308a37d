//! What the simulator says of a mix on the profile that was measured.

use super::{Plan, Ready, SLOTS, WANTED, label, policy, rate};
use crate::simulation::{self, Contender};
use fugato_core::Nanos;
use fugato_core::device::DeviceSpec;
use fugato_core::sched::DeadlineMode;
use fugato_core::sim::{Overheads, Scenario, SimOptions};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::thread::available_parallelism;
use std::time::Instant;

/// Requests that are simulated at a load of one, as far as that is within what is measured and
/// [`LONGEST`]: enough to tell 99 % by, and no more than takes a moment.
const REQUESTS: f64 = 20_000.0;

/// The longest time that is simulated.
const LONGEST: Nanos = Nanos::from_millis(5_000);

/// The largest loads that are held, in multiples of the workload.
#[derive(Debug, Default)]
pub(super) struct Simulated {
    /// By label, `ideal` among them; `None`: not even the smallest.
    pub(super) held: BTreeMap<String, Option<f64>>,
    /// Why `ideal` cannot be simulated.
    pub(super) ideal_error: Option<String>,
    /// The policies that the time did not suffice for.
    pub(super) not_reached: Vec<String>,
}

/// What is simulated of a mix.
pub(super) struct Wanted<'a> {
    pub(super) policies: &'a [String],
    /// Whether `ideal` is, after them.
    pub(super) ideal: bool,
    /// No search begins after this; one that has begun comes to its end.
    pub(super) until: Instant,
}

/// The largest load that the simulator says each of these policies holds on a mix.
pub(super) fn simulate(
    plan: &Plan,
    (mix, wanted): (&Ready, &Wanted<'_>),
    device: &DeviceSpec,
) -> anyhow::Result<Simulated> {
    let &Wanted {
        policies,
        ideal,
        until,
    } = wanted;
    let workload = &mix.workload;
    let models = workload.models().len();
    let contender = |name: &String| -> anyhow::Result<Contender> {
        Ok(Contender::Policy {
            spec: policy(name, models)?,
            label: label(name, mix.way),
        })
    };
    let mut profile = plan.profile.clone();
    for served in &mix.served {
        let mut models = profile.models.iter_mut();
        if let Some(known) = models.find(|model| model.name == served.profile.name) {
            known.clone_from(&served.profile);
        }
    }
    let overheads = Overheads {
        launch: profile.launch_s.map_or(Nanos::ZERO, Nanos::from_secs_f64),
        ..Overheads::NONE
    };
    let options = SimOptions {
        overheads,
        slots: SLOTS,
        ..SimOptions::default()
    };
    let lasting = lasting(plan.duration, rate(workload));
    let warmup = Nanos::new(lasting.as_nanos() / 10);
    let workload = workload.clone().lasting(lasting, warmup)?;
    let scenario = Scenario::new(&profile, workload, device.clone(), options)?;
    let mut simulated = simulation::Plan {
        profile,
        scenario,
        workload: "as measured".to_owned(),
        scale: 1.0,
        instances: 1,
        devices: 1,
        policies: Vec::new(),
        deadlines: DeadlineMode::Enforce,
        seed: 1,
    };
    let mut found = Simulated::default();
    let mut search = |plan: &simulation::Plan| -> anyhow::Result<()> {
        let capacity = simulation::find_capacity(plan, WANTED, NonZeroU32::MIN)?;
        let held = capacity.policies.into_iter();
        let held = held.map(|one| (one.policy, one.multiple.map(|multiple| multiple.mean)));
        found.held.extend(held);
        Ok(())
    };
    let mut not_reached = Vec::new();
    // As many at a time as are searched at once.
    for some in policies.chunks(available_parallelism().map_or(1, usize::from)) {
        if Instant::now() >= until {
            not_reached.extend(some.iter().cloned());
            continue;
        }
        let contenders = some.iter().map(contender);
        simulated.policies = contenders.collect::<anyhow::Result<_>>()?;
        search(&simulated)?;
    }
    // `ideal` needs fitted kernels, which a grid of few points may not give.
    if ideal && Instant::now() < until {
        simulated.policies = vec![Contender::Ideal];
        let error = search(&simulated).err();
        found.ideal_error = error.map(|error| format!("{error:#}"));
    }
    found.not_reached = not_reached;
    Ok(found)
}

/// How long is simulated of so many requests per second: as long as is measured at least.
fn lasting(measured: Nanos, rate: f64) -> Nanos {
    let seconds = (REQUESTS / rate.max(1e-9)).min(LONGEST.as_secs_f64());
    Nanos::from_secs_f64(seconds).max(measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_requests_are_simulated_as_tell_something() {
        let measured = Nanos::from_millis(1_200);
        assert_eq!(lasting(measured, 1e6), measured);
        assert_eq!(lasting(measured, 10_000.0), Nanos::from_millis(2_000));
        assert_eq!(lasting(measured, 100.0), LONGEST);
        assert_eq!(lasting(measured, 0.0), LONGEST);
    }
}

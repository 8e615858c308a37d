//! What the simulator says of a mix on the profile that was measured.

use super::{Plan, Ready, SLOTS, WANTED, Way, label, policy, rate};
use crate::simulation::{self, Contender};
use fugato_core::Nanos;
use fugato_core::device::DeviceSpec;
use fugato_core::sched::DeadlineMode;
use fugato_core::sim::{Overheads, Scenario, SimOptions};
use std::collections::BTreeMap;
use std::num::NonZeroU32;

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
}

/// The largest load that the simulator says each of these policies holds on a mix, and `ideal`
/// where models run as they are.
pub(super) fn simulate(
    plan: &Plan,
    (mix, policies): (&Ready, &[String]),
    device: &DeviceSpec,
) -> anyhow::Result<Simulated> {
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
    let contenders = policies.iter().map(contender);
    let mut simulated = simulation::Plan {
        profile,
        scenario,
        workload: "as measured".to_owned(),
        scale: 1.0,
        instances: 1,
        devices: 1,
        policies: contenders.collect::<anyhow::Result<_>>()?,
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
    search(&simulated)?;
    // `ideal` needs fitted kernels, which a grid of few points may not give.
    if mix.way == Way::Whole {
        simulated.policies = vec![Contender::Ideal];
        found.ideal_error = search(&simulated).err().map(|error| format!("{error:#}"));
    }
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

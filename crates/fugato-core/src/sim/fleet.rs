//! Several devices: each a world of its own, with the models that are placed on it.

use super::placement::{Placement, Replica, WHOLE, demand};
use super::scenario::{Scenario, Simulated};
use super::tally::{ModelTally, Tally};
use crate::id::{DeviceId, ModelId};
use crate::sched::SchedulerConfig;
use crate::workload::{ArrivalProcess, ModelLoad, Workload, WorkloadError};

/// A scenario on several equal devices.
///
/// A model on several devices has its arrivals split: each replica gets the same process at
/// an equal part of the rate, drawn from a stream of its own. For Poisson arrivals that is
/// the same as sending each request to a device drawn by chance.
///
/// The devices do not influence each other, so its owner may run them at once.
#[derive(Clone, Debug)]
pub struct Fleet {
    models: usize,
    placement: Placement,
    /// With the index of each device; devices without models are left out.
    devices: Vec<(usize, Scenario)>,
    idle: Tally,
}

impl Fleet {
    /// The scenario's workload on `devices` devices like its own.
    ///
    /// # Errors
    /// [`WorkloadError`] where a part of some arrivals is not a valid process.
    ///
    /// # Panics
    /// Where there are no devices.
    pub fn new(scenario: &Scenario, devices: u32) -> Result<Self, WorkloadError> {
        let workload = scenario.workload();
        let demands: Vec<u64> = scenario.demands().collect();
        let loads = workload.models().iter();
        let everywhere: Vec<bool> = loads
            .map(|load| load.arrivals == ArrivalProcess::Saturated)
            .collect();
        let placement = Placement::new(&demands, &everywhere, devices);
        let worlds = placement.devices.iter().enumerate();
        let worlds = worlds.filter(|(_, replicas)| !replicas.is_empty());
        let worlds = worlds.map(|(index, replicas)| {
            let loads = replicas.iter().map(|replica| part(workload, *replica));
            let loads = loads.collect::<Result<_, _>>()?;
            let own = Workload::new(workload.duration(), workload.warmup(), None, loads)?;
            let mut device = scenario.device().clone();
            device.id = DeviceId(u16::try_from(index).unwrap_or(u16::MAX));
            let models: Vec<usize> = replicas.iter().map(|replica| replica.model).collect();
            Ok((index, scenario.part(&models, own, device)))
        });
        let slices = u128::from(scenario.device().slices.0);
        let empty = placement
            .devices
            .iter()
            .filter(|replicas| replicas.is_empty());
        let idle = Tally {
            window: workload.duration(),
            device_time: u128::from(workload.duration().as_nanos())
                * slices
                * empty.count() as u128,
            models: vec![ModelTally::default(); workload.models().len()],
            ..Tally::default()
        };
        Ok(Self {
            models: workload.models().len(),
            devices: worlds.collect::<Result<_, WorkloadError>>()?,
            placement,
            idle,
        })
    }

    /// What runs where.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The number of devices that have anything to do.
    pub fn worlds(&self) -> usize {
        self.devices.len()
    }

    /// Runs one of the devices, counted from 0 to [`worlds`](Self::worlds); its tally and
    /// its timeline are among all models of the workload.
    ///
    /// # Panics
    /// Where there are not as many.
    pub fn run(&self, world: usize, config: SchedulerConfig, seed: u64) -> Simulated {
        let (index, scenario) = &self.devices[world];
        let own: Vec<usize> = self.placement.devices[*index]
            .iter()
            .map(|replica| replica.model)
            .collect();
        let simulated = scenario.run(config, device_seed(seed, *index as u64));
        // In its world the models are numbered from zero on.
        let model = |own_id: ModelId| {
            let place = own[own_id.0 as usize];
            ModelId(u32::try_from(place).expect("models are numbered in 32 bits"))
        };
        Simulated {
            tally: simulated.tally.spread(self.models, &own),
            timeline: simulated.timeline.map(|timeline| timeline.renamed(model)),
        }
    }

    /// The sum over all devices, of their tallies in order.
    pub fn total<'a>(&self, tallies: impl IntoIterator<Item = &'a Tally>) -> Tally {
        let mut total = self.idle.clone();
        for tally in tallies {
            total.merge(tally);
        }
        total
    }
}

/// The load of one replica.
fn part(workload: &Workload, replica: Replica) -> Result<ModelLoad, WorkloadError> {
    let load = workload.models()[replica.model].clone();
    if replica.of == 1 || load.arrivals == ArrivalProcess::Saturated {
        return Ok(load);
    }
    let arrivals = load.arrivals.scaled(1.0 / f64::from(replica.of));
    let arrivals = arrivals.map_err(|source| WorkloadError::Arrivals {
        model: load.name.clone(),
        source,
    })?;
    Ok(ModelLoad { arrivals, ..load })
}

/// The seed of a device: the first one has that of the run, so that one device has the
/// arrivals that the load generator sends.
fn device_seed(seed: u64, device: u64) -> u64 {
    seed ^ device.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Scenario {
    /// What each model asks for, in millionths of a device.
    pub fn demands(&self) -> impl Iterator<Item = u64> {
        let end = self.workload().end();
        let models = self.hosted().zip(self.workload().models());
        models.map(move |((profile, table), load)| demand(load, profile, table, end))
    }

    /// What the models ask for together, in devices.
    pub fn demand(&self) -> f64 {
        self.demands().sum::<u64>() as f64 / WHOLE as f64
    }
}

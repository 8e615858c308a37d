//! The pair of tasks in flight and batch that `fugato` finds by itself, against every pair.

use fugato_core::capacity::{Largest, LargestSettings, holds};
use fugato_core::policy::FugatoParts;
use fugato_core::profile::{Division, Profile, v100_dstack};
use fugato_core::sched::{PolicySpec, SchedulerConfig};
use fugato_core::sim::{PolicyReport, Scenario, SimOptions, sim_device};
use fugato_core::workload::{ArrivalProcess, ModelLoad, Workload};
use fugato_core::{BatchSize, Nanos, Share};

const SLOTS_MAX: u16 = 8;
/// What the online choice may fall short of the best pair by.
const LEAST: f64 = 0.97;

/// One model alone within an objective, with a hundred requests per second.
struct Alone<'a> {
    profile: &'a Profile,
    device: (&'a str, Share),
    model: &'a str,
    slo: Nanos,
}

impl Alone<'_> {
    /// Whether it holds a multiple of the load, with so many tasks in flight of at most so many
    /// items.
    fn holds(&self, (slots, batch): (u16, u32), factor: f64) -> bool {
        let arrivals = ArrivalProcess::Poisson {
            rate: 100.0 * factor,
        };
        let model = ModelLoad {
            max_batch_size: Some(BatchSize(batch)),
            ..ModelLoad::new(self.model, self.slo, arrivals)
        };
        let (warmup, lasts) = (Nanos::from_millis(500), Nanos::from_millis(2_000));
        let workload = Workload::new(lasts, warmup, None, vec![model]).expect("valid");
        let options = SimOptions {
            slots,
            ..SimOptions::default()
        };
        let (kind, slices) = self.device;
        let device = sim_device(kind, slices);
        let scenario = Scenario::new(self.profile, workload, device, options).expect("valid");
        let policy = PolicySpec::Fugato(FugatoParts::default());
        let config = SchedulerConfig {
            policy,
            ..SchedulerConfig::default()
        };
        let simulated = scenario.run(config, 1);
        let report = PolicyReport::new("it", scenario.workload(), &simulated.tally);
        holds(0.99, report.attainment, [report.models[0].attainment])
    }

    /// The largest multiple that a pair holds, to a hundredth.
    fn capacity(&self, pair: (u16, u32)) -> f64 {
        let settings = LargestSettings {
            tolerance: 0.01,
            ..LargestSettings::default()
        };
        let mut search = Largest::new(settings).expect("valid");
        while let Some(factor) = search.next_probe() {
            search.record(self.holds(pair, factor));
        }
        search.found().holds.expect("a small load is held")
    }

    /// Asserts that where the limits are the largest pair, what is chosen within them holds
    /// [`LEAST`] of what any pair does: that no pair holds more than that part of it.
    fn online_choice_is_best(&self, batches: &[u32]) {
        let largest = (SLOTS_MAX, *batches.last().expect("some"));
        let online = self.capacity(largest);
        let better: Vec<(u16, u32)> = (1..=SLOTS_MAX)
            .flat_map(|slots| batches.iter().map(move |&batch| (slots, batch)))
            .filter(|&pair| self.holds(pair, online / LEAST))
            .collect();
        let model = self.model;
        assert!(
            better.is_empty(),
            "{model} at {online}: {better:?} hold more"
        );
    }
}

/// The models of the papers, on 80 slices, cut into legs of at most 2 ms: an item of a larger batch
/// costs no more, and the largest pair is the best.
fn of_the_papers(model: &str, millis: u64) {
    let profile = v100_dstack().divided(Division {
        leg_max: Nanos::from_millis(2),
        seed: 1,
    });
    let alone = Alone {
        profile: &profile,
        device: ("v100", Share(80)),
        model,
        slo: Nanos::from_millis(millis),
    };
    alone.online_choice_is_best(&[1, 2, 4, 8, 16]);
}

#[test]
fn mobilenet_is_served_in_the_best_pair() {
    of_the_papers("mobilenet", 25);
}

#[test]
fn resnet50_is_served_in_the_best_pair() {
    of_the_papers("resnet50", 50);
}

#[test]
fn vgg19_is_served_in_the_best_pair() {
    of_the_papers("vgg19", 100);
}

/// Two cores as measured there, where an item of a larger batch costs as much or more: the best
/// batch is far from the largest.
fn of_two_cores(model: &str, millis: u64) {
    let profile: Profile =
        serde_json::from_str(include_str!("data/profile-cores.json")).expect("a profile");
    let alone = Alone {
        profile: &profile,
        device: ("cpu", Share(2)),
        model,
        slo: Nanos::from_millis(millis),
    };
    alone.online_choice_is_best(&[1, 2, 4, 8]);
}

#[test]
fn squeezenet_is_served_in_the_best_pair_on_cores() {
    of_two_cores("light_squeezenet", 70);
}

#[test]
fn densenet_is_served_in_the_best_pair_on_cores() {
    of_two_cores("light_densenet121", 700);
}

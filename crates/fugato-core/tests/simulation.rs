//! Simulated scenarios whose results were computed by hand, and properties of all.

use fugato_core::device::{DeviceSpec, LaneClass};
use fugato_core::mix::Mix;
use fugato_core::profile::{GridPoint, ModelProfile, Profile, v100_dstack};
use fugato_core::sched::{DeadlineMode, DynamicBatching, PolicySpec, SchedulerConfig};
use fugato_core::sim::{
    Fleet, Overheads, PolicyReport, Scenario, ScenarioError, ServiceTable, SimOptions, TimeSlicing,
    sim_device,
};
use fugato_core::workload::{ArrivalProcess, ModelLoad, Trace, Workload, parse_trace};
use fugato_core::{BatchSize, DeviceId, Nanos, Share};

/// A model that takes `batch * millis` on any share.
fn flat(name: &str, millis: u32, max_batch: u32, slices: u16) -> ModelProfile {
    let mut model = ModelProfile::new(name, name, max_batch);
    model.knee.tolerance = Some(1);
    for batch in 1..=max_batch {
        for share in 1..=slices {
            let seconds = f64::from(batch * millis) / 1e3;
            model.grid.push(GridPoint {
                batch,
                share,
                neighbours: 0,
                median_s: Some(seconds),
                p95_s: Some(1.5 * seconds),
                low_s: None,
                high_s: None,
                repeats: 1,
                failed: None,
            });
        }
    }
    model
}

fn profile(models: Vec<ModelProfile>, slices: u16) -> Profile {
    let mut profile = v100_dstack();
    profile.synthetic = false;
    profile.device.slices = slices;
    profile.models = models;
    profile
}

fn device(slices: u16, lanes: usize) -> DeviceSpec {
    let whole = vec![LaneClass::Normal; lanes];
    DeviceSpec::nested(
        DeviceId(0),
        "sim",
        Share(slices),
        &whole,
        &[LaneClass::Normal],
    )
}

fn config(policy: PolicySpec, deadlines: DeadlineMode) -> SchedulerConfig {
    SchedulerConfig {
        policy,
        deadlines,
        ..SchedulerConfig::default()
    }
}

fn quiet() -> SimOptions {
    SimOptions {
        noise: false,
        ..SimOptions::default()
    }
}

/// Requests of `name` at these milliseconds.
fn at(name: &str, slo_ms: u64, millis: &[u32]) -> ModelLoad {
    let rows: String = millis
        .iter()
        .map(|&millis| format!("{},{name},1\n", f64::from(millis) / 1e3))
        .collect();
    let rows = parse_trace(&format!("time,model,count\n{rows}")).expect("valid rows");
    let trace = ArrivalProcess::Trace(Trace::new(&rows, name, None));
    ModelLoad::new(name, Nanos::from_millis(slo_ms), trace)
}

fn workload(duration_ms: u64, warmup_ms: u64, models: Vec<ModelLoad>) -> Workload {
    let millis = Nanos::from_millis;
    Workload::new(millis(duration_ms), millis(warmup_ms), None, models).expect("valid")
}

fn saturated(names: &[&str], slo_ms: u64) -> Vec<ModelLoad> {
    let slo = Nanos::from_millis(slo_ms);
    let load = |name: &&str| ModelLoad::new(*name, slo, ArrivalProcess::Saturated);
    names.iter().map(load).collect()
}

#[test]
fn one_model_on_one_slice_is_as_computed_by_hand() {
    let profile = profile(vec![flat("m", 10, 1, 2)], 2);
    let workload = workload(100, 0, vec![at("m", 20, &[0, 4, 8])]);
    let scenario = Scenario::new(&profile, workload, device(2, 1), quiet()).expect("valid");
    let observe = config(PolicySpec::Fifo, DeadlineMode::Observe);
    let tally = scenario.run(observe, 1).tally;
    // Runs at 0, 10 and 20 ms: latencies 10, 16 and 22 ms.
    let model = &tally.models[0];
    assert_eq!((model.requests, model.good, model.late), (3, 2, 1));
    assert_eq!(model.latencies.quantile(1.0), Some(Nanos::from_millis(22)));
    let median = model
        .latencies
        .quantile(0.5)
        .expect("three")
        .as_millis_f64();
    assert!((16.0..16.04).contains(&median), "{median}");
    // 30 ms of both slices, of which one is useful.
    assert_eq!(model.used.held, 2 * 30_000_000);
    assert_eq!(model.used.useful, 30_000_000);
    assert_eq!((model.used.runs, model.used.items), (3, 3));
    let report = PolicyReport::new("fifo", scenario.workload(), &tally);
    let parts = [report.occupancy, report.utilisation, report.goodput];
    let expected = [0.3, 0.15, 20.0];
    assert!(
        parts
            .iter()
            .zip(expected)
            .all(|(found, wanted)| (found - wanted).abs() < 1e-12),
        "{report:?}"
    );
    assert_eq!(report.attainment, Some(2.0 / 3.0));
    // Where deadlines are enforced the third is refused or dropped.
    let tally = scenario
        .run(config(PolicySpec::Fifo, DeadlineMode::Enforce), 1)
        .tally;
    let model = &tally.models[0];
    assert_eq!(
        (model.good, model.late, model.rejected + model.dropped),
        (2, 0, 1)
    );
}

#[test]
fn the_warm_up_is_left_out_and_what_spans_its_end_is_cut() {
    let profile = profile(vec![flat("m", 10, 1, 1)], 1);
    let workload = workload(20, 15, vec![at("m", 100, &[0, 10, 30])]);
    let scenario = Scenario::new(&profile, workload, device(1, 1), quiet()).expect("valid");
    let tally = scenario
        .run(config(PolicySpec::Edf, DeadlineMode::Enforce), 1)
        .tally;
    let model = &tally.models[0];
    // Measured from 15 to 35 ms: the second run from its half, the third until its half,
    // after which it runs to its end.
    assert_eq!((model.requests, model.good), (1, 1));
    assert_eq!(model.used.held, 10_000_000);
    assert_eq!(tally.device_time, 20_000_000);
}

#[test]
fn launches_and_boundaries_take_the_time_they_are_set_to() {
    let profile = profile(vec![flat("m", 10, 1, 1)], 1);
    let workload = workload(100, 0, vec![at("m", 50, &[0, 0])]);
    let options = SimOptions {
        overheads: Overheads {
            launch: Nanos::from_millis(2),
            boundary: Nanos::from_millis(1),
            slicing: TimeSlicing::FREE,
        },
        ..quiet()
    };
    let scenario = Scenario::new(&profile, workload, device(1, 1), options).expect("valid");
    let tally = scenario
        .run(config(PolicySpec::Fifo, DeadlineMode::Observe), 1)
        .tally;
    let longest = tally.models[0].latencies.quantile(1.0);
    assert_eq!(longest, Some(Nanos::from_millis(2 + 10 + 1 + 10)));
}

#[test]
fn saturated_models_take_turns_on_the_whole_device() {
    // Alternating full batches of 4 ms and 12 ms: in 160 ms ten of each.
    let profile = profile(vec![flat("a", 1, 4, 2), flat("b", 3, 4, 2)], 2);
    let workload = workload(160, 16, saturated(&["a", "b"], 50));
    let scenario = Scenario::new(&profile, workload, device(2, 1), quiet()).expect("valid");
    let tally = scenario
        .run(config(PolicySpec::Fifo, DeadlineMode::Observe), 1)
        .tally;
    for (model, millis) in tally.models.iter().zip([40, 120]) {
        assert_eq!((model.good, model.late, model.rejected), (40, 0, 0));
        assert_eq!((model.used.runs, model.used.items), (10, 40));
        assert_eq!(model.used.held, 2 * millis * 1_000_000);
    }
    let report = PolicyReport::new("fifo", scenario.workload(), &tally);
    assert_eq!(report.attainment, None);
    // (1 + 3)^2 / (2 * (1 + 9)).
    assert!((report.jain - 0.8).abs() < 1e-12, "{}", report.jain);
    assert!((report.occupancy - 1.0).abs() < 1e-12);
}

#[test]
fn legs_that_share_the_device_are_as_long_as_their_turns() {
    let profile = profile(vec![flat("a", 10, 1, 2), flat("b", 10, 1, 2)], 2);
    let loads = vec![at("a", 100, &[0]), at("b", 100, &[0])];
    let options = SimOptions {
        overheads: Overheads {
            slicing: TimeSlicing {
                quantum: Nanos::from_millis(1),
                switch: Nanos::from_micros(125),
                ..TimeSlicing::FREE
            },
            ..Overheads::NONE
        },
        ..quiet()
    };
    let workload = workload(100, 0, loads);
    let scenario = Scenario::new(&profile, workload, device(2, 2), options).expect("valid");
    let both = PolicySpec::Uncontrolled {
        lanes: 2,
        share: None,
    };
    let tally = scenario.run(config(both, DeadlineMode::Observe), 1).tally;
    for model in &tally.models {
        // Two turns of 10 ms each, an eighth longer for switching.
        assert_eq!(
            model.latencies.quantile(1.0),
            Some(Nanos::from_micros(22_500))
        );
        assert_eq!(model.used.held, 2 * 11_250_000);
    }
}

#[test]
fn fifo_on_the_papers_table_has_the_utilisation_of_its_knees() {
    let profile = v100_dstack();
    let names = ["alexnet", "resnet50", "vgg19"];
    let workload = workload(10_000, 1_000, saturated(&names, 100));
    let scenario = Scenario::new(&profile, workload, device(80, 1), quiet()).expect("valid");
    let tally = scenario
        .run(config(PolicySpec::Fifo, DeadlineMode::Observe), 1)
        .tally;
    let report = PolicyReport::new("fifo", scenario.workload(), &tally);
    let (mut useful, mut total) = (0.0, 0.0);
    for name in names {
        let model = profile.models.iter().find(|model| model.name == name);
        let model = model.expect("in the table");
        let batch = BatchSize(16);
        let table = ServiceTable::new(model, Share(80), Share(80), batch).expect("complete");
        let run = table.service(batch, Share(80)).alone.as_secs_f64();
        useful += run * f64::from(model.knee.tolerance.expect("known")) / 80.0;
        total += run;
    }
    let expected = useful / total;
    assert!(
        (report.utilisation - expected).abs() < 0.002,
        "{} for {expected}",
        report.utilisation
    );
    assert!(report.occupancy > 0.999);
}

fn busy_mix(factor: f64) -> Workload {
    let load = |name: &str, slo, rate| {
        let slo = Nanos::from_millis(slo);
        ModelLoad::new(name, slo, ArrivalProcess::Poisson { rate })
    };
    let models = vec![
        load("alexnet", 25, 400.0),
        load("resnet50", 50, 200.0),
        load("vgg19", 100, 100.0),
    ];
    workload(2_000, 200, models).scaled(factor).expect("valid")
}

#[test]
fn equal_seeds_give_equal_runs_and_nothing_is_lost_or_counted_twice() {
    let mut profile = v100_dstack();
    // Synthetic profiles have no noise; this one is to have some.
    profile.synthetic = false;
    for point in profile.models.iter_mut().flat_map(|model| &mut model.grid) {
        point.p95_s = point.median_s.map(|median| 1.2 * median);
    }
    for policy in [
        PolicySpec::Fifo,
        PolicySpec::Edf,
        PolicySpec::Uncontrolled {
            lanes: 4,
            share: None,
        },
    ] {
        for factor in [0.3, 1.0, 4.0] {
            let scenario = Scenario::new(
                &profile,
                busy_mix(factor),
                device(80, 4),
                SimOptions::default(),
            );
            let scenario = scenario.expect("valid").with_batching(&DynamicBatching {
                instances: 2,
                ..DynamicBatching::default()
            });
            let run = |seed| {
                scenario
                    .run(config(policy.clone(), DeadlineMode::Enforce), seed)
                    .tally
            };
            let tally = run(7);
            assert_eq!(tally, run(7), "{policy:?} at {factor}");
            assert_ne!(tally.action_hash, run(8).action_hash);
            let held: u128 = tally.models.iter().map(|model| model.used.held).sum();
            assert!(held <= tally.device_time, "{policy:?} at {factor}: {held}");
            for model in &tally.models {
                assert!(model.used.useful <= model.used.held);
                let ended = model.good + model.late + model.rejected + model.dropped + model.failed;
                assert_eq!(model.requests, ended, "{policy:?} at {factor}");
            }
        }
    }
}

#[test]
fn what_cannot_be_simulated_is_refused_by_name() {
    let profile = profile(vec![flat("m", 10, 2, 1)], 1);
    let refused = |loads, slices: u16| {
        let mut spec = device(1, 1);
        spec.slices = Share(slices);
        let error = Scenario::new(&profile, workload(1, 0, loads), spec, quiet());
        error.expect_err("refused")
    };
    let unknown = refused(saturated(&["n"], 1), 1);
    assert_eq!(
        unknown.to_string(),
        "model `n` of the workload is not in the profile, which has `m`"
    );
    assert_eq!(
        refused(saturated(&["m"], 1), 0),
        ScenarioError::Slices { found: 0 }
    );
    let mut large = saturated(&["m"], 1);
    large[0].batch = BatchSize(3);
    assert!(matches!(
        refused(large, 1),
        ScenarioError::Items {
            items: 3,
            max: 2,
            ..
        }
    ));
}

#[test]
fn devices_in_plenty_are_all_used() {
    let mix = Mix::named("c-4").expect("built in");
    let profile = mix.profiles();
    let millis = Nanos::from_millis;
    let rated = mix
        .rated()
        .expect("valid")
        .lasting(millis(4_000), millis(500));
    let device = sim_device(&profile.device.kind, Share(profile.device.slices));
    let scenario = Scenario::new(&profile, rated.expect("valid"), device, quiet()).expect("valid");
    for policy in ["dstack", "max-min", "temporal", "edf"] {
        let attainment = |devices| {
            let fleet = Fleet::new(&scenario, devices).expect("rates divide");
            assert_eq!(fleet.worlds(), devices as usize, "every device has a model");
            let config = config(
                PolicySpec::named(policy).expect("a policy"),
                DeadlineMode::Enforce,
            );
            let runs: Vec<_> = (0..fleet.worlds())
                .map(|world| fleet.run(world, config.clone(), 1).tally)
                .collect();
            let report = PolicyReport::new(policy, scenario.workload(), &fleet.total(&runs));
            report.attainment.expect("requests")
        };
        let held = [1, 2, 4, 8, 16].map(attainment);
        // Arrivals differ from one number of devices to the next: a hundredth is noise.
        let rises = held.windows(2).all(|pair| pair[1] >= pair[0] - 0.01);
        assert!(rises && held[4] >= 0.99, "{policy}: {held:?}");
    }
}

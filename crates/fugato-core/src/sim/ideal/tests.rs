use super::engine::{Engine, Window};
use super::{
    Division, IdealError, IdealModel, IdealOptions, IdealReport, headroom, ideal_offered,
    ideal_saturated,
};
use crate::id::Share;
use crate::profile::{Kernel, KernelList, Profile, convnet_mix, v100_dstack};
use crate::sim::PolicyReport;
use crate::time::{Nanos, Timestamp};
use crate::workload::{ArrivalProcess, ModelLoad, Workload};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const BOTH: [Division; 2] = [Division::MaxMin, Division::EarliestDeadline];

/// A kernel of so many operations per item, each of `op_ms` milliseconds.
fn kernel(width: f64, op_ms: f64) -> Kernel {
    Kernel {
        width,
        repeats: 1.0,
        op_s: op_ms / 1e3,
        ..Kernel::default()
    }
}

fn model(name: &str, kernels: Vec<Kernel>) -> IdealModel {
    IdealModel {
        name: name.to_owned(),
        kernels: KernelList {
            kernels,
            sync_s: 0.0,
        },
        batch: 1,
        knee: Share(4),
        slo: Nanos::from_millis(100),
    }
}

fn options(slices: u16, division: Division) -> IdealOptions {
    IdealOptions {
        division,
        ..IdealOptions::new(Share(slices))
    }
}

fn of(profile: &Profile, names: &[&str]) -> Vec<IdealModel> {
    let model = |name: &&str| IdealModel::of(profile, name, None).expect("built in");
    names.iter().map(model).collect()
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-6, "{found}, not {expected}");
}

#[test]
fn one_model_alone_takes_its_kernels_time() {
    // 8 operations on 8 slices, then 2, then 12 in two rounds that overlap: 1.5 ms.
    let lone = model(
        "lone",
        vec![kernel(8.0, 1.0), kernel(2.0, 1.0), kernel(12.0, 1.0)],
    );
    for division in BOTH {
        let run = ideal_saturated(
            std::slice::from_ref(&lone),
            options(8, division),
            Nanos::from_millis(35),
        );
        let report = run.expect("valid");
        let only = &report.models[0];
        assert_eq!(only.p50, Nanos::from_micros(3_500));
        assert_eq!(only.p99, Nanos::from_micros(3_500));
        close(only.throughput, 10.0 / 0.035);
        // 8 + 2 + 12 slice-milliseconds in 3.5 ms of 8 slices; at the knee of 4 slices the
        // kernels take 2, 1 and 3 ms.
        close(report.utilisation, 22.0 / 28.0);
        close(report.knee_utilisation, 24.0 / 28.0);
        close(report.jain, 1.0);
    }
    let profile = v100_dstack();
    for model in of(&profile, &["mobilenet", "vgg19"]) {
        let expected_s = model.kernels.latency_s(16.0, 80.0);
        let run = ideal_saturated(
            std::slice::from_ref(&model),
            options(80, Division::MaxMin),
            Nanos::from_millis(1_000),
        );
        let found_s = run.expect("valid").models[0].p50.as_secs_f64();
        let rounding_s = 1e-9 * model.kernels.kernels.len() as f64;
        assert!((found_s - expected_s).abs() <= rounding_s, "{found_s}");
    }
}

#[test]
fn models_that_fit_side_by_side_do_not_slow_each_other() {
    let models = [
        model("a", vec![kernel(5.0, 1.0), kernel(2.0, 3.0)]),
        model("b", vec![kernel(3.0, 2.0)]),
    ];
    for division in BOTH {
        let run = ideal_saturated(&models, options(8, division), Nanos::from_millis(40));
        let report = run.expect("valid");
        assert_eq!(report.models[0].p99, Nanos::from_millis(4));
        assert_eq!(report.models[1].p99, Nanos::from_millis(2));
        // Of each 4 ms: 5 and 6 slice-milliseconds, and twice 6.
        close(report.utilisation, 23.0 / 32.0);
    }
}

/// Two equal models, wide and then narrow: equal parts keep them in step, so that both are
/// narrow at once and slices idle; by deadline they fall out of step and none idles.
#[test]
fn saturated_figures_are_those_of_arithmetic() {
    let kernels = vec![kernel(8.0, 1.0), kernel(2.0, 1.0)];
    let models = [model("a", kernels.clone()), model("b", kernels)];
    let run = |division| {
        let run = ideal_saturated(&models, options(8, division), Nanos::from_millis(300));
        run.expect("valid")
    };
    // 2 ms at 4 slices each, then 1 ms at 2 slices each.
    let fair = run(Division::MaxMin);
    close(fair.utilisation, 20.0 / 24.0);
    close(fair.jain, 1.0);
    for model in &fair.models {
        assert_eq!(model.p50, Nanos::from_millis(3));
        close(model.throughput, 100.0 / 0.3);
    }
    // 10 slice-milliseconds on 8 slices: a task each 1.25 ms.
    let urgent = run(Division::EarliestDeadline);
    close(urgent.utilisation, 1.0);
    let tasks: f64 = urgent.models.iter().map(|model| model.throughput).sum();
    assert!((tasks * 0.3 - 240.0).abs() <= 1.0, "{tasks} per second");
}

/// On the paper's mixes the choice of a division hardly matters.
#[test]
fn both_divisions_agree_on_the_papers_mixes() {
    let v100 = v100_dstack();
    let mixes = [
        of(&v100, &["alexnet", "resnet50", "vgg19"]),
        of(&v100, &["mobilenet", "alexnet", "resnet50", "vgg19"]),
        of(&convnet_mix(), &["convnet1", "convnet2", "convnet3"]),
    ];
    for models in mixes {
        let [fair, urgent] = BOTH.map(|division| {
            let run = ideal_saturated(&models, options(80, division), Nanos::from_millis(5_000));
            run.expect("valid")
        });
        assert!((fair.utilisation - urgent.utilisation).abs() < 0.02);
        assert!((fair.knee_utilisation / urgent.knee_utilisation - 1.0).abs() < 0.02);
        assert!(fair.knee_utilisation > 1.0, "above what knees can do");
        assert!(fair.utilisation <= 1.0 && urgent.utilisation <= 1.0);
        for report in [&fair, &urgent] {
            for (model, found) in models.iter().zip(&report.models) {
                assert!(found.p99 <= model.slo, "{}", model.name);
                assert_eq!((found.attainment, found.late), (None, 0));
            }
        }
    }
}

/// A random model of 1 to 5 kernels, some bound by memory.
fn any_model(rng: &mut ChaCha8Rng) -> IdealModel {
    let count = rng.random_range(1..=5);
    let kernels = (0..count).map(|_| Kernel {
        width: rng.random_range(0.2..12.0),
        repeats: f64::from(rng.random_range(1..=3_u8)),
        op_s: rng.random_range(1e-4..2e-3),
        launch_s: rng.random_range(0.0..5e-4),
        traffic_s: if rng.random_bool(0.3) {
            rng.random_range(0.0..5e-3)
        } else {
            0.0
        },
        ..Kernel::default()
    });
    let mut model = model("any", kernels.collect());
    model.batch = rng.random_range(1..=4);
    model.slo = Nanos::from_micros(rng.random_range(1_000..50_000));
    model
}

/// When each model has ended `tasks` tasks, one after the other, all from time zero on.
fn ends(models: &[IdealModel], options: IdealOptions, tasks: u64) -> Vec<Timestamp> {
    let window = Window {
        from: Timestamp::ZERO,
        until: Timestamp::MAX,
    };
    let mut engine = Engine::new(models, options, window, vec![true; models.len()]).expect("valid");
    engine.run_each(tasks)
}

/// The slowest rounding: half a nanosecond at the end of every kernel of every task and at
/// every division, of which there is one at each of these ends.
fn slack(models: &[IdealModel], tasks: u64) -> Nanos {
    let kernels: usize = models.iter().map(|model| model.kernels.kernels.len()).sum();
    Nanos::new(4 * kernels as u64 * tasks)
}

/// Any order of whole tasks on the whole device takes as long as all of them together.
#[test]
fn no_time_sharing_schedule_ends_sooner() {
    for seed in 0..500 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let slices = rng.random_range(1..=16_u16);
        let count = rng.random_range(1..=4);
        let models: Vec<_> = (0..count).map(|_| any_model(&mut rng)).collect();
        let (whole, tasks) = (f64::from(slices), rng.random_range(1..=4));
        let alone = models
            .iter()
            .map(|model| model.kernels.latency_s(f64::from(model.batch), whole));
        let in_turn = Nanos::from_secs_f64(alone.sum::<f64>() * tasks as f64);
        for division in BOTH {
            let ends = ends(&models, options(slices, division), tasks);
            let last = ends.iter().max().copied().unwrap_or(Timestamp::ZERO);
            let bound = Timestamp::ZERO + in_turn + slack(&models, tasks);
            assert!(last <= bound, "seed {seed}, {division:?}: {last} > {bound}");
        }
    }
}

/// With equal parts every model, not only their sum, is at least as fast as on a static
/// partition of an equal part.
#[test]
fn no_model_is_faster_on_a_static_equal_partition() {
    for seed in 0..500 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let count = rng.random_range(1..=4_u16);
        let share = rng.random_range(1..=6_u16);
        let models: Vec<_> = (0..count).map(|_| any_model(&mut rng)).collect();
        let tasks = rng.random_range(1..=4);
        let ends = ends(&models, options(share * count, Division::MaxMin), tasks);
        for (model, end) in models.iter().zip(ends) {
            let batch = f64::from(model.batch);
            let fixed_s = model.kernels.latency_s(batch, f64::from(share)) * tasks as f64;
            let fixed = Timestamp::ZERO + Nanos::from_secs_f64(fixed_s);
            let bound = fixed + slack(&models, tasks);
            assert!(end <= bound, "seed {seed}: {end} > {bound}");
        }
    }
}

fn poisson(model: &str, rate: f64, slo_ms: u64) -> ModelLoad {
    let arrivals = ArrivalProcess::Poisson { rate };
    ModelLoad::new(model, Nanos::from_millis(slo_ms), arrivals)
}

fn workload(models: Vec<ModelLoad>) -> Workload {
    let (second, warmup) = (Nanos::from_millis(1_000), Nanos::from_millis(200));
    Workload::new(second.times(5), warmup, None, models).expect("valid")
}

#[test]
fn a_light_load_is_served_in_time_and_alike_for_one_seed() {
    let load = workload(vec![
        poisson("alexnet", 50.0, 25),
        poisson("vgg19", 20.0, 100),
    ]);
    let profile = v100_dstack();
    let run = |seed| {
        let run = ideal_offered(&profile, &load, options(80, Division::MaxMin), seed);
        run.expect("valid")
    };
    let report = run(1);
    let counted = |index| {
        let arrivals = load.arrivals(1).filter(|arrival| arrival.model == index);
        let warm = Timestamp::ZERO + load.warmup();
        arrivals.filter(|arrival| arrival.at >= warm).count() as u64
    };
    for (index, model) in report.models.iter().enumerate() {
        assert_eq!(model.requests, counted(index), "{}", model.name);
        assert_eq!((model.rejected, model.late), (0, 0), "{}", model.name);
        assert_eq!(model.attainment, Some(1.0));
        close(model.goodput, model.requests as f64 / 5.0);
    }
    assert_eq!(report, run(1));
    assert_ne!(report, run(2));
}

/// Twice what the device can do of one model: every request ends, in time or by name.
#[test]
fn an_overload_is_rejected_and_never_late_for_one_model() {
    let profile = v100_dstack();
    let alone = of(&profile, &["resnet50"]).remove(0);
    let most = 16.0 / alone.kernels.latency_s(16.0, 80.0);
    let load = workload(vec![poisson("resnet50", 2.0 * most, 60)]);
    let run = ideal_offered(&profile, &load, options(80, Division::MaxMin), 7);
    let report = run.expect("valid");
    let only = &report.models[0];
    // Alone it gets the whole device, as its tasks were formed for.
    assert_eq!(only.late, 0);
    assert!(only.rejected > 0);
    let ended = only.requests - only.rejected;
    assert_eq!(only.attainment, Some(ended as f64 / only.requests as f64));
    let ratio = only.goodput / most;
    assert!(ratio > 0.98 && ratio < 1.01, "{ratio}");
}

#[test]
fn what_cannot_be_run_is_refused_by_name() {
    let profile = v100_dstack();
    let unknown = IdealModel::of(&profile, "lenet", None).expect_err("no such model");
    assert_eq!(unknown.to_string(), "the profile has no model `lenet`");
    let mut bare = profile;
    bare.models[0].fit = None;
    let missing = IdealModel::of(&bare, "mobilenet", None).expect_err("no kernels");
    assert!(
        missing
            .to_string()
            .contains("`mobilenet` has no fitted kernels")
    );
    let no_time = model("empty", Vec::new());
    let second = Nanos::from_millis(1_000);
    let run = |model: &IdealModel, slices, duration| {
        let models = std::slice::from_ref(model);
        ideal_saturated(models, options(slices, Division::MaxMin), duration)
    };
    let refused = run(&no_time, 8, second).expect_err("no kernels");
    assert_eq!(
        refused,
        IdealError::NoTime {
            model: "empty".to_owned()
        }
    );
    let good = model("good", vec![kernel(1.0, 1.0)]);
    for (slices, duration) in [(0, second), (8, Nanos::ZERO)] {
        let refused = run(&good, slices, duration).expect_err("a zero");
        assert!(matches!(refused, IdealError::Zero { .. }), "{refused}");
    }
}

fn headroom_of(models: &[IdealModel], options: IdealOptions, report: &IdealReport) -> f64 {
    let throughputs: Vec<f64> = report.models.iter().map(|model| model.throughput).collect();
    headroom(models, options, &throughputs)
}

#[test]
fn the_headroom_is_that_of_arithmetic() {
    let kernels = vec![kernel(8.0, 1.0), kernel(2.0, 1.0)];
    let models = [model("a", kernels.clone()), model("b", kernels)];
    let options = options(8, Division::MaxMin);
    // 10 slice-milliseconds a run, 8 slices: 400 runs of each per second.
    close(headroom(&models, options, &[400.0, 400.0]), 1.0);
    close(headroom(&models, options, &[400.0, 0.0]), 500.0 / 400.0);
    assert!(headroom(&models, options, &[0.0, 0.0]).is_infinite());
    // Alone a run takes 2 ms; two in flight are bound by the device again.
    let two = IdealOptions {
        in_flight: 2,
        ..options
    };
    close(headroom(&models[..1], two, &[500.0]), 800.0 / 500.0);
    // A serial part is held, too: at the fastest share 8 slices for 1.5 ms, and no more
    // than one run at a time; on one slice 8.5 slice-milliseconds.
    let launched = Kernel {
        launch_s: 5e-4,
        ..kernel(8.0, 1.0)
    };
    let models = [model("a", vec![launched])];
    close(headroom(&models, options, &[1.0]), 1_000.0 / 1.5);
    let many = IdealOptions {
        in_flight: 16,
        ..options
    };
    close(headroom(&models, many, &[1.0]), 8_000.0 / 8.5);
}

/// The items per second of a random exclusive schedule in saturation: whenever slices are
/// free, an idle model starts a whole run on some of them.
fn exclusive(models: &[IdealModel], slices: u16, rng: &mut ChaCha8Rng) -> Vec<f64> {
    const DURATION_S: f64 = 2.0;
    let mut running: Vec<(f64, usize, u16)> = Vec::new();
    let mut items = vec![0.0; models.len()];
    let (mut now, mut free) = (0.0, slices);
    while now < DURATION_S {
        let mut idle: Vec<usize> = (0..models.len())
            .filter(|index| running.iter().all(|(_, model, _)| model != index))
            .collect();
        while free > 0 && !idle.is_empty() {
            let index = idle.swap_remove(rng.random_range(0..idle.len()));
            let share = rng.random_range(1..=free);
            let batch = f64::from(models[index].batch);
            let end = now + models[index].kernels.latency_s(batch, f64::from(share));
            if end <= DURATION_S {
                items[index] += batch;
            }
            running.push((end, index, share));
            free -= share;
        }
        running.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (end, _, share) = running.remove(0);
        now = end;
        free += share;
    }
    items.iter().map(|items| items / DURATION_S).collect()
}

#[test]
fn no_schedule_of_whole_runs_has_less_headroom_than_none() {
    for seed in 0..100 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let slices = rng.random_range(1..=12_u16);
        let count = rng.random_range(1..=4);
        let models: Vec<_> = (0..count).map(|_| any_model(&mut rng)).collect();
        let options = options(slices, Division::MaxMin);
        for _ in 0..10 {
            let found = exclusive(&models, slices, &mut rng);
            let left = headroom(&models, options, &found);
            assert!(left >= 1.0 - 1e-9, "seed {seed}: {left}");
        }
    }
}

#[test]
fn on_the_papers_mixes_no_schedule_is_above_ideal_in_all_models() {
    let v100 = v100_dstack();
    let mixes = [
        of(&v100, &["alexnet", "resnet50", "vgg19"]),
        of(&v100, &["mobilenet", "alexnet", "resnet50", "vgg19"]),
        of(&convnet_mix(), &["convnet1", "convnet2", "convnet3"]),
    ];
    for models in mixes {
        for division in BOTH {
            let options = options(80, division);
            let run = ideal_saturated(&models, options, Nanos::from_millis(10_000));
            let left = headroom_of(&models, options, &run.expect("valid"));
            assert!((1.0 - 1e-9..1.01).contains(&left), "{division:?}: {left}");
        }
    }
}

#[test]
fn a_saturated_workload_gives_the_saturated_figures() {
    let profile = v100_dstack();
    let names = ["alexnet", "vgg19"];
    let full = |name: &&str| {
        let slo = Nanos::from_millis(100);
        ModelLoad::new(*name, slo, ArrivalProcess::Saturated)
    };
    let second = Nanos::from_millis(1_000);
    let loads = names.iter().map(full).collect();
    let load = Workload::new(second, Nanos::ZERO, None, loads).expect("valid");
    let options = options(80, Division::MaxMin);
    let report = ideal_offered(&profile, &load, options, 1).expect("valid");
    let mut expected = of(&profile, &names);
    for model in &mut expected {
        model.slo = Nanos::from_millis(100);
    }
    let expected = ideal_saturated(&expected, options, second).expect("valid");
    assert_eq!(report, expected);
    let row = PolicyReport::from(&report);
    close(row.utilisation, report.knee_utilisation);
    assert_eq!(row.attainment, None);
    let parts: f64 = row.models.iter().map(|model| model.occupancy).sum();
    close(parts, report.utilisation);
}

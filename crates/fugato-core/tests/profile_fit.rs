//! The fitted surface at batches and shares it was not shown: where the truth is known
//! (synthetic devices of 40, 80 and 132 slices, with noise and outliers), and on what was
//! measured of real models.

use fugato_core::profile::{
    AnalysisOptions, GridPoint, Kernel, KernelList, ModelProfile, PointKey, Profile, Surface,
    analyse, fit,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const BATCHES: [u32; 6] = [1, 2, 4, 8, 16, 32];

/// A model that the fit cannot reproduce: random widths that are on no ladder, and waves
/// (an operation more than a multiple of the slices costs a whole round).
struct Truth {
    kernels: KernelList,
    waves: bool,
}

impl Truth {
    fn draw(rng: &mut ChaCha8Rng, slices: u16, waves: bool) -> Self {
        let mut log_uniform = |low: f64, high: f64| -> f64 {
            (low.ln() + rng.random::<f64>() * (high / low).ln()).exp()
        };
        let kernels = (0..6)
            .map(|_| Kernel {
                width: log_uniform(0.3, f64::from(slices)),
                repeats: log_uniform(1.0, 20.0).round(),
                op_s: log_uniform(5e-6, 5e-5),
                launch_s: log_uniform(2e-6, 1e-5),
                serial_per_item_s: 0.0,
                traffic_s: log_uniform(1e-5, 3e-4),
                traffic_per_item_s: log_uniform(1e-6, 3e-5),
                spill_s: 0.0,
            })
            .collect();
        Self {
            kernels: KernelList {
                kernels,
                sync_s: log_uniform(1e-9, 2e-7),
            },
            waves,
        }
    }

    fn latency_s(&self, batch: u32, share: u16) -> f64 {
        let (batch, share) = (f64::from(batch), f64::from(share));
        let smooth = self.kernels.latency_s(batch, share);
        if !self.waves {
            return smooth;
        }
        let extra = self.kernels.kernels.iter().map(|kernel| {
            let parallel = (batch * kernel.width).ceil();
            let busy = share.min(batch * kernel.width).max(1.0);
            let rounds = (parallel / share).ceil();
            kernel.repeats * kernel.op_s * (rounds - batch * kernel.width / busy).max(0.0)
        });
        smooth + extra.sum::<f64>()
    }
}

/// Ten shares from an eighth of the device to all of it, as the paper's steps of 10 %, and
/// a few small ones.
fn shares(slices: u16) -> Vec<u16> {
    let mut shares: Vec<u16> = (1..=10).map(|tenth| slices * tenth / 10).collect();
    shares.extend([1, 2, slices / 20]);
    shares.sort_unstable();
    shares.dedup();
    shares
}

fn point(batch: u32, share: u16, median_s: f64, spread: f64) -> GridPoint {
    GridPoint {
        batch,
        share,
        neighbours: 0,
        median_s: Some(median_s),
        p95_s: Some(median_s * 1.1),
        low_s: Some(median_s * (1.0 - spread)),
        high_s: Some(median_s * (1.0 + spread)),
        repeats: 20,
        failed: None,
    }
}

/// The truth, with 3 % of noise everywhere and every twentieth point 1.3 to 3 times too
/// slow, with an interval that does not show it.
fn measure(truth: &Truth, slices: u16, rng: &mut ChaCha8Rng) -> Vec<GridPoint> {
    let mut grid = Vec::new();
    for batch in BATCHES {
        for share in shares(slices) {
            // A sum of uniform draws: near normal, standard deviation 1.
            let noise: f64 = (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
            let outlier = if rng.random::<f64>() < 0.05 {
                1.3 + 1.7 * rng.random::<f64>()
            } else {
                1.0
            };
            let measured = truth.latency_s(batch, share) * (0.03 * noise).exp() * outlier;
            grid.push(point(batch, share, measured, 0.03));
        }
    }
    grid
}

/// Relative errors against the truth at the points that `held` names, predicted from the
/// others.
fn errors(
    truth: &Truth,
    grid: &[GridPoint],
    slices: u16,
    held: impl Fn(&GridPoint) -> bool,
) -> Vec<f64> {
    let mut model = ModelProfile::new("synthetic", "synthetic", 32);
    model.grid = grid.iter().filter(|point| !held(point)).cloned().collect();
    model.fit = fit(&model.grid, slices);
    let surface = Surface::new(&model, slices);
    grid.iter()
        .filter(|point| held(point))
        .map(|point| {
            let exact = truth.latency_s(point.batch, point.share);
            let estimate = surface.estimate(point.key()).expect("inside the range");
            assert!(!estimate.measured);
            (estimate.median_s - exact).abs() / exact
        })
        .collect()
}

/// Twelve draws, each predicted at every inner batch and share without having seen it.
#[test]
fn held_out_batches_and_shares_are_predicted_on_large_devices() {
    let mut all = Vec::new();
    for slices in [40, 80, 132] {
        for waves in [false, true] {
            for seed in 0..2 {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                let truth = Truth::draw(&mut rng, slices, waves);
                let grid = measure(&truth, slices, &mut rng);
                let mut found = Vec::new();
                for batch in &BATCHES[1..BATCHES.len() - 1] {
                    found.extend(errors(&truth, &grid, slices, |p| p.batch == *batch));
                }
                let shares = shares(slices);
                let inner_shares = &shares[1..shares.len() - 1];
                for third in 0..3 {
                    let held: Vec<u16> = inner_shares
                        .iter()
                        .copied()
                        .skip(third)
                        .step_by(3)
                        .collect();
                    found.extend(errors(&truth, &grid, slices, |p| held.contains(&p.share)));
                }
                found.sort_by(f64::total_cmp);
                let (median, worst) = (found[found.len() / 2], found[found.len() - 1]);
                all.push((slices, waves, seed, median, worst));
            }
        }
    }
    for (slices, waves, seed, median, worst) in all {
        let case = format!("{slices} slices, waves {waves}, seed {seed}");
        assert!(median <= 0.08, "{case}: median error {median:.3}");
        assert!(worst <= 0.20, "{case}: worst error {worst:.3}");
    }
}

#[test]
fn the_fit_states_its_own_held_out_error() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let truth = Truth::draw(&mut rng, 40, false);
    let grid = measure(&truth, 40, &mut rng);
    let fitted = fit(&grid, 40).expect("enough points");
    let held_out = fitted.held_out.expect("inner batches and shares");
    assert!(held_out.median_error <= 0.08, "{held_out:?}");
    // The worst point is an outlier of the measurement, which no fit should follow.
    assert!(held_out.worst_error > 0.2, "{held_out:?}");
    assert_eq!(fitted.points.len(), grid.len());
    for (point, measured) in fitted.points.iter().zip(&grid) {
        let inner_batch = point.batch != 1 && point.batch != 32;
        let inner_share = point.share != 1 && point.share != 40;
        assert_eq!(
            point.held_out_error.is_some(),
            inner_batch || inner_share,
            "{point:?}"
        );
        let expected = (point.fitted_s - point.measured_s).abs() / point.measured_s;
        assert!((point.error - expected).abs() < 1e-12, "{point:?}");
        assert_eq!(Some(point.measured_s), measured.median_s);
    }
    assert_eq!(fit(&grid, 40), Some(fitted), "the same grid, the same fit");
}

/// Ten points of two shares are explained by a handful of numbers, not by ten kernels.
#[test]
fn a_small_grid_gets_a_small_model() {
    // ShuffleNet on two cores, in milliseconds: two cores are slower at batch 1.
    let times = [
        (1, 4.0, 5.5),
        (2, 7.1, 7.9),
        (4, 13.9, 12.2),
        (8, 27.0, 21.5),
        (16, 53.0, 40.0),
    ];
    let grid: Vec<GridPoint> = times
        .iter()
        .flat_map(|&(batch, one, two)| {
            [
                point(batch, 1, one / 1e3, 0.02),
                point(batch, 2, two / 1e3, 0.02),
            ]
        })
        .collect();
    let fitted = fit(&grid, 2).expect("enough points");
    assert!(fitted.model.kernels.len() <= 3, "{:?}", fitted.model);
    assert!(fitted.model.sync_s > 0.0, "{:?}", fitted.model);
    assert!(fitted.worst_error <= 0.05, "{}", fitted.worst_error);
    let at = |share: f64| fitted.model.latency_s(1.0, share);
    assert!(at(2.0) > at(1.0), "latency rises with the share");
}

#[test]
fn nothing_is_predicted_beyond_the_measured_range() {
    let grid: Vec<GridPoint> = [(2, 2), (2, 6), (8, 2), (8, 6)]
        .map(|(batch, share)| point(batch, share, f64::from(batch) / f64::from(share), 0.01))
        .to_vec();
    let mut model = ModelProfile::new("range", "range", 32);
    model.fit = fit(&grid, 8);
    model.grid = grid;
    let surface = Surface::new(&model, 8);
    let known = |batch, share| {
        let place = PointKey {
            batch,
            share,
            neighbours: 0,
        };
        surface.estimate(place).is_some()
    };
    for (batch, share, expected) in [
        (2, 2, true),
        (5, 4, true),
        (8, 6, true),
        (1, 4, false),
        (9, 4, false),
        (5, 1, false),
        (5, 7, false),
    ] {
        assert_eq!(known(batch, share), expected, "({batch}, {share})");
    }
}

#[test]
fn failed_points_are_left_out_and_too_few_are_not_fitted() {
    let mut grid: Vec<GridPoint> = [1, 2, 4]
        .map(|batch| point(batch, 1, 0.001 * f64::from(batch), 0.01))
        .to_vec();
    assert!(fit(&grid, 2).is_some());
    grid[1] = GridPoint {
        median_s: None,
        p95_s: None,
        low_s: None,
        high_s: None,
        repeats: 0,
        failed: Some("out of memory".to_owned()),
        ..grid[1].clone()
    };
    assert_eq!(fit(&grid, 2), None, "two points are no curve");
    assert_eq!(fit(&[], 2), None);
}

/// What the profiler measured of four models on two cores: each inner batch is left out,
/// alone and beside a busy slice, and predicted from the others.
#[test]
fn held_out_batches_of_real_models_are_predicted() {
    let text = include_str!("data/profile-cpu.json");
    let profile: Profile = serde_json::from_str(text).expect("a profile");
    assert_eq!(profile.check(), Ok(()));
    for model in profile.models {
        let mut errors = Vec::new();
        for batch in [2, 4, 8] {
            let mut others = model.clone();
            others.grid.retain(|point| point.batch != batch);
            analyse(&mut others, &AnalysisOptions::new(2));
            let surface = Surface::new(&others, 2);
            for point in model.grid.iter().filter(|point| point.batch == batch) {
                let measured_s = point.median_s.expect("none failed");
                let estimate = surface.estimate(point.key()).expect("inside the range");
                errors.push((estimate.median_s - measured_s).abs() / measured_s);
            }
        }
        errors.sort_by(f64::total_cmp);
        let (median, worst) = (errors[errors.len() / 2], errors[errors.len() - 1]);
        assert!(median <= 0.08, "{}: median error {median:.3}", model.name);
        assert!(worst <= 0.20, "{}: worst error {worst:.3}", model.name);
        let mut whole = model.clone();
        analyse(&mut whole, &AnalysisOptions::new(2));
        let fitted = whole.fit.expect("enough points");
        let stated = fitted.held_out.expect("inner batches");
        assert!(stated.median_error <= 0.08, "{}: {stated:?}", model.name);
        assert!(stated.worst_error <= 0.20, "{}: {stated:?}", model.name);
        assert!(fitted.model.kernels.len() <= 3, "{}", model.name);
    }
}

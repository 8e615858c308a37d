use super::*;
use crate::profile::{Beside, DeviceKey, GridPoint, SCHEMA};

fn pair(on: usize, by: usize, longer: f64) -> Contention {
    Contention { on, by, longer }
}

/// All pairs of models with these sensitivities and demands.
fn all(numbers: &[(f64, f64)]) -> Vec<Contention> {
    let places = 0..numbers.len();
    let pairs = places.flat_map(|on| (0..numbers.len()).map(move |by| (on, by)));
    pairs
        .map(|(on, by)| pair(on, by, numbers[on].0 * numbers[by].1))
        .collect()
}

fn known(found: &[Option<Interference>]) -> Vec<(f64, f64)> {
    let known = found.iter().map(|found| found.expect("it was measured"));
    known.map(|it| (it.sensitivity, it.demand)).collect()
}

/// The same, with as large a sum of squares of the one as of the other.
fn balanced(numbers: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let squares = |pick: fn(&(f64, f64)) -> f64| {
        let squares = numbers.iter().map(|number| pick(number).powi(2));
        squares.sum::<f64>()
    };
    let factor = (squares(|number| number.1) / squares(|number| number.0)).powf(0.25);
    let numbers = numbers.iter();
    numbers.map(|&(s, d)| (s * factor, d / factor)).collect()
}

fn assert_near(found: &[Option<Interference>], expected: &[(f64, f64)], within: f64) {
    for (model, (found, expected)) in known(found).iter().zip(expected).enumerate() {
        let apart = (found.0 - expected.0)
            .abs()
            .max((found.1 - expected.1).abs());
        assert!(
            apart <= within,
            "model {model}: {found:?}, not {expected:?}"
        );
    }
}

/// A memory-bound model, a sensitive one that demands little, one of both, and one of neither.
const MODELS: [(f64, f64); 4] = [(0.7, 1.0), (0.6, 0.1), (0.4, 0.6), (0.0, 0.0)];

#[test]
fn numbers_that_explain_all_are_found() {
    assert_near(&interference(4, &all(&MODELS)), &balanced(&MODELS), 1e-9);
}

#[test]
fn pairs_may_be_missing() {
    // Each beside itself and beside its next.
    let mut pairs = all(&MODELS);
    pairs.retain(|pair| pair.by == pair.on || pair.by == (pair.on + 1) % 4);
    let found = interference(4, &pairs);
    for pair in all(&MODELS[..3]) {
        let models = known(&found);
        let longer = models[pair.on].0 * models[pair.by].1;
        assert!((longer - pair.longer).abs() < 1e-6, "{pair:?}: {longer}");
    }
    // Without its own kind, from the others; and the other way round nothing was.
    let pairs = [pair(0, 1, 0.2), pair(1, 0, 0.3), pair(2, 0, 0.1)];
    let found = interference(3, &pairs);
    let models = known(&found[..2]);
    assert!((models[0].0 * models[1].1 - 0.2).abs() < 1e-9);
    assert!((models[1].0 * models[0].1 - 0.3).abs() < 1e-9);
    assert_eq!(found[2], None, "nothing ran beside it");
}

#[test]
fn a_ring_of_many_models_is_solved() {
    let number = |model: usize| 0.1 + (model * 7 % 30) as f64 / 30.0;
    let models: Vec<(f64, f64)> = (0..30)
        .map(|model| (number(model), number(29 - model)))
        .collect();
    let mut pairs = all(&models);
    pairs.retain(|pair| pair.by != pair.on && (pair.by + 30 - pair.on) % 30 <= 3);
    let found = known(&interference(30, &pairs));
    for pair in all(&models) {
        let longer = found[pair.on].0 * found[pair.by].1;
        assert!((longer - pair.longer).abs() < 1e-6, "{pair:?}: {longer}");
    }
}

#[test]
fn noise_moves_the_numbers_no_further_than_itself() {
    let mut pairs = all(&MODELS);
    // Two in a hundred of the time, up and down in turn, so that some are below 0.
    for (index, pair) in pairs.iter_mut().enumerate() {
        pair.longer += if index % 2 == 0 { 0.02 } else { -0.02 };
    }
    let found = interference(4, &pairs);
    assert_near(&found, &balanced(&MODELS), 0.05);
    assert_eq!(found, interference(4, &pairs), "to the bit");
}

#[test]
fn what_demands_nothing_and_what_waits_for_nothing_are_0() {
    // The second one waits and demands nothing.
    let found = known(&interference(2, &all(&[(0.5, 0.8), (0.3, 0.0)])));
    assert!(found[1].1 < 1e-12);
    assert!((found[1].0 * found[0].1 - 0.24).abs() < 1e-9);
    // Noise below 0 is none.
    let found = interference(2, &[pair(0, 1, -0.01), pair(1, 0, -0.02), pair(0, 0, 0.0)]);
    assert_eq!(known(&found[..1]), [(0.0, 0.0)]);
}

#[test]
fn one_model_alone_has_the_root_of_what_its_own_kind_costs() {
    let found = interference(1, &[pair(0, 0, 0.44), pair(0, 0, 0.44)]);
    assert_near(&found, &[(0.44_f64.sqrt(), 0.44_f64.sqrt())], 1e-12);
    assert_eq!(known(&found).len(), 1);
    assert_eq!(interference(2, &[]), [None; 2]);
    assert_eq!(interference(1, &[pair(0, 0, f64::NAN)]), [None]);
}

#[test]
fn sets_that_nothing_binds_have_each_their_scale() {
    let apart = |pairs: Vec<Contention>, first: usize| {
        pairs.into_iter().map(move |pair| Contention {
            on: pair.on + first,
            by: pair.by + first,
            ..pair
        })
    };
    let one = [(0.2, 0.3), (0.4, 0.3)];
    let other = [(4.0, 2.0), (2.0, 4.0)];
    let pairs: Vec<Contention> = apart(all(&one), 0).chain(apart(all(&other), 2)).collect();
    let expected = [balanced(&one), balanced(&other)].concat();
    assert_near(&interference(4, &pairs), &expected, 1e-9);
}

#[test]
fn points_have_from_half_to_twice_of_a_model() {
    let model = Interference {
        sensitivity: 0.4,
        demand: 0.9,
    };
    let times = |longer| model.at(longer).demand / 0.9;
    assert!((times(Some(0.36)) - 1.0).abs() < 1e-12);
    assert!((times(Some(0.81)) - 1.5).abs() < 1e-12);
    assert!((times(Some(9.0)) - 2.0).abs() < 1e-12);
    assert!((times(Some(-0.1)) - 0.5).abs() < 1e-12);
    assert_eq!(model.at(None), model);
    let waits = Interference {
        demand: 0.0,
        ..model
    };
    assert_eq!(waits.at(Some(0.3)), waits, "its own kind tells nothing");
}

/// Models of four slices: one that its own kind makes take half as long again, and one that it
/// does not; each was measured beside the other on a quarter.
fn profile() -> Profile {
    let model = |name: &str, other: &str, own: f64, beside: f64| {
        let mut model = ModelProfile::new(name, format!("hash of {name}"), 4);
        for (batch, neighbours) in [(1, 0), (1, 3), (4, 0), (4, 3)] {
            let longer = if neighbours > 0 { 1.0 + own } else { 1.0 };
            let median_s = f64::from(batch) * 0.01 * longer;
            model.grid.push(GridPoint {
                batch,
                share: 1,
                neighbours,
                median_s: Some(median_s),
                p95_s: None,
                low_s: None,
                high_s: None,
                repeats: 9,
                failed: None,
            });
        }
        model.beside = vec![Beside {
            model: other.to_owned(),
            hash: format!("hash of {other}"),
            batch: 1,
            share: 1,
            neighbour_batch: 1,
            neighbours: 3,
            alone_s: 0.01,
            beside_s: 0.01 * (1.0 + beside),
            repeats: 9,
        }];
        model
    };
    Profile {
        schema: SCHEMA.to_owned(),
        device: DeviceKey {
            kind: "cpu".to_owned(),
            name: "test".to_owned(),
            slices: 4,
        },
        runtime: "test".to_owned(),
        synthetic: false,
        launch_s: None,
        models: vec![
            model("moves", "computes", 0.5, 0.0),
            model("computes", "moves", 0.0, 0.2),
        ],
    }
}

#[test]
fn a_profile_concludes_from_its_pairs_and_its_grids() {
    let mut profile = profile();
    assert_eq!(profile.check(), Ok(()));
    profile.conclude_interference();
    assert_eq!(profile.check(), Ok(()));
    let found: Vec<_> = profile.models.iter().map(|m| m.interference).collect();
    let found = known(&found);
    for (on, by, longer) in [(0, 0, 0.5), (0, 1, 0.0), (1, 0, 0.2), (1, 1, 0.0)] {
        let fitted = found[on].0 * found[by].1;
        assert!((fitted - longer).abs() < 1e-9, "{on} beside {by}: {fitted}");
    }
    // Legs have what their model has.
    let legs = profile.models[0].cut(&[1.0, 2.0]);
    let mut legs = legs.each_leg();
    assert!(legs.all(|leg| leg.interference == profile.models[0].interference));
}

#[test]
fn a_neighbour_of_other_content_says_nothing() {
    let mut profile = profile();
    for model in &mut profile.models {
        model.hash.push_str(", changed");
    }
    assert_eq!(profile.contentions(), []);
    profile.conclude_interference();
    assert!(profile.models.iter().all(|m| m.interference.is_none()));
}

#[test]
fn part_of_the_other_slices_counts_as_much_less() {
    let mut profile = profile();
    let beside = &mut profile.models[0].beside[0];
    (beside.neighbours, beside.beside_s) = (1, 0.011);
    let first = profile.contentions()[0];
    assert!((first.longer - 0.3).abs() < 1e-9, "{first:?}");
}

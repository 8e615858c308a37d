//! What a surface answers: quantiles, neighbours, and how far the answer is to be trusted.

use fugato_core::profile::{
    AnalysisOptions, Basis, Demand, GridPoint, Interference, ModelProfile, Surface, analyse,
};
use fugato_core::{BatchSize, Nanos, Share};

fn point(batch: u32, share: u16, neighbours: u16, median_ms: f64, p95_ms: f64) -> GridPoint {
    GridPoint {
        batch,
        share,
        neighbours,
        median_s: Some(median_ms / 1e3),
        p95_s: Some(p95_ms / 1e3),
        low_s: None,
        high_s: None,
        repeats: 20,
        failed: None,
    }
}

/// Four slices; latency is 10 ms per item and slice; beside three busy slices half as much
/// again, measured at batch 1 and 4 only.
fn surface() -> Surface {
    surface_with(None)
}

fn surface_with(interference: Option<(f64, f64)>) -> Surface {
    let mut model = ModelProfile::new("model", "hash", 8);
    for batch in [1, 2, 4] {
        for share in [1, 4] {
            let ms = 10.0 * f64::from(batch) / f64::from(share);
            model.grid.push(point(batch, share, 0, ms, ms * 1.2));
        }
    }
    model.grid.push(point(1, 1, 3, 15.0, 20.0));
    model.grid.push(point(4, 1, 3, 60.0, 80.0));
    model.interference = interference.map(|(sensitivity, demand)| Interference {
        sensitivity,
        demand,
    });
    model.sparse = true;
    assert_eq!(model.check(4), Ok(()));
    analyse(&mut model, &AnalysisOptions::new(4));
    Surface::new(&model, 4)
}

#[test]
fn measured_points_answer_their_own_quantiles() {
    let surface = surface();
    let cases = [
        (0.0, 10.0),
        (0.5, 10.0),
        (0.725, 11.0),
        (0.95, 12.0),
        (0.99, 12.0),
        (1.0, 12.0),
    ];
    for (quantile, expected_ms) in cases {
        let found = surface
            .predict(BatchSize(1), Share(1), Share(0), quantile)
            .expect("measured");
        assert_eq!(found.basis, Basis::Measured);
        let apart = found.time.as_millis_f64() - expected_ms;
        assert!(apart.abs() < 1e-3, "quantile {quantile}: {}", found.time);
    }
}

struct Case {
    name: &'static str,
    batch: u32,
    share: u16,
    neighbours: u16,
    expected_ms: f64,
    within: f64,
}

#[test]
fn neighbours_cost_what_was_measured_of_them() {
    let case = |name, at: (u32, u16, u16), expected_ms, within| Case {
        name,
        batch: at.0,
        share: at.1,
        neighbours: at.2,
        expected_ms,
        within,
    };
    let cases = [
        case("measured", (1, 1, 3), 15.0, 0.0),
        case("all busy, of another batch", (2, 1, 3), 30.0, 0.0),
        case("one of three busy", (1, 1, 1), 10.0 + 5.0 / 3.0, 0.0),
        case("two of three busy", (4, 1, 2), 40.0 + 40.0 / 3.0, 0.0),
        case("a fitted batch", (3, 1, 3), 45.0, 0.02),
        case("a fitted share", (2, 2, 2), 15.0, 0.02),
        case("no others", (2, 4, 0), 5.0, 0.0),
    ];
    let surface = surface();
    for case in cases {
        let found = surface
            .predict(
                BatchSize(case.batch),
                Share(case.share),
                Share(case.neighbours),
                0.5,
            )
            .expect(case.name);
        assert_eq!(found.basis, Basis::Measured, "{}", case.name);
        let apart = (found.time.as_millis_f64() - case.expected_ms).abs() / case.expected_ms;
        assert!(apart <= case.within + 1e-6, "{}: {}", case.name, found.time);
    }
}

#[test]
fn unknown_neighbours_are_marked_and_nothing_is_said_beyond_the_range() {
    let mut model = ModelProfile::new("model", "hash", 8);
    model.grid = [1, 2, 4]
        .map(|batch| point(batch, 1, 0, f64::from(batch), f64::from(batch)))
        .to_vec();
    analyse(&mut model, &AnalysisOptions::new(2));
    let surface = Surface::new(&model, 2);
    let predict = |batch, share, neighbours| {
        surface.predict(BatchSize(batch), Share(share), Share(neighbours), 0.95)
    };
    let beside = predict(2, 1, 1).expect("within the range");
    assert_eq!(beside.basis, Basis::Extrapolated);
    assert_eq!(beside.time, Nanos::from_millis(2));
    assert_eq!(predict(8, 1, 0), None, "a larger batch");
    assert_eq!(predict(2, 2, 0), None, "a larger share");
    assert_eq!(predict(8, 1, 1), None, "beside neighbours as alone");
    let nothing = Surface::new(&ModelProfile::new("empty", "hash", 8), 2);
    assert_eq!(nothing.predict(BatchSize(1), Share(1), Share(0), 0.5), None);
}

#[test]
fn neighbours_of_another_kind_cost_what_they_demand() {
    // Of batch 1 on one slice: 10 ms, 15 ms beside three of its own kind.
    let cases = [
        ("twice its own", (0.5, 1.0), 3, Some(2.0), 20.0),
        ("its own", (0.5, 1.0), 3, Some(1.0), 15.0),
        ("nobody knows", (0.5, 1.0), 3, None, 15.0),
        ("nothing", (0.5, 1.0), 3, Some(0.0), 10.0),
        (
            "on one of three",
            (0.5, 1.0),
            1,
            Some(2.0),
            10.0 + 10.0 / 3.0,
        ),
        ("none", (0.5, 1.0), 0, Some(2.0), 10.0),
        (
            "four times as strong here",
            (0.125, 1.0),
            3,
            Some(2.0),
            20.0,
        ),
        ("as strong as is believed", (0.05, 1.0), 3, Some(2.0), 17.0),
        ("and no less than nothing", (2.0, 2.0), 3, Some(0.0), 10.0),
        ("it demands nothing", (0.6, 0.0), 3, Some(0.5), 18.0),
        ("it waits for nothing", (0.0, 1.0), 3, Some(2.0), 15.0),
    ];
    for (name, own, neighbours, demand, expected_ms) in cases {
        let surface = surface_with(Some(own));
        let at = |quantile| {
            let neighbours = (Share(neighbours), demand.map(Demand::new));
            let found = surface.predict_beside(BatchSize(1), Share(1), neighbours, quantile);
            found.expect("measured")
        };
        let found = at(0.5);
        assert_eq!(found.basis, Basis::Measured, "{name}");
        let apart = found.time.as_millis_f64() - expected_ms;
        assert!(apart.abs() < 1e-5, "{name}: {}", found.time);
        // The tail is longer by as much.
        let tail = if neighbours == 3 { 20.0 / 15.0 } else { 1.2 };
        let apart = at(0.95).time.as_millis_f64() - expected_ms * tail;
        assert!(apart.abs() < 1e-5, "{name}: {}", at(0.95).time);
    }
    // A surface without such numbers has one cost for all.
    let neighbours = (Share(3), Some(Demand::new(9.0)));
    let found = surface().predict_beside(BatchSize(1), Share(1), neighbours, 0.5);
    assert_eq!(found.expect("measured").time, Nanos::from_millis(15));
}

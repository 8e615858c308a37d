//! Statistical tests with fixed seeds; bounds are several standard errors wide, so a
//! failure is a wrong process, not bad luck.

use super::*;
use crate::workload::{ModelLoad, Trace, parse_trace};
use proptest::prelude::*;

const SECOND: Nanos = Nanos::from_millis(1_000);

fn workload(seconds: u64, processes: Vec<ArrivalProcess>) -> Workload {
    let models = processes.into_iter().enumerate();
    let models = models
        .map(|(index, process)| ModelLoad::new(format!("m{index}"), SECOND, process))
        .collect();
    Workload::new(SECOND.times(seconds), Nanos::ZERO, None, models).expect("valid workload")
}

fn times(seconds: u64, process: ArrivalProcess, seed: u64) -> Vec<f64> {
    let arrivals = workload(seconds, vec![process]).arrivals(seed);
    arrivals
        .map(|arrival| (arrival.at - Timestamp::ZERO).as_secs_f64())
        .collect()
}

/// Asserts that `found` is within 5 standard deviations of a Poisson count.
fn assert_count(found: usize, expected: f64) {
    let error = (found as f64 - expected).abs();
    assert!(
        error <= 5.0 * expected.sqrt(),
        "{found} arrivals, expected {expected} +- 5 sd"
    );
}

#[test]
fn constant_arrivals_are_evenly_spaced() {
    let times = times(10, ArrivalProcess::Constant { rate: 100.0 }, 1);
    assert_eq!(times.len(), 1_000);
    assert!(times[0] < 0.01);
    for pair in times.windows(2) {
        assert!((pair[1] - pair[0] - 0.01).abs() < 2e-9, "{pair:?}");
    }
}

#[test]
fn poisson_gaps_are_exponential() {
    let rate = 200.0;
    for seed in [1, 2, 3] {
        let times = times(100, ArrivalProcess::Poisson { rate }, seed);
        assert_count(times.len(), rate * 100.0);
        let mut gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        gaps.sort_by(f64::total_cmp);
        // Kolmogorov-Smirnov against 1 - exp(-rate x); 1.95/sqrt(n) is the 0.1 % bound.
        let n = gaps.len() as f64;
        let distance = gaps.iter().enumerate().map(|(index, gap)| {
            let expected = 1.0 - (-rate * gap).exp();
            (expected - (index as f64 + 0.5) / n).abs() + 0.5 / n
        });
        let distance = distance.fold(0.0, f64::max);
        assert!(
            distance < 1.95 / n.sqrt(),
            "seed {seed}: distance {distance}"
        );
    }
}

#[test]
fn mmpp_spends_its_time_by_holding_times() {
    // Rates far apart, so that each 10 ms bin shows the state it lay in.
    let states = vec![
        MmppState {
            rate: 0.0,
            hold: Nanos::from_millis(600),
        },
        MmppState {
            rate: 2_000.0,
            hold: Nanos::from_millis(300),
        },
        MmppState {
            rate: 10_000.0,
            hold: Nanos::from_millis(100),
        },
    ];
    let process = ArrivalProcess::Mmpp { states };
    assert!((process.mean_rate(SECOND) - 1_600.0).abs() < 1e-9);
    let (seconds, mut bins) = (1_000_u64, vec![0_u32; 100_000]);
    for time in times(seconds, process, 11) {
        let bin = usize::try_from(whole(time * 100.0)).expect("a bin of 100,000");
        bins[bin] += 1;
    }
    let share = |low: u32, high: u32| {
        let inside = bins.iter().filter(|count| (low..high).contains(*count));
        inside.count() as f64 / bins.len() as f64
    };
    // About 1,000 stays per state: 4 standard errors are about 0.05.
    for (found, expected) in [
        (share(0, 5), 0.6),
        (share(5, 60), 0.3),
        (share(60, 1_000), 0.1),
    ] {
        assert!((found - expected).abs() < 0.05, "{found} for {expected}");
    }
}

#[test]
fn diurnal_rates_follow_the_sine() {
    let process = ArrivalProcess::Diurnal {
        base: 500.0,
        amplitude: 400.0,
        period: SECOND.times(4),
    };
    let times = times(80, process, 5);
    assert_count(times.len(), 500.0 * 80.0);
    // The rising half of a period holds base/2 + amplitude/pi of a period's requests.
    let first = times.iter().filter(|time| **time % 4.0 < 2.0).count();
    assert_count(first, 80.0 * (250.0 + 400.0 / std::f64::consts::PI));
}

#[test]
fn square_waves_hold_both_rates() {
    let process = ArrivalProcess::Square {
        low: 50.0,
        high: 1_000.0,
        period: SECOND,
        duty: 0.25,
    };
    assert!((process.mean_rate(SECOND) - 287.5).abs() < 1e-9);
    let times = times(60, process, 9);
    let high = times.iter().filter(|time| **time % 1.0 < 0.25).count();
    assert_count(high, 1_000.0 * 15.0);
    assert_count(times.len() - high, 50.0 * 45.0);
}

#[test]
fn traces_are_replayed_and_spread_over_their_interval() {
    let rows = parse_trace("time,model,count\n2,m,1\n0.5,m,3\n1,other,9\n99,m,1\n");
    let rows = rows.expect("valid trace");
    let exact = ArrivalProcess::Trace(Trace::new(&rows, "m", None));
    assert_eq!(times(10, exact.clone(), 1), [0.5, 0.5, 0.5, 2.0]);
    let doubled = exact.scaled(2.0).expect("valid");
    assert_eq!(times(10, doubled, 1).len(), 8);
    let spread = Trace::new(&rows, "m", Some(SECOND));
    let times = times(10, ArrivalProcess::Trace(spread), 1);
    assert_eq!(times.len(), 4);
    assert!(times[..3].iter().all(|time| (0.5..1.5).contains(time)));
    assert!(times.is_sorted() && times[0] < times[2]);
}

#[test]
fn a_fraction_of_a_trace_is_met_on_average() {
    let text: String = (0..4_000).map(|row| format!("{row},m,1\n")).collect();
    let rows = parse_trace(&format!("time,model,count\n{text}")).expect("valid trace");
    let process = ArrivalProcess::Trace(Trace::new(&rows, "m", None));
    let quarter = process.scaled(0.25).expect("valid");
    assert_count(times(4_000, quarter, 3).len(), 1_000.0);
}

#[test]
fn a_model_keeps_its_arrivals_when_others_change() {
    let poisson = |rate| ArrivalProcess::Poisson { rate };
    let of_first = |processes| -> Vec<Arrival> {
        let arrivals = workload(5, processes).arrivals(3);
        arrivals.filter(|arrival| arrival.model == 0).collect()
    };
    let alone = of_first(vec![poisson(100.0)]);
    assert_eq!(alone, of_first(vec![poisson(100.0), poisson(77.0)]));
    let other_seed: Vec<Arrival> = workload(5, vec![poisson(100.0)]).arrivals(4).collect();
    assert_ne!(alone, other_seed);
}

fn processes() -> impl Strategy<Value = ArrivalProcess> {
    let rate = 1.0..2_000.0;
    let period = (10_u64..3_000).prop_map(Nanos::from_millis);
    prop_oneof![
        rate.clone()
            .prop_map(|rate| ArrivalProcess::Constant { rate }),
        rate.clone()
            .prop_map(|rate| ArrivalProcess::Poisson { rate }),
        (rate.clone(), 0.0..=1.0, period.clone()).prop_map(|(base, part, period)| {
            ArrivalProcess::Diurnal {
                base,
                amplitude: base * part,
                period,
            }
        }),
        (rate.clone(), rate.clone(), period.clone(), 0.01..0.99).prop_map(
            |(low, high, period, duty)| ArrivalProcess::Square {
                low,
                high,
                period,
                duty
            }
        ),
        proptest::collection::vec((rate, period), 2..4).prop_map(|states| {
            let states = states.into_iter();
            ArrivalProcess::Mmpp {
                states: states
                    .map(|(rate, hold)| MmppState { rate, hold })
                    .collect(),
            }
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn arrivals_are_ordered_repeatable_and_inside(
        processes in proptest::collection::vec(processes(), 1..5),
        seed: u64,
    ) {
        let workload = workload(2, processes);
        let arrivals: Vec<Arrival> = workload.arrivals(seed).collect();
        prop_assert!(arrivals.is_sorted());
        prop_assert!(arrivals.iter().all(|arrival| arrival.at < Timestamp::ZERO + workload.end()));
        for model in 0..workload.models().len() {
            let of_model = arrivals.iter().filter(|arrival| arrival.model == model);
            prop_assert!(of_model.map(|arrival| arrival.sequence).eq(0..of_count(&arrivals, model)));
        }
        let again: Vec<Arrival> = workload.arrivals(seed).collect();
        prop_assert_eq!(arrivals, again);
    }
}

fn of_count(arrivals: &[Arrival], model: usize) -> u64 {
    let of_model = arrivals.iter().filter(|arrival| arrival.model == model);
    of_model.map(|_| 1).sum()
}

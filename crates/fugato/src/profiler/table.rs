//! A profile as people read it.

use fugato_core::profile::{
    Constraint, Contention, GridPoint, Interference, KneeRule, LegProfile, ModelProfile, Optimum,
    Precision, Profile, Times,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Columns of a grid; of more places, some are shown.
const COLUMNS_MAX: usize = 6;

/// Each model: its medians by batch and share, its knees and its optima.
pub fn of(profile: &Profile) -> String {
    let mut text = format!("{}, {}\n", profile.device, profile.runtime);
    if profile.synthetic {
        text.push_str("SYNTHETIC: computed, not measured\n");
    }
    let contentions = profile.contentions();
    for (index, model) in profile.models.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = write_model(&mut text, model);
        let _ = write_beside(&mut text, profile, &contentions, index);
    }
    text
}

fn write_model(text: &mut String, model: &ModelProfile) -> std::fmt::Result {
    let version = model.version.as_deref().unwrap_or("none");
    let precision = match model.precision {
        Precision::Fp32 => "",
        Precision::Fp16 => ", fp16",
    };
    writeln!(text, "\n{} (version {version}{precision})", model.name)?;
    write_grid(text, model)?;
    for point in &model.grid {
        if let Some(reason) = &point.failed {
            writeln!(text, "  failed at {}: {reason}", point.key())?;
        }
    }
    if let Some(batch) = model.knee_batch {
        let knee = describe_knee(model, batch);
        writeln!(text, "  knee at batch {batch}: {knee}")?;
    }
    for (name, optimum) in [
        ("efficacy", &model.optima.efficacy),
        ("work", &model.optima.work),
    ] {
        writeln!(text, "  best by {name}: {}", describe_optimum(optimum))?;
    }
    write_legs(text, model)
}

/// What neighbours cost a model, each kind as it was measured and as the numbers that were
/// fitted to all of them say; over the shares where it was, the mean.
fn write_beside(
    text: &mut String,
    profile: &Profile,
    contentions: &[Contention],
    on: usize,
) -> std::fmt::Result {
    let Some(Interference {
        sensitivity,
        demand,
    }) = profile.models[on].interference
    else {
        return Ok(());
    };
    write!(
        text,
        "  neighbours: sensitivity {sensitivity:.2}, demand {demand:.2}"
    )?;
    let mut beside: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    for pair in contentions.iter().filter(|pair| pair.on == on) {
        let (sum, count) = beside.entry(pair.by).or_default();
        *sum += pair.longer;
        *count += 1.0;
    }
    for (by, (sum, count)) in beside {
        let other = &profile.models[by];
        let name = match by == on {
            true => "itself",
            false => other.name.as_str(),
        };
        write!(text, "; beside {name} x {:.2}", 1.0 + sum / count)?;
        if let Some(other) = other.interference {
            let fitted = 1.0 + sensitivity * other.demand;
            write!(text, " (fitted {fitted:.2})")?;
        }
    }
    writeln!(text)
}

/// How many legs there are, how long, and what they can use: at the smallest batch and the
/// largest share that were measured of all, alone, beside the whole model there.
fn write_legs(text: &mut String, model: &ModelProfile) -> std::fmt::Result {
    let Some(first) = model.legs.first() else {
        return Ok(());
    };
    let assumed = match model.legs.iter().any(|leg| leg.assumed) {
        true => " (assumed)",
        false => "",
    };
    let longest = model.leg_plan.as_ref().and_then(|legs| legs.longest);
    let longest = longest.map_or_else(String::new, |longest| format!(" (cut at {longest})"));
    write!(text, "  {} legs{assumed}{longest}", model.legs.len())?;
    let alone = first.grid.iter().filter(|point| point.neighbours == 0);
    let place = alone.map(GridPoint::key);
    let place = place.max_by_key(|key| (key.share, std::cmp::Reverse(key.batch)));
    let time = |leg: &LegProfile| {
        let mut points = leg.grid.iter();
        let point = points.find(|point| Some(point.key()) == place)?;
        Some(point.times()?.median_s)
    };
    let times: Option<Vec<f64>> = model.legs.iter().map(time).collect();
    if let (Some(times), Some(place)) = (times, place) {
        let longest = times.iter().copied().fold(0.0, f64::max);
        write!(
            text,
            ": the longest {}, {} together at batch {} and share {}",
            millis(longest),
            millis(times.iter().sum()),
            place.batch,
            place.share
        )?;
        let whole = model.point(place).and_then(GridPoint::times);
        if let Some(whole) = whole {
            write!(text, " (the model as it is {})", millis(whole.median_s))?;
        }
    }
    let knees = model.legs.iter().map(|leg| leg.knee.tolerance);
    if let Some(knees) = knees.collect::<Option<BTreeSet<u16>>>()
        && let (Some(least), Some(most)) = (knees.first(), knees.last())
    {
        match least == most {
            true => write!(text, "; knee of each {least} by tolerance")?,
            false => write!(text, "; knees {least} to {most} by tolerance")?,
        }
    }
    writeln!(text)
}

/// Medians, a row for each batch and a column for each share, alone and beside others.
fn write_grid(text: &mut String, model: &ModelProfile) -> std::fmt::Result {
    let batches: BTreeSet<u32> = model.grid.iter().map(|point| point.batch).collect();
    let places = model
        .grid
        .iter()
        .map(|point| (point.share, point.neighbours));
    let places: BTreeSet<(u16, u16)> = places.collect();
    let all = places.len();
    let places = some_of(places.into_iter().collect());
    write!(text, "  {:>5}", "BATCH")?;
    for &(share, neighbours) in &places {
        let slices = if share == 1 { "SLICE" } else { "SLICES" };
        let beside = match neighbours {
            0 => String::new(),
            busy => format!(", {busy} BUSY"),
        };
        write!(text, "  {:>18}", format!("{share} {slices}{beside}"))?;
    }
    writeln!(text)?;
    for batch in batches {
        write!(text, "  {batch:>5}")?;
        for &place in &places {
            let mut points = model.grid.iter();
            let point =
                points.find(|p| (p.batch, p.share, p.neighbours) == (batch, place.0, place.1));
            write!(
                text,
                "  {:>18}",
                point.map_or_else(|| "-".to_owned(), describe)
            )?;
        }
        writeln!(text)?;
    }
    if places.len() < all {
        let shown = places.len();
        writeln!(text, "  {shown} of {all} columns; `--format json` has all")?;
    }
    Ok(())
}

/// At most [`COLUMNS_MAX`] of sorted places, both ends among them.
fn some_of(places: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    if places.len() <= COLUMNS_MAX {
        return places;
    }
    let last = places.len() - 1;
    let place = |index| places[index * last / (COLUMNS_MAX - 1)];
    (0..COLUMNS_MAX).map(place).collect()
}

fn describe(point: &GridPoint) -> String {
    let Some(times) = point.times() else {
        return "failed".to_owned();
    };
    let Times {
        median_s,
        low_s,
        high_s,
        ..
    } = times;
    let doubt = 100.0 * (high_s - median_s).max(median_s - low_s) / median_s;
    let doubt = match doubt {
        doubt if doubt < 9.95 => format!("{doubt:.1}"),
        doubt => format!("{doubt:.0}"),
    };
    format!("{} ±{doubt} %", millis(median_s))
}

/// Milliseconds with four digits that count.
fn millis(seconds: f64) -> String {
    let millis = seconds * 1e3;
    let digits = match millis {
        millis if millis < 1.0 => 4,
        millis if millis < 10.0 => 3,
        millis if millis < 100.0 => 2,
        millis if millis < 1_000.0 => 1,
        _ => 0,
    };
    format!("{millis:.digits$} ms")
}

fn describe_knee(model: &ModelProfile, batch: u32) -> String {
    let rules = [
        ("tolerance", model.knee.tolerance, KneeRule::Tolerance),
        ("efficacy", model.knee.efficacy, KneeRule::Efficacy),
        ("chord", model.knee.chord, KneeRule::Chord),
    ];
    let timed = model.grid.iter().filter(|point| {
        let alone = (point.batch, point.neighbours) == (batch, 0);
        alone && point.times().is_some()
    });
    let shares: BTreeSet<u16> = timed.map(|point| point.share).collect();
    let texts = rules.map(|(name, share, rule)| {
        let open = model.undecided_by.contains(&rule);
        match (share, rule, shares.len()) {
            (Some(share), ..) if open => format!("{share} by {name} (undecided)"),
            (Some(share), ..) => format!("{share} by {name}"),
            // The line from the first share to the last has none between: more measuring
            // would find nothing.
            (None, KneeRule::Chord, 1) => format!("none by {name} (one share)"),
            (None, KneeRule::Chord, 2) => format!("none by {name} (two shares)"),
            (None, ..) => format!("unknown by {name}"),
        }
    });
    texts.join(", ")
}

fn describe_optimum(optimum: &Optimum) -> String {
    match optimum {
        Optimum::Unknown => "unknown".to_owned(),
        Optimum::At(point) => {
            let open = match point.rivals.len() {
                0 => String::new(),
                1 => ", another point may be as good".to_owned(),
                rivals => format!(", {rivals} other points may be as good"),
            };
            let how = if point.measured { "" } else { " (fitted)" };
            format!(
                "batch {} at share {}, {}{how}{open}",
                point.batch,
                point.share,
                millis(point.latency_s)
            )
        }
        Optimum::Infeasible(why) => {
            let constraint = match why.constraint {
                Constraint::Assembly => "assembling and running a batch within the SLO",
                Constraint::HalfSlo => "running within half of the SLO",
            };
            format!(
                "infeasible: {constraint} fails by {}, nearest is batch {} at share {}",
                millis(why.shortfall_s),
                why.nearest.batch,
                why.nearest.share
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fugato_core::profile::{Beside, DeviceKey, SCHEMA};

    /// A model of two slices that takes 10 ms, and half as long again beside its own kind and
    /// beside a model, of which both numbers are.
    fn model(name: &str, neighbour: &str) -> ModelProfile {
        let mut model = ModelProfile::new(name, format!("hash of {name}"), 1);
        for (neighbours, median_s) in [(0, 0.01), (1, 0.015)] {
            model.grid.push(GridPoint {
                batch: 1,
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
            model: neighbour.to_owned(),
            hash: format!("hash of {neighbour}"),
            batch: 1,
            share: 1,
            neighbour_batch: 1,
            neighbours: 1,
            alone_s: 0.01,
            beside_s: 0.015,
            repeats: 9,
        }];
        model
    }

    #[test]
    fn what_neighbours_cost_is_told_as_measured_and_as_fitted() {
        let mut profile = Profile {
            schema: SCHEMA.to_owned(),
            device: DeviceKey {
                kind: "cpu".to_owned(),
                name: "test".to_owned(),
                slices: 2,
            },
            runtime: "test".to_owned(),
            synthetic: false,
            launch_s: None,
            models: vec![model("one", "two"), model("two", "one")],
        };
        assert!(!of(&profile).contains("neighbours:"));
        profile.conclude_interference();
        let told = "neighbours: sensitivity 0.71, demand 0.71; beside itself x 1.50 (fitted 1.50); \
                    beside two x 1.50 (fitted 1.50)\n";
        let text = of(&profile);
        assert!(text.contains(told), "{text}");
        // Where the other one is left out, what was measured of it is, too.
        profile.models.pop();
        let told = "neighbours: sensitivity 0.71, demand 0.71\n";
        let text = of(&profile);
        assert!(text.contains(told), "{text}");
    }
}

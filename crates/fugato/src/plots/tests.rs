//! Every chart of profiles of two devices: well-formed, labelled, and honest.

use super::{PlotError, charts, write};
use fugato_core::profile::{
    AnalysisOptions, Candidate, Constraint, DeviceKey, GridPoint, Infeasible, KneeRule,
    ModelProfile, Optimum, Profile, SCHEMA, analyse, v100_dstack,
};
use roxmltree::Document;

fn point(batch: u32, share: u16, neighbours: u16, median_s: f64) -> GridPoint {
    GridPoint {
        batch,
        share,
        neighbours,
        median_s: Some(median_s),
        p95_s: Some(median_s * 1.08),
        low_s: Some(median_s * 0.98),
        high_s: Some(median_s * 1.03),
        repeats: 30,
        failed: None,
    }
}

/// A model whose latency falls down to `parallel` slices and rises slowly past them.
fn model(name: &str, slices: u16, step: u16, parallel: f64) -> ModelProfile {
    let mut model = ModelProfile::new(name, "0123456789abcdef", 16);
    for batch in [1, 2, 4, 8, 16] {
        for share in (step..=slices).step_by(usize::from(step)) {
            let (items, width) = (f64::from(batch), f64::from(share));
            let able = parallel * items.powf(0.4);
            let time = 0.002 + 0.02 * items / width.min(able) + 0.0001 * (width - 1.0);
            model.grid.push(point(batch, share, 0, time));
            if share < slices {
                model
                    .grid
                    .push(point(batch, share, slices - share, time * 1.12));
            }
        }
    }
    model.slo_s = Some(0.2);
    analyse(&mut model, &AnalysisOptions::new(slices));
    model
}

fn profile(slices: u16, models: Vec<ModelProfile>) -> Profile {
    Profile {
        schema: SCHEMA.to_owned(),
        device: DeviceKey {
            kind: "cpu".to_owned(),
            name: "AMD EPYC".to_owned(),
            slices,
        },
        runtime: "onnxruntime 1.31.1".to_owned(),
        synthetic: false,
        launch_s: None,
        models,
    }
}

fn two_slices() -> Profile {
    let names = ["shufflenet", "squeezenet", "resnet50"];
    let models = names.iter().enumerate();
    let models = models.map(|(index, name)| model(name, 2, 1, 0.8 + 0.4 * index as f64));
    profile(2, models.collect())
}

fn eighty_slices() -> Profile {
    v100_dstack()
}

/// The texts of a chart, hints of the pointer left out.
fn texts(svg: &str) -> Vec<String> {
    let document = Document::parse(svg).expect("well-formed XML");
    let texts = document
        .descendants()
        .filter(|node| node.has_tag_name("text"));
    texts
        .filter_map(|node| node.text().map(str::to_owned))
        .collect()
}

fn chart(profile: &Profile, file: &str) -> String {
    let charts = charts(profile).expect("a profile with points");
    let chart = charts.into_iter().find(|chart| chart.file == file);
    chart.unwrap_or_else(|| panic!("no chart `{file}`")).svg
}

fn says(svg: &str, words: &str) -> bool {
    texts(svg).iter().any(|text| text.contains(words))
}

#[test]
fn every_chart_is_well_formed_and_lies_on_its_page() {
    for profile in [two_slices(), eighty_slices()] {
        let charts = charts(&profile).expect("a profile with points");
        assert_eq!(charts.len(), 1 + 3 * profile.models.len());
        for chart in charts {
            let document = Document::parse(&chart.svg).expect("well-formed XML");
            for node in document.descendants() {
                for (name, most) in [("x", 1280.0), ("cx", 1280.0), ("y", 720.0), ("cy", 720.0)] {
                    let Some(value) = node.attribute(name) else {
                        continue;
                    };
                    let value: f64 = value.parse().expect("a number");
                    assert!((0.0..=most).contains(&value), "{}: {node:?}", chart.file);
                }
            }
        }
    }
}

#[test]
fn equal_profiles_give_equal_bytes() {
    let of = || charts(&eighty_slices()).expect("a profile with points");
    assert_eq!(of(), of());
}

#[test]
fn the_knee_is_told_by_each_definition_and_undecided_ones_as_such() {
    let svg = chart(&two_slices(), "resnet50-latency.svg");
    for words in [
        "knee, tolerance",
        "knee, efficacy",
        "knee, chord",
        "batch 16",
    ] {
        assert!(says(&svg, words), "{words}");
    }
    // The chord of two shares has no point below it.
    assert!(says(&svg, "too few shares"));
    let mut profile = two_slices();
    let model = &mut profile.models[2];
    model.knee.tolerance = Some(2);
    model.knee.efficacy = Some(1);
    model.undecided_by = vec![KneeRule::Tolerance];
    let svg = chart(&profile, "resnet50-latency.svg");
    assert!(says(&svg, "2 slices, undecided"));
    assert!(texts(&svg).contains(&"1 slice".to_owned()));
    let svg = chart(&eighty_slices(), "resnet50-latency.svg");
    // 40 % of 80, as the table says.
    assert!(texts(&svg).contains(&"32 slices".to_owned()));
    assert!(says(&svg, "as published"));
}

#[test]
fn axes_name_their_units() {
    let profile = two_slices();
    for (file, units) in [
        ("resnet50-latency.svg", ["share, slices", "latency, ms"]),
        ("resnet50-throughput.svg", ["batch, items", "items/s"]),
        ("resnet50-optima.svg", ["share, slices", "batch"]),
        ("overview.svg", ["share, slices", "latency over the best"]),
    ] {
        let svg = chart(&profile, file);
        assert!(units.iter().all(|unit| says(&svg, unit)), "{file}");
    }
}

#[test]
fn computed_profiles_say_so_and_two_slices_say_what_they_cannot_show() {
    for (profile, words) in [
        (eighty_slices(), "SYNTHETIC"),
        (two_slices(), "cannot prove a knee"),
    ] {
        for chart in charts(&profile).expect("a profile with points") {
            assert!(says(&chart.svg, words), "{}", chart.file);
        }
    }
    assert!(!says(&chart(&two_slices(), "overview.svg"), "SYNTHETIC"));
}

#[test]
fn points_with_busy_neighbours_are_told_from_those_alone() {
    let busy = chart(&two_slices(), "resnet50-latency.svg");
    assert!(says(&busy, "other slices busy"));
    let mut alone = two_slices();
    alone.models[2].grid.retain(|point| point.neighbours == 0);
    assert!(!says(
        &chart(&alone, "resnet50-latency.svg"),
        "other slices busy"
    ));
}

#[test]
fn an_infeasible_objective_names_its_constraint_and_the_nearest_point() {
    let mut profile = two_slices();
    let why = Infeasible {
        constraint: Constraint::HalfSlo,
        shortfall_s: 0.0123,
        nearest: Candidate { batch: 1, share: 2 },
    };
    let model = &mut profile.models[0];
    model.slo_s = Some(0.001);
    model.optima.efficacy = Optimum::Infeasible(why);
    model.optima.work = Optimum::Infeasible(why);
    let svg = chart(&profile, "shufflenet-optima.svg");
    assert!(says(&svg, "half of the objective is missed by 12.3 ms"));
    assert!(says(&svg, "too late"));
}

#[test]
fn a_failed_point_is_named_with_its_reason_and_the_others_are_drawn() {
    let mut profile = two_slices();
    let last = profile.models[1].grid.last_mut().expect("points");
    *last = GridPoint {
        median_s: None,
        p95_s: None,
        low_s: None,
        high_s: None,
        failed: Some("out of memory".to_owned()),
        ..last.clone()
    };
    let svg = chart(&profile, "squeezenet-latency.svg");
    assert!(says(&svg, "Failed: batch 16 on 2 slices: out of memory"));
    assert!(says(&svg, "batch 8"));
}

#[test]
fn names_are_escaped_and_stay_in_the_folder() {
    let names = [
        "../<b>&\"x\"",
        "../<b>&\"y\"",
        ".hidden",
        "a\u{7}b",
        "modèle",
    ];
    let models = names.map(|name| model(name, 2, 1, 1.0)).to_vec();
    let profile = profile(2, models);
    let charts = charts(&profile).expect("a profile with points");
    for chart in &charts {
        assert!(
            !chart.file.contains('/') && !chart.file.starts_with('.'),
            "{}",
            chart.file
        );
    }
    let mut files: Vec<_> = charts.iter().map(|chart| &chart.file).collect();
    files.sort();
    files.dedup();
    assert_eq!(files.len(), charts.len());
    let first = charts
        .iter()
        .find(|chart| chart.file.ends_with("latency.svg"));
    assert!(texts(&first.expect("a chart").svg).contains(&names[0].to_owned()));
}

#[test]
fn what_cannot_be_drawn_is_a_typed_error() {
    assert!(matches!(
        charts(&profile(2, Vec::new())),
        Err(PlotError::Empty { models: 0, .. })
    ));
    let mut nan = two_slices();
    nan.models[0].grid[0].median_s = Some(f64::NAN);
    assert!(matches!(charts(&nan), Err(PlotError::Profile(_))));
}

#[test]
fn charts_are_written_into_a_folder_that_is_made() {
    let folder = tempfile::tempdir().expect("a folder");
    let inner = folder.path().join("charts");
    let written = write(&two_slices(), &inner).expect("written");
    assert_eq!(written.len(), 10);
    assert!(written.iter().all(|path| path.is_file()));
    let blocked = folder.path().join("file");
    std::fs::write(&blocked, "").expect("written");
    assert!(matches!(
        write(&two_slices(), &blocked),
        Err(PlotError::Write { .. })
    ));
}

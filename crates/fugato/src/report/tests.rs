//! Pages are parsed as XML, which they also are but for the doctype: a tag left open or a
//! character left unescaped is found.

use super::*;
use crate::bench::report::{ClientUsage, Loop, ModelReport};
use crate::bench::stats::{self, Outcome, Recorder};
use crate::provenance::Provenance;
use fugato_core::Nanos;
use roxmltree::{Document, ParsingOptions};

/// A run of two models, the second with a name meant to break pages.
pub(crate) fn measured(stretch: u64) -> Report {
    let slo = Nanos::from_millis(25);
    let measured = Nanos::from_millis(20_000);
    let names = ["resnet50", "<script>alert('x')</script>&\""];
    let models = names.iter().zip(1_u64..).map(|(name, factor)| {
        let mut recorder = Recorder::default();
        for index in 0..2_000_u64 {
            let after = Nanos::from_millis(index * 10);
            recorder.scheduled(after);
            let latency = Nanos::from_micros(2_000 + index * 37 % 900 * 25 * factor * stretch / 10);
            let outcome = match index % 50 {
                7 => Outcome::Rejected {
                    label: "queue_full".to_owned(),
                    why: "429: <b>busy</b>".to_owned(),
                },
                11 => Outcome::Rejected {
                    label: "deadline_unreachable".to_owned(),
                    why: "503: too late".to_owned(),
                },
                _ => Outcome::Answered { batch: Some(4) },
            };
            recorder.ended(outcome, after, Nanos::from_micros(40), latency);
        }
        ModelReport {
            name: (*name).to_owned(),
            slo_ms: Some(25.0),
            offered_rps: Some(100.0),
            batch: 1,
            figures: recorder.figures(Some(slo), measured),
        }
    });
    let models: Vec<ModelReport> = models.collect();
    Report {
        schema: REPORT_SCHEMA.to_owned(),
        version: "0.1.0".to_owned(),
        provenance: Some(Provenance::of_this_process()),
        pacing: Loop::Open,
        interrupted: false,
        urls: vec!["grpc://127.0.0.1:8001".to_owned()],
        seed: 7,
        checked: true,
        shared_memory: true,
        warmup_s: 2.0,
        measured_s: 20.0,
        client: ClientUsage {
            cpu_s: Some(2.0),
            nice: Some(0),
            wall_s: 22.0,
            max_outstanding: 512,
        },
        server: None,
        total: stats::Figures::total(models.iter().map(|model| &model.figures), measured),
        models,
        warnings: vec!["a <warning>".to_owned()],
    }
}

const SIMULATION: &str = r#"{
    "schema": "fugato.simulation/1", "seed": 3, "profile": "V100 <x>", "synthetic": true,
    "devices": 1, "slices": 80, "duration_s": 60.0, "more": [],
    "policies": [
        {"policy": "temporal", "goodput": 500.0, "attainment": 0.8, "utilisation": 0.44,
         "occupancy": 0.9, "jain": 0.8, "rejected": 3, "late": 4, "action_hash": "0",
         "models": [{"name": "alexnet", "requests": 9, "goodput": 4.5, "attainment": null,
                     "p50_ms": 1.5, "p99_ms": null, "mean_batch": 2.0}]},
        {"policy": "dstack", "goodput": 1000.0, "attainment": null, "utilisation": 0.74,
         "occupancy": 0.9, "jain": 0.99, "rejected": 3, "late": 4, "models": []}
    ]}"#;

/// The texts of a page, cells of tables among them.
fn check(page: &str) -> Vec<String> {
    // XML has no elements that are never closed.
    let mut xml = page.to_owned();
    for start in ["<meta "] {
        let mut closed = String::new();
        for (index, part) in xml.split(start).enumerate() {
            match part.find('>').filter(|_| index > 0) {
                Some(end) => {
                    closed += &format!("{start}{}/{}", &part[..end], &part[end..]);
                }
                None => closed += part,
            }
        }
        xml = closed;
    }
    let options = ParsingOptions {
        allow_dtd: true,
        ..ParsingOptions::default()
    };
    let document = Document::parse_with_options(&xml, options).expect("well-formed");
    for node in document.descendants().filter(roxmltree::Node::is_element) {
        assert!(node.tag_name().name() != "script");
        for attribute in node.attributes() {
            let name = attribute.name();
            assert!(!["src", "href", "xlink:href"].contains(&name) && !name.starts_with("on"));
        }
    }
    assert!(!page.contains("url(") && !page.contains("@import"));
    let texts = document.descendants().filter(roxmltree::Node::is_text);
    texts
        .filter_map(|node| node.text().map(str::to_owned))
        .collect()
}

#[test]
fn a_run_is_shown_in_full_and_nothing_in_it_is_markup() {
    let page = page(&[Run::measured("a <b>", measured(10))]);
    let texts = check(&page);
    let says = |words: &str| texts.iter().any(|text| text.contains(words));
    for words in [
        "MEASURED",
        "a <b>",
        "<script>alert('x')</script>&\"",
        "a <warning>",
        "429: <b>busy</b>",
        "refused: queue_full",
        "open loop",
        "grpc://127.0.0.1:8001",
        "compared with expected ones",
    ] {
        assert!(says(words), "{words}");
    }
    assert!(!says("SIMULATED"));
    let charts = texts.iter().filter(|text| *text == "Goodput over time");
    assert_eq!(charts.count(), 1);
}

#[test]
fn runs_are_compared_as_ratios_and_unequal_loads_are_named() {
    let mut other = measured(20);
    other.models[0].offered_rps = Some(120.0);
    other.pacing = Loop::Closed { concurrency: 2 };
    let ratio = other.total.goodput_rps / measured(10).total.goodput_rps;
    let page = page(&[
        Run::measured("before", measured(10)),
        Run::measured("after", other),
    ]);
    let texts = check(&page);
    let says = |words: &str| texts.iter().any(|text| text.contains(words));
    assert!(says(&format!("{ratio:.2}\u{d7}")), "{ratio}");
    assert!(says("1.00\u{d7}"));
    assert!(says("`resnet50` was offered 120.0/s, not 100.0/s"));
    assert!(says("the loop differs") && says("CLOSED LOOP, 2 outstanding per model"));
}

#[test]
fn simulated_and_measured_figures_stand_apart() {
    let simulated = Run::from_json("sim", SIMULATION).expect("a simulation");
    let alone = page(std::slice::from_ref(&simulated));
    assert!(check(&alone).iter().all(|text| text != "MEASURED"));
    let mixed = page(&[
        simulated.clone(),
        Run::measured("real", measured(10)),
        simulated,
    ]);
    check(&mixed);
    let (real, rest) = mixed
        .split_once("<strong>SIMULATED</strong>")
        .expect("a band");
    assert!(real.contains("<strong>MEASURED</strong>") && !real.contains("dstack"));
    assert!(rest.contains("dstack") && rest.contains("2.00\u{d7}") && !rest.contains("resnet50"));
}

#[test]
fn simulations_that_were_set_up_otherwise_are_named() {
    let set_up = |workload: &str, slots: u16, loads: &str| {
        let setup = format!(
            r#""workload": "{workload}", "scale": 1.0, "warmup_s": 1.0, "deadlines": "enforce",
               "slots": {slots}, "instances": 1, "launch_us": 20.0, "boundary_us": 5.0,
               "noise": false, "loads": [{loads}], "policies": ["#
        );
        SIMULATION.replace("\"policies\": [", &setup).replacen(
            "\"late\": 4",
            "\"late\": 4, \"dropped\": 2303",
            1,
        )
    };
    let load = |name: &str, rate: f64| {
        format!(
            r#"{{"name": "{name}", "slo_ms": 25.0, "rate": {rate}, "items": 1, "max_batch": 8}}"#
        )
    };
    let two = set_up("c-2", 2, &load("alexnet", 100.0));
    let three = [load("alexnet", 120.0), load("resnet50", 80.0)].join(", ");
    let three = set_up("c-3", 4, &three);
    let run = |label, text: &str| Run::from_json(label, text).expect(label);
    let alone = page(&[run("c-2", &two)]);
    let texts = check(&alone);
    let says = |texts: &[String], words: &str| texts.iter().any(|text| text.contains(words));
    for words in [
        "c-2: alexnet 100.0/s in 25 ms",
        "up to 2 tasks",
        "dropped",
        "2303",
    ] {
        assert!(says(&texts, words), "{words}");
    }
    let both = check(&page(&[
        run("c-2", &two),
        run("c-3", &three),
        run("old", SIMULATION),
    ]));
    for words in [
        "`c-3` was not simulated as `c-2`: workload c-3, not c-2; slots 4, not 2",
        "`alexnet` was asked 120.0/s, not 100.0/s",
        "`resnet50` besides",
        "`old` was not simulated as `c-2`: only one says its workload",
    ] {
        assert!(says(&both, words), "{words}: {both:?}");
    }
    let same = check(&page(&[run("one", &two), run("two", &two)]));
    assert!(!says(&same, "was not simulated as"));
}

#[test]
fn what_a_run_is_written_as_is_read_back() {
    let report = measured(10);
    let run = Run::from_json("r", &report.json()).expect("a run");
    let Figures::Measured(read) = &run.figures else {
        panic!("not measured: {run:?}");
    };
    assert_eq!(read.json(), report.json());
}

#[test]
fn the_committed_runs_can_be_read() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bench/runs");
    let mut folders = vec![root];
    let mut read = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.extension().is_none_or(|ending| ending != "json") {
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("text");
            if text.contains("\"fugato.bench/1\"") && text.starts_with("{\n  \"schema\"") {
                let run = Run::from_json(path.display().to_string(), &text);
                check(&page(&[run.expect("a run")]));
                read += 1;
            }
        }
    }
    assert!(read > 0, "no run is committed as JSON");
}

#[test]
fn what_is_no_run_is_refused_by_name() {
    let error = |text| Run::from_json("x.json", text).expect_err(text).to_string();
    assert!(error("no").contains("`x.json` is not JSON"));
    assert!(error(r#"{"schema":"fugato.profile/1"}"#).contains("fugato.profile/1"));
    assert!(error(r#"{"schema":"fugato.bench/1"}"#).contains("not of its schema"));
    check(&page(&[]));
}

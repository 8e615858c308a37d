//! House rules that a machine can check: sizes, words, links, documentation.

use fugato::telemetry::{ModelGauges, Telemetry};
use fugato_core::profile::{Knee, Source, Standing};
use fugato_core::sched::ProfileStatus;
use fugato_core::{DeviceId, Nanos};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A file is split before it is longer than this, its tests not counted.
const FILE_LINES_MAX: usize = 800;
/// The README must be read to its end.
const README_LINES_MAX: usize = 150;
/// An ADR is one page.
const ADR_LINES_MAX: usize = 60;

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().expect("the workspace exists")
}

/// The project's own files: what is built or fetched is not looked at.
fn files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let built = ["target", ".git", ".fugato", ".gpu", "__pycache__", "shared"];
            if built.contains(&name.as_ref()) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The files whose names end in one of `endings`, with their text, by path from the root.
fn texts(endings: &[&str]) -> Vec<(String, String)> {
    let root = root();
    let relative = |path: &Path| {
        let path = path.strip_prefix(&root).expect("below the root");
        path.to_string_lossy().into_owned()
    };
    files()
        .iter()
        .map(|path| (relative(path), path))
        .filter(|(name, _)| endings.iter().any(|ending| name.ends_with(ending)))
        .map(|(name, path)| (name, fs::read_to_string(path).expect("UTF-8")))
        .collect()
}

/// Fails with all the faults at once, one a line.
fn report(rule: &str, faults: &[String]) {
    assert!(faults.is_empty(), "{rule}:\n{}", faults.join("\n"));
}

#[test]
fn files_are_short_enough_to_follow() {
    let mut faults = Vec::new();
    for (name, text) in texts(&[".rs", ".py", ".sh"]) {
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or("");
        let lines = code.lines().count();
        let is_test = name.contains("/tests/") || name.ends_with("tests.rs");
        if lines > FILE_LINES_MAX && !is_test {
            faults.push(format!("{name}: {lines} lines, at most {FILE_LINES_MAX}"));
        }
    }
    let readme = fs::read_to_string(root().join("README.md")).expect("a README");
    let lines = readme.lines().count();
    if lines > README_LINES_MAX {
        faults.push(format!(
            "README.md: {lines} lines, at most {README_LINES_MAX}"
        ));
    }
    for (name, text) in texts(&[".md"]) {
        let lines = text.lines().count();
        if name.starts_with("docs/adr/") && lines > ADR_LINES_MAX {
            faults.push(format!("{name}: {lines} lines, at most {ADR_LINES_MAX}"));
        }
    }
    report("split what is too long", &faults);
}

#[test]
fn banned_words_do_not_occur() {
    // Put together here, so that this file does not hold them.
    let banned = [
        ["to", "do!("].concat(),
        ["unimpl", "emented!("].concat(),
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["XX", "X"].concat(),
        ["HA", "CK"].concat(),
        ["Box<dyn ", "Error>"].concat(),
        ["mod ", "utils"].concat(),
        ["mod ", "helpers"].concat(),
        ["pypi", ".org"].concat(),
        ["pythonhosted", ".org"].concat(),
    ];
    let mut faults = Vec::new();
    for (name, text) in texts(&[".rs", ".py", ".sh", ".md", ".toml", "Makefile", ".proto"]) {
        for (number, line) in text.lines().enumerate() {
            let words = banned.iter().filter(|word| line.contains(word.as_str()));
            faults.extend(words.map(|word| format!("{name}:{}: `{word}`", number + 1)));
        }
    }
    report("say it, do it or leave it out", &faults);
}

#[test]
fn no_path_of_a_developers_machine_occurs() {
    let homes = ["/ho", "/ro", "/Use", "/wo", "/t"];
    let rests = ["me/", "ot/", "rs/", "rk/", "mp/"];
    let mut faults = Vec::new();
    for (name, text) in texts(&[".rs", ".py", ".sh", ".md", ".toml", "Makefile", "/run"]) {
        for (number, line) in text.lines().enumerate() {
            for home in homes
                .iter()
                .zip(rests)
                .map(|(start, rest)| format!("{start}{rest}"))
            {
                let mut starts = line.match_indices(&home).map(|(at, _)| at);
                // Within a longer path (`~/work/`) or a URL it is no absolute path.
                let absolute = starts.any(|at| {
                    let before = line[..at].chars().next_back();
                    !before.is_some_and(|c| c.is_alphanumeric() || "._~/-}$".contains(c))
                });
                if absolute {
                    faults.push(format!("{name}:{}: {}", number + 1, line.trim()));
                }
            }
        }
    }
    report("paths are relative to the project", &faults);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut faults = Vec::new();
    for (name, text) in texts(&[".md"]) {
        let folder = root().join(&name);
        let folder = folder.parent().expect("a file has a folder");
        for target in links(&text) {
            let path = target.split('#').next().unwrap_or("");
            let outside = target.contains("://") || target.starts_with("mailto:");
            if !outside && !path.is_empty() && !folder.join(path).exists() {
                faults.push(format!("{name}: `{target}`"));
            }
        }
    }
    report("dead links", &faults);
}

/// The targets of a document's links and pictures, code not looked at.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for (at, _) in line.match_indices("](") {
            let rest = &line[at + 2..];
            found.extend(rest.split_once(')').map(|(target, _)| target.to_owned()));
        }
    }
    found
}

#[test]
fn every_document_is_reached_from_the_readme() {
    let mut reached = BTreeSet::from(["README.md".to_owned()]);
    let mut waiting = vec!["README.md".to_owned()];
    let root = root();
    while let Some(name) = waiting.pop() {
        let text = fs::read_to_string(root.join(&name)).expect("it was listed");
        for target in links(&text) {
            let path = target.split('#').next().unwrap_or("");
            let folder = root.join(&name);
            let joined = folder.parent().expect("a folder").join(path);
            let Ok(path) = joined.canonicalize() else {
                continue;
            };
            let Ok(inside) = path.strip_prefix(&root) else {
                continue;
            };
            let inside = inside.to_string_lossy().into_owned();
            if inside.ends_with(".md") && reached.insert(inside.clone()) {
                waiting.push(inside);
            }
        }
    }
    let unreached: Vec<String> = texts(&[".md"])
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| name.starts_with("docs/") && !reached.contains(name))
        .collect();
    report("no link leads to", &unreached);
}

/// What a server with one model shows of metrics.
fn metrics_text() -> String {
    let telemetry = Telemetry::new();
    let model = telemetry.model("m", "1");
    let gauges = ModelGauges {
        prediction_error: Some(0.1),
        ..ModelGauges::default()
    };
    telemetry.show(&model, &gauges);
    let standing = Standing {
        median: Source::Profile,
        tail: Source::Online,
        profile_error: Some(0.1),
        online_error: Some(0.1),
        drifted: false,
    };
    let status = ProfileStatus {
        standing: Some(standing),
        measuring: false,
        points: 1,
        device_time: Nanos::new(1),
    };
    let knee = Knee {
        tolerance: Some(1),
        ..Knee::default()
    };
    telemetry.show_profile(&model, &status, Some((knee, 1)));
    let gpu = fugato_device::GpuHealth {
        memory_used: Some(1),
        memory_total: Some(2),
        power_milliwatts: Some(3),
        energy_millijoules: Some(4),
        busy_percent: Some(5),
        sm_active_percent: Some(7.0),
        sm_occupied_percent: Some(8.0),
        celsius: Some(6),
    };
    telemetry.show_place(&model, DeviceId(0));
    let counted = fugato_device::DeviceMetrics {
        gpu: Some(gpu),
        ..Default::default()
    };
    telemetry.encode(&[(DeviceId(0), counted)])
}

/// The names of all metrics, by `# TYPE`.
fn metric_names() -> Vec<String> {
    let text = metrics_text();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let names: Vec<String> = types
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect();
    assert!(names.len() > 20, "most metrics are missing: {names:?}");
    names
}

#[test]
fn every_metric_is_documented() {
    let page = fs::read_to_string(root().join("docs/reference/metrics.md")).expect("the page");
    let mut missing = metric_names();
    missing.retain(|name| {
        let forms = [format!("`{name}`"), format!("`{name}_total`")];
        !forms.iter().any(|form| page.contains(form))
    });
    report("not in docs/reference/metrics.md", &missing);
}

/// Every expression of the dashboard, and the queries of its variables.
fn dashboard_queries(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(members) => {
            for (name, value) in members {
                match value.as_str() {
                    Some(text) if ["expr", "definition"].contains(&name.as_str()) => {
                        found.push(text.to_owned());
                    }
                    Some(_) | None => dashboard_queries(value, found),
                }
            }
        }
        serde_json::Value::Array(values) => {
            for value in values {
                dashboard_queries(value, found);
            }
        }
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::String(_) => {}
    }
}

#[test]
fn the_dashboard_asks_for_metrics_that_there_are() {
    let text = fs::read_to_string(root().join("deploy/grafana/fugato.json")).expect("the file");
    let dashboard = serde_json::from_str(&text).expect("the dashboard is JSON");
    let mut queries = Vec::new();
    dashboard_queries(&dashboard, &mut queries);
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = queries
        .iter()
        .flat_map(|query| query.split(|c| !is_word(c)));
    let asked: BTreeSet<&str> = words
        .filter(|word| word.starts_with("fugato_") || word.starts_with("nv_"))
        .collect();
    assert!(asked.len() > 10, "too few to be all: {asked:?}");
    let text = metrics_text();
    let known: BTreeSet<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let unknown: Vec<String> = asked
        .into_iter()
        .filter(|name| !known.contains(name))
        .map(str::to_owned)
        .collect();
    report(
        "asked for by deploy/grafana/fugato.json and not there",
        &unknown,
    );
}

#[test]
fn the_cores_lints_repeat_the_roots() {
    let keys = |path: &str| -> toml::Table {
        let text = fs::read_to_string(root().join(path)).expect("a clippy.toml");
        toml::from_str(&text).expect("TOML")
    };
    let core = keys("crates/fugato-core/clippy.toml");
    for (key, value) in keys("clippy.toml") {
        assert_eq!(core.get(&key), Some(&value), "{key}: the nearest file wins");
    }
}

#[test]
fn unsafe_code_is_in_one_crate() {
    let mut faults = Vec::new();
    let keyword = ["unsafe", " {"].concat();
    for (name, text) in texts(&[".rs"]) {
        if text.contains(&keyword) && !name.starts_with("crates/fugato-device/") {
            faults.push(name);
        }
    }
    report("only crates/fugato-device may", &faults);
}

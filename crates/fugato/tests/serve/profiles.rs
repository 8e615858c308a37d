//! Profiles while serving: given with `--profile`, measured in idle gaps, kept, refused.

use crate::fixtures::fixtures;
use crate::server::{Server, command};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Its runs take microseconds, so that a busy machine makes none too long to measure.
const MODEL: &str = "identity";

/// A folder with a configuration that measures small batches fast, and keeps them.
struct Setting {
    folder: tempfile::TempDir,
}

impl Setting {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let text = format!(
            "[defaults]\nmax_batch_size = 2\n[profile]\nonline_share = 0.5\nsave = {:?}\n",
            folder.path().join("kept.json")
        );
        std::fs::write(folder.path().join("fugato.toml"), text).expect("a file can be written");
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A server of [`MODEL`] alone.
    fn serve(&self, arguments: &[&str]) -> Server {
        Server::start(&[&self.arguments()[..], arguments].concat())
    }

    fn arguments(&self) -> Vec<&str> {
        let config = self.folder.path().join("fugato.toml");
        // The folder lives as long as the setting.
        let config = Box::leak(config.into_boxed_path()).to_str().expect("UTF-8");
        let control = ["--model-control-mode", "explicit", "--load-model", MODEL];
        [&control[..], &["--config", config]].concat()
    }

    /// What a server says that cannot start with this profile.
    fn refused(&self, profile: &Path) -> String {
        let profile = profile.to_str().expect("UTF-8");
        let output = command(&self.path("never.json"))
            .args(self.arguments())
            .args(["--profile", profile])
            .stdout(Stdio::null())
            .output()
            .expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        said
    }

    /// Writes `profile` with one place of it changed.
    fn write_with(&self, profile: &Value, place: &str, value: Value) -> PathBuf {
        let mut changed = profile.clone();
        let found = changed.pointer_mut(place);
        *found.expect("the profile has that place") = value;
        let path = self.path("given.json");
        std::fs::write(&path, changed.to_string()).expect("a file can be written");
        path
    }
}

impl Server {
    fn profile(&self, model: &str) -> Value {
        let mut connection = self.connect();
        connection.get(&format!("/v2/models/{model}/profile"));
        let (status, body) = connection.receive();
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).expect("a profile is JSON")
    }

    /// The model's profile once it has been measured in full.
    fn measured(&self, model: &str) -> Value {
        let patience = Instant::now() + Duration::from_secs(120);
        loop {
            let report = self.profile(model);
            // The last points are concluded from after the measuring has ended.
            let grid = report["models"][0]["grid"].as_array().map_or(0, Vec::len);
            let points = report["serving"]["points"].as_u64();
            if report["serving"]["measuring"] == false && points == Some(grid as u64) {
                return report;
            }
            assert!(Instant::now() < patience, "it is not measured: {report}");
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_model_without_a_profile_is_measured_and_the_next_server_knows_it() {
    let setting = Setting::new();
    let server = setting.serve(&[]);
    let report = server.measured(MODEL);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let model = &report["models"][0];
    let grid = model["grid"].as_array().expect("a grid");
    let batches: Vec<_> = grid.iter().map(|point| &point["batch"]).collect();
    assert!(grid.len() >= 2 && batches.contains(&&json!(1)) && batches.contains(&&json!(2)));
    for point in grid {
        let ordered = ["low_s", "median_s", "high_s", "p95_s"];
        let times = ordered.map(|name| point[name].as_f64().expect("a time"));
        assert!(0.0 < times[0] && times.is_sorted(), "{point}");
        assert_eq!(point["neighbours"], 0);
    }
    assert_eq!(model["name"], MODEL);
    assert!(
        model["knee"]["tolerance"].as_u64() <= Some(cores as u64),
        "{model}"
    );
    assert!(report["serving"]["device_seconds"].as_f64() > Some(0.0));
    let labels = format!("{{model=\"{MODEL}\",version=\"1\"}}");
    let shown = |name: &str| server.metric(&format!("fugato_profile_{name}{labels}"));
    assert_eq!(shown("points"), grid.len() as f64);
    assert_eq!(shown("measuring"), 0.0);
    assert!(shown("device_seconds_total") > 0.0);
    // Measured runs are no client's.
    assert_eq!(
        server.metric(&format!("fugato_executions_total{labels}")),
        0.0
    );
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));

    let server = setting.serve(&[]);
    let known = server.profile(MODEL);
    assert_eq!(known["models"], report["models"]);
    assert_eq!(known["serving"]["measuring"], false);
    assert_eq!(known["serving"]["points"], 0, "it is not measured again");
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));
}

#[test]
fn a_given_profile_is_used_and_a_foreign_one_is_refused_with_both_names() {
    let setting = Setting::new();
    let server = setting.serve(&[]);
    let mut profile = server.measured(MODEL);
    drop(server);
    profile
        .as_object_mut()
        .expect("an object")
        .remove("serving");
    std::fs::remove_file(setting.path("kept.json")).expect("it was kept");

    let same = profile["device"]["slices"].clone();
    let given = setting.write_with(&profile, "/device/slices", same);
    let given = given.to_str().expect("UTF-8");
    let server = setting.serve(&["--profile", given]);
    let known = server.profile(MODEL);
    assert_eq!(known["models"], profile["models"]);
    assert_eq!(known["serving"]["median_from"], "profile", "{known}");
    assert_eq!(known["serving"]["measuring"], false);
    drop(server);

    let device = profile["device"]["name"]
        .as_str()
        .expect("a name")
        .to_owned();
    let runtime = profile["runtime"].as_str().expect("a name").to_owned();
    let cases = [
        ("/device/name", json!("Abacus 5"), ["Abacus 5", &device]),
        (
            "/runtime",
            json!("onnxruntime 0.1"),
            ["onnxruntime 0.1", &runtime],
        ),
        (
            "/schema",
            json!("fugato.profile/9"),
            ["profile/9", "profile/1"],
        ),
        ("/models/0/grid/0/median_s", json!(-1.0), ["median_s", "-1"]),
        ("/models/0/grid/0/batch", json!(2), ["batch 2", "twice"]),
    ];
    for (place, value, names) in cases {
        let path = setting.write_with(&profile, place, value);
        let said = setting.refused(&path);
        for name in names {
            assert!(said.contains(name), "{place}: {said}");
        }
    }
    let said = setting.refused(&setting.path("missing.json"));
    assert!(said.contains("missing.json"), "{said}");
    assert!(fixtures().join("models").join(MODEL).exists());
}

#[test]
fn a_profile_of_another_model_file_keeps_that_model_out() {
    let setting = Setting::new();
    let server = setting.serve(&[]);
    let mut profile = server.measured(MODEL);
    drop(server);
    profile
        .as_object_mut()
        .expect("an object")
        .remove("serving");
    let hash = profile["models"][0]["hash"]
        .as_str()
        .expect("a hash")
        .to_owned();
    let path = setting.write_with(&profile, "/models/0/hash", json!("0123abcd"));
    let path = path.to_str().expect("UTF-8");
    let server = setting.serve(&["--profile", path, "--load-model", "squeezenet1_1"]);
    let (status, index) = server.post("/v2/repository/index", "");
    assert_eq!(status, 200);
    let index: Value = serde_json::from_str(&index).expect("JSON");
    let models = index.as_array().expect("models");
    let line = models.iter().find(|model| model["name"] == MODEL);
    let reason = line
        .and_then(|line| line["reason"].as_str())
        .unwrap_or_default();
    assert!(
        reason.contains("0123abcd") && reason.contains(&hash),
        "{index}"
    );
    // What the profile does not name is served, and measured.
    let report = server.measured("squeezenet1_1");
    assert_eq!(report["models"][0]["name"], "squeezenet1_1");
}

#[test]
fn a_profile_in_another_precision_keeps_its_model_out_and_says_so() {
    let setting = Setting::new();
    let mut profile = setting.serve(&[]).measured(MODEL);
    profile
        .as_object_mut()
        .expect("an object")
        .remove("serving");
    assert!(profile["models"][0].get("precision").is_none(), "{profile}");
    let single = setting.write_with(&profile, "/device", profile["device"].clone());
    let toml = std::fs::read_to_string(setting.path("fugato.toml")).expect("it is there");
    let halves = toml.replace("[defaults]\n", "[defaults]\nprecision = \"fp16\"\n");
    std::fs::write(setting.path("fugato.toml"), halves).expect("a file can be written");

    let path = single.to_str().expect("UTF-8");
    let server = setting.serve(&["--profile", path, "--load-model", "squeezenet1_1"]);
    let (_, index) = server.post("/v2/repository/index", "");
    for part in [
        "was measured in fp32, the model at hand is in fp16",
        "--precision fp16",
    ] {
        assert!(index.contains(part), "{index}");
    }
    drop(server);

    // Without it the model is measured, and what was kept of the other precision is not its own.
    let half = setting.serve(&[]).measured(MODEL);
    assert_eq!(half["models"][0]["precision"], "fp16", "{half}");
    assert_ne!(half["models"][0]["hash"], profile["models"][0]["hash"]);
}

//! The binary as a user meets it: exit codes, streams, messages.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The binary with an environment of its own.
fn fugato(args: &[&str], folder: &Path) -> Output {
    command(args, folder).output().expect("the binary runs")
}

fn command(args: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fugato"));
    command
        .args(args)
        .current_dir(folder)
        .env_clear()
        .env("HOME", folder);
    command
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("UTF-8")
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a scratch folder")
}

#[test]
fn wrong_usage_is_2_on_standard_error() {
    let folder = scratch();
    let cases: [(&[&str], &str); 6] = [
        (&[], "Usage"),
        (&["frobnicate"], "unrecognized subcommand"),
        (&["serve", "--http-port", "70000"], "--http-port"),
        (&["serve", "--policy", "lifo"], "possible values"),
        (&["serve"], "--model-repository"),
        (&["config", "show", "--config", "no.toml"], "`no.toml`"),
    ];
    for (args, message) in cases {
        let output = fugato(args, folder.path());
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert_eq!(stdout(&output), "", "{args:?}");
        let error = stderr(&output);
        assert!(error.contains(message), "{args:?} said {error}");
    }
}

#[test]
fn an_error_shows_its_causes_and_last_its_hint() {
    let folder = scratch();
    fs::write(folder.path().join("x.toml"), "[server]\nhtp_port = 1\n").expect("written");
    let output = fugato(&["config", "show", "--config", "x.toml"], folder.path());
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        stderr(&output),
        "error: unknown key `server.htp_port` in the configuration file `x.toml`\n\n\
         hint: did you mean `server.http_port`?\n"
    );
}

#[test]
fn config_show_tells_each_value_and_its_origin_and_can_be_read_back() {
    let folder = scratch();
    let file = "[server]\ngrpc_port = 9001\n[model.\"a.b\"]\nslo = \"25ms\"\n";
    fs::write(folder.path().join("f.toml"), file).expect("written");
    let args = ["config", "show", "--config", "f.toml", "--policy", "fifo"];
    let output = command(&args, folder.path())
        .env("FUGATO_SERVER_HTTP_PORT", "9000")
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    let origin_of = |setting: &str| {
        let line = text.lines().find(|line| line.starts_with(setting));
        let line = line.unwrap_or_else(|| panic!("no {setting} in {text}"));
        line.split_once("  # ")
            .map_or("", |(_, origin)| origin)
            .to_owned()
    };
    assert_eq!(
        origin_of("http_port = 9000"),
        "environment variable FUGATO_SERVER_HTTP_PORT"
    );
    assert_eq!(origin_of("grpc_port = 9001"), "file f.toml");
    assert_eq!(origin_of("policy = \"fifo\""), "flag");
    assert_eq!(origin_of("metrics_port = 8002"), "default");
    assert_eq!(origin_of("slo = \"25ms\""), "file f.toml");
    assert_eq!(origin_of("# model_repository"), "not set");

    // What is shown is a configuration file that says the same.
    fs::write(folder.path().join("g.toml"), text).expect("written");
    let again = fugato(&["config", "show", "--config", "g.toml"], folder.path());
    assert_eq!(again.status.code(), Some(0), "{}", stderr(&again));
    let values = |text: &str| -> Vec<String> {
        let lines = text
            .lines()
            .map(|line| line.split("  # ").next().unwrap_or(""));
        lines.map(|line| line.trim_end().to_owned()).collect()
    };
    assert_eq!(values(stdout(&again)), values(text));
}

#[test]
fn config_show_json_has_a_schema() {
    let folder = scratch();
    let output = fugato(&["config", "show", "--format", "json"], folder.path());
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["schema"], 1);
    let settings = report["settings"].as_array().expect("a list");
    let port = settings
        .iter()
        .find(|entry| entry["key"] == "server.http_port")
        .expect("listed");
    assert_eq!(port["value"], 8000);
    assert_eq!(port["origin"], "default");
}

#[test]
fn every_shell_gets_completions_and_a_closed_pipe_is_no_error() {
    let folder = scratch();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = fugato(&["completions", shell], folder.path());
        assert_eq!(output.status.code(), Some(0), "{shell}");
        assert!(stdout(&output).contains("model-repository"), "{shell}");
    }
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = command(&["completions", "bash"], folder.path())
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .and_then(std::process::Child::wait_with_output)
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
}

#[test]
fn doctor_fails_where_serve_would_not_start() {
    let folder = scratch();
    let ports = [
        "--http-port=0",
        "--grpc-port=0",
        "--metrics-port=0",
        "--onnxruntime=no/such/library.so",
        "--format=json",
    ];
    let mut args = vec!["doctor"];
    args.extend(ports);
    let output = fugato(&args, folder.path());
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let status = |name: &str| {
        let checks = report["checks"].as_array().expect("a list");
        let check = checks.iter().find(|check| check["name"] == name);
        check.expect("checked")["status"]
            .as_str()
            .map(str::to_owned)
    };
    assert_eq!(status("onnxruntime").as_deref(), Some("failed"));
    assert!(status("gpu").is_some());
    for name in ["device", "model store", "http port", "grpc port"] {
        assert_eq!(status(name).as_deref(), Some("ok"), "{name}");
    }
}

/// Where there is a device, the check itself answers; everywhere else it has to say why not.
#[test]
fn a_gpu_check_without_a_device_says_so() {
    let folder = scratch();
    let output = fugato(
        &["gpu-check", "--out", "gpu", "--device", "9999"],
        folder.path(),
    );
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("there is no NVIDIA device"), "{said}");
    assert!(!folder.path().join("gpu").exists(), "nothing was checked");
}

/// No machine has a device of this number: the reason is that, or what is missing before.
#[test]
fn a_device_that_cannot_be_used_is_an_error_that_names_what_is_missing() {
    let folder = scratch();
    fs::create_dir(folder.path().join("models")).expect("a folder");
    let ports = ["--http-port=0", "--grpc-port=0", "--metrics-port=0"];
    let run = |subcommand, kind| {
        let args = [subcommand, "--model-repository=models", kind];
        let mut command = command(&[&args[..], &ports].concat(), folder.path());
        command.env("FUGATO_DEVICE_GPU", "900");
        command.output().expect("the binary runs")
    };
    let output = run("serve", "--device=cuda");
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("no NVIDIA device can be used"), "{said}");
    let reasons = [
        "cause: no NVIDIA driver",
        "NVIDIA driver is of CUDA",
        "no NVIDIA device 900",
    ];
    assert!(reasons.iter().any(|reason| said.contains(reason)), "{said}");

    let output = run("doctor", "--device=cuda");
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    let lines = || stdout(&output).lines();
    let line = |name: &str| lines().find(|line| line.starts_with(name)).unwrap_or("");
    assert!(line("device ").contains("FAILED"), "{}", stdout(&output));
    assert!(line("gpu ").contains("FAILED"), "{}", stdout(&output));

    let output = run("doctor", "--device=auto");
    let report = stdout(&output);
    let uses_cpu = report
        .lines()
        .any(|line| line.starts_with("device ") && line.contains("cpu: "));
    assert!(uses_cpu, "{report}");
}

#[test]
fn doctor_names_a_configuration_that_refuses_its_model() {
    let folder = scratch();
    for (model, config) in [("fine", "max_batch_size: 2"), ("odd", "max_batch_sise: 2")] {
        let version = folder.path().join("models").join(model).join("1");
        fs::create_dir_all(&version).expect("folders");
        fs::write(version.join("model.onnx"), b"").expect("a file");
        fs::write(version.join("../config.pbtxt"), config).expect("a file");
    }
    let args = [
        "doctor",
        "--model-repository=models",
        "--http-port=0",
        "--grpc-port=0",
    ];
    let output = fugato(&args, folder.path());
    let report = String::from_utf8_lossy(&output.stdout);
    let said = report.contains("1 of them will not be ready") && report.contains("max_batch_sise");
    assert!(said && report.contains("odd"), "{report}");
}

#[test]
fn doctor_says_which_port_is_taken() {
    let folder = scratch();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let args = [
        "doctor",
        "--http-port",
        &port,
        "--grpc-port=0",
        "--metrics-port=0",
    ];
    let output = fugato(&args, folder.path());
    assert_eq!(output.status.code(), Some(1));
    let line = stdout(&output)
        .lines()
        .find(|line| line.starts_with("http port"));
    let line = line.expect("the port is listed");
    assert!(line.contains("FAILED") && line.contains(&port), "{line}");
}

#[test]
fn model_inspect_says_what_a_model_holds_and_whether_it_batches() {
    let folder = scratch();
    let written = fugato(
        &["zoo", "write", "--out", "models", "--model", "bert-tiny"],
        folder.path(),
    );
    assert_eq!(written.status.code(), Some(0), "{}", stderr(&written));
    let args = [
        "model",
        "inspect",
        "--model",
        "models/bert-tiny",
        "--format",
        "json",
    ];
    let output = fugato(&args, folder.path());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["schema"], 1);
    assert_eq!(report["not_batchable"], serde_json::Value::Null);
    assert_eq!(report["inputs"][0]["name"], "input_ids");
    assert_eq!(report["inputs"][0]["element"], "int64");
    assert_eq!(report["inputs"][0]["shape"][0], "batch");
    // The published count, and whatever shape constants the graph holds beside it.
    assert!(
        report["weight_values"].as_u64() >= Some(4_385_920),
        "{report}"
    );
    let operators = report["operators"].as_array().expect("a list");
    assert!(
        operators.iter().any(|entry| entry[0] == "MatMul"),
        "{report}"
    );

    fs::write(folder.path().join("broken.onnx"), b"no model").expect("written");
    for path in ["broken.onnx", "missing.onnx", "."] {
        let output = fugato(&["model", "inspect", "--model", path], folder.path());
        assert_eq!(output.status.code(), Some(2), "{path}: {}", stdout(&output));
        assert!(stderr(&output).starts_with("error: "), "{path}");
    }
}

#[test]
fn a_profile_is_shown_and_drawn_without_measuring() {
    let folder = scratch();
    let show = ["profile", "show", "v100-dstack", "--plots", "charts"];
    let output = fugato(&show, folder.path());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("SYNTHETIC"));
    // 40 % of 80 slices, as in the table of the paper.
    assert!(stdout(&output).contains("32 by tolerance"));
    assert!(stderr(&output).contains("25 charts written to `charts`"));
    let drawn = fs::read_to_string(folder.path().join("charts/resnet50-latency.svg"));
    assert!(drawn.expect("a chart").contains("32 slices"));

    let output = fugato(&["profile", "show", "convnet"], folder.path());
    assert!(stdout(&output).contains("48 by tolerance"), "60 % of 80");

    let json = ["profile", "show", "v100-dstack", "--format", "json"];
    let json = fugato(&json, folder.path()).stdout;
    fs::write(folder.path().join("copy.json"), &json).expect("written");
    let again = ["profile", "show", "copy.json", "--format", "json"];
    assert_eq!(fugato(&again, folder.path()).stdout, json);
}

#[test]
fn a_profile_that_cannot_be_shown_says_why() {
    let folder = scratch();
    let json = ["profile", "show", "v100-dstack", "--format", "json"];
    let json = fugato(&json, folder.path());
    let good: serde_json::Value = serde_json::from_str(stdout(&json)).expect("JSON");
    let file = |name: &str, pointer: &str, value: serde_json::Value| {
        let mut changed = good.clone();
        *changed.pointer_mut(pointer).expect("a field") = value;
        fs::write(folder.path().join(name), changed.to_string()).expect("written");
    };
    file("zero.json", "/models/0/grid/3/median_s", 0.0.into());
    file("schema.json", "/schema", "fugato.profile/9".into());
    fs::write(folder.path().join("text.json"), "no JSON").expect("written");
    let cases: [(&[&str], &str); 5] = [
        (
            &["zero.json"],
            "model `mobilenet`: point (batch 1, share 4, neighbours 0)",
        ),
        (
            &["schema.json"],
            "schema `fugato.profile/9`, expected `fugato.profile/1`",
        ),
        (&["text.json"], "`text.json` is no profile"),
        (&["none.json"], "cannot read `none.json`"),
        (
            &["v100-dstack", "--model", "lenet"],
            "the models of the profile are: mobilenet",
        ),
    ];
    for (args, message) in cases {
        let args = [&["profile", "show"], args].concat();
        let output = fugato(&args, folder.path());
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert_eq!(stdout(&output), "", "{args:?}");
        assert!(
            stderr(&output).contains(message),
            "{args:?} said {}",
            stderr(&output)
        );
    }
}

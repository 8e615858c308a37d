//! `fugato zoo` as a user meets it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn zoo(args: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fugato"))
        .arg("zoo")
        .args(args)
        .current_dir(folder)
        .output()
        .expect("the binary runs")
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a scratch folder")
}

#[test]
fn list_has_every_model_in_both_formats() {
    let folder = scratch();
    let table = zoo(&["list"], folder.path());
    let table = String::from_utf8(table.stdout).expect("UTF-8");
    let json = zoo(&["list", "--format", "json"], folder.path());
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(json["schema"], 1);
    let listed = json["models"].as_array().expect("a list");
    assert_eq!(listed.len(), fugato_zoo::models().len());
    for model in fugato_zoo::models() {
        assert!(table.contains(model.name), "{}", model.name);
        let entry = listed.iter().find(|entry| entry["name"] == model.name);
        let entry = entry.expect("in the JSON report");
        assert_eq!(entry["parameters"], model.parameters());
        assert_eq!(entry["inputs"][0]["dims"][0], "batch");
    }
}

#[test]
fn write_makes_what_was_named_and_keeps_it_the_second_time() {
    let folder = scratch();
    let write = || {
        let args = [
            "write", "--out", "models", "--model", "identity", "--seed", "3",
        ];
        let output = zoo(&args, folder.path());
        assert!(output.status.success());
        assert!(output.stdout.is_empty(), "messages go to standard error");
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    assert!(write().contains("wrote models/identity/1/model.onnx"));
    assert!(write().contains("kept  models/identity/1/model.onnx"));
    let made: Vec<_> = fs::read_dir(folder.path().join("models"))
        .expect("made")
        .map(|entry| entry.expect("readable").file_name())
        .collect();
    assert_eq!(made, ["identity"]);
}

#[test]
fn unknown_names_and_folders_without_light_models_are_errors_with_hints() {
    let folder = scratch();
    for args in [
        &["write", "--out", "models", "--model", "resnet"][..],
        &["light", "--models", ".", "--out", "models"],
    ] {
        let output = zoo(args, folder.path());
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let message = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(message.contains("hint: "), "{message}");
        assert!(!folder.path().join("models").exists(), "{args:?}");
    }
}

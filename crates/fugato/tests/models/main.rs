//! Model files as `fugato model inspect` and `fugato plan` see them: why they are not cut, which
//! operator of a wrong one is at fault, and a plan that does not answer as its model does.

mod answers;
mod faults;
mod inspection;
#[path = "../../../fugato-device/tests/common/onnx.rs"]
mod onnx;

use fugato_onnx::{ExternalPolicy, ModelProto};
use std::process::{Command, Output};

/// Runs the binary with these arguments on a model of its own, with a store of its own.
fn on(model: &ModelProto, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("model.onnx");
    fugato_onnx::save_model(model, &file, ExternalPolicy::Never).expect("a model can be written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_fugato"));
    command.args(arguments).arg("--model").arg(file);
    command
        .arg("--model-store")
        .arg(folder.path().join("store"));
    command.output().expect("the binary runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

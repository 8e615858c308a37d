//! Gives the light models of the Python package `onnx` weights.
//!
//! `cargo run -p fugato-zoo --example write_light -- LIGHT_FOLDER FOLDER SEED`

#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use fugato_zoo::light;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [models, folder, seed] = arguments.as_slice() else {
        return Err("expected LIGHT_FOLDER FOLDER SEED".into());
    };
    let models = light::list(Path::new(models))?;
    light::write_repository(&models, Path::new(folder), seed.parse()?, &mut |model| {
        println!("{:?} {}", model.outcome, model.path.display());
    })?;
    Ok(())
}

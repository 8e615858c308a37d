//! Writes models of the zoo as a Triton model repository.
//!
//! `cargo run -p fugato-zoo --example write_repository -- FOLDER SEED [NAME]..`

#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use fugato_zoo::{Progress, Recipe, models, write_repository};
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, seed, names @ ..] = arguments.as_slice() else {
        return Err("expected FOLDER SEED [NAME]..".into());
    };
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    if names.is_empty() {
        names = models().iter().map(|model| model.name).collect();
    }
    let mut progress = |step: Progress<'_>| {
        if let Progress::Done(model) = step {
            println!("{:?} {}", model.outcome, model.path.display());
        }
    };
    write_repository(
        Path::new(folder),
        &names,
        Recipe::seeded(seed.parse()?),
        &mut progress,
    )?;
    Ok(())
}

//! The `fugato` binary: parses the command line and turns the result into an exit code.

use clap::Parser;
use fugato::cli::{Cli, Outcome, failure_code, run};
use fugato::supervisor::DEVICE_LOST;
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(Outcome::Success) => ExitCode::SUCCESS,
        Ok(Outcome::CheckFailed) => ExitCode::from(1),
        Ok(Outcome::Interrupted { signal }) => {
            ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX))
        }
        Ok(Outcome::Passed { code }) => ExitCode::from(code),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Where standard error is closed too there is nobody left to tell.
            let _ = write_error(&mut io::stderr().lock(), &error);
            leave(failure_code(&error))
        }
    }
}

/// Ends with this code. Where that is because a device is lost, at once: its driver may wait for
/// it when the process is taken apart, and a supervisor waits for the process.
fn leave(code: u8) -> ExitCode {
    if code == DEVICE_LOST {
        fugato_device::exit_at_once(code);
    }
    ExitCode::from(code)
}

/// Writes the error, its causes, and last the hints among them.
fn write_error(out: &mut impl Write, error: &anyhow::Error) -> io::Result<()> {
    let mut hints = Vec::new();
    for (depth, cause) in error.chain().enumerate() {
        let text = cause.to_string();
        let (message, hint) = text.split_once("\n\nhint: ").unwrap_or((&text, ""));
        let prefix = if depth == 0 { "error" } else { "  cause" };
        writeln!(out, "{prefix}: {}", message.trim_end())?;
        if !hint.is_empty() {
            hints.push(hint.to_owned());
        }
    }
    for hint in hints {
        writeln!(out, "\nhint: {hint}")?;
    }
    Ok(())
}

/// Whether the reader of our output went away (`fugato .. | head`), which is its right.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

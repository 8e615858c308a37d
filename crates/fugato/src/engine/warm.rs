//! Runs of a version before it takes requests.

use super::runner::Runner;
use super::sample::{from_warm_up, request, zeros};
use super::served::ServedModel;
use crate::api::NamedInput;
use crate::error::{ErrorKind, InferError};
use std::path::Path;
use std::sync::Arc;

/// Runs of a new model before it takes requests: the first one sizes the runtime's
/// arenas and lays weights out, and the second teaches the scheduler its latency.
const RUNS: u32 = 3;

/// Why a version failed its own warm-up.
#[derive(Debug, thiserror::Error)]
pub(super) enum WarmUpError {
    #[error("warm-up sample `{sample}` cannot be made: {reason}")]
    Sample { sample: String, reason: String },
    #[error("warm-up sample `{sample}` failed: {cause}")]
    Run { sample: String, cause: InferError },
}

/// Runs the model on zeros a few times, where its input shapes are known, then on the
/// samples that its configuration has in `folder`.
///
/// # Errors
/// Where the model fails on one of those samples. What the server was too busy for is only
/// noted.
pub(super) async fn up(
    runner: &Runner,
    served: &ServedModel,
    folder: &Path,
) -> Result<(), WarmUpError> {
    run_on_zeros(runner, served).await;
    let samples = served.settings.wanted().map(|wanted| &wanted.warm_ups);
    for sample in samples.into_iter().flatten() {
        let (own, info, folder) = (sample.clone(), Arc::clone(&served.info), folder.to_owned());
        // It may be of hundreds of megabytes, or in a file.
        let made = tokio::task::spawn_blocking(move || from_warm_up(&own, &info, &folder)).await;
        let made = made.unwrap_or_else(|panic| Err(panic.to_string()));
        let inputs = made.map_err(|reason| WarmUpError::Sample {
            sample: sample.name.clone(),
            reason,
        })?;
        for _ in 0..sample.count {
            match run(runner, served, inputs.clone()).await {
                Ok(()) => {}
                Err(error) if is_load(error.kind()) => {
                    let (model, sample) = (&served.info.name, &sample.name);
                    tracing::warn!(model, sample, %error, "a warm-up sample was not run");
                    if runner.is_draining() {
                        return Ok(());
                    }
                    // What is full or draining now is so for the next run, too.
                    break;
                }
                Err(cause) => {
                    return Err(WarmUpError::Run {
                        sample: sample.name.clone(),
                        cause,
                    });
                }
            }
        }
    }
    Ok(())
}

/// Whether an error is about how busy the server is, not about the model.
fn is_load(kind: ErrorKind) -> bool {
    kind.facts().retryable || kind == ErrorKind::DeadlineExceeded
}

async fn run_on_zeros(runner: &Runner, served: &ServedModel) {
    let Some(inputs) = zeros(&served.info) else {
        return;
    };
    for _ in 0..RUNS {
        if let Err(error) = run(runner, served, inputs.clone()).await {
            // Zeros may be no valid input (an index, a length): its users' are.
            let model = &served.info.name;
            tracing::debug!(model, %error, "the run on zeros failed");
            return;
        }
    }
}

async fn run(
    runner: &Runner,
    served: &ServedModel,
    inputs: Vec<NamedInput>,
) -> Result<(), InferError> {
    let request = request(&served.info, inputs, runner.clock.now());
    let accepted = runner.hand_in(served, request)?;
    runner.answer(served, accepted).await.map(drop)
}

//! Runs of a version before it takes requests.

use super::runner::Runner;
use super::served::ServedModel;
use crate::api::{InferRequest, ModelInfo, NamedInput};
use bytes::Bytes;
use fugato_device::TensorData;

/// Runs of a new model before it takes requests: the first one sizes the runtime's
/// arenas and lays weights out, and the second teaches the scheduler its latency.
const RUNS: u32 = 3;

/// Runs the model on zeros a few times, where its input shapes are known.
pub(super) async fn up(runner: &Runner, served: &ServedModel) {
    let info = &served.info;
    let Some(inputs) = zeros(info) else { return };
    for _ in 0..RUNS {
        let request = InferRequest {
            model: info.name.clone(),
            version: None,
            id: String::new(),
            inputs: inputs.clone(),
            outputs: Vec::new(),
            arrived: runner.clock.now(),
            deadline: None,
            queue_timeout: None,
            priority: 0,
            trace: None,
        };
        let ran = match runner.hand_in(served, request) {
            Ok(accepted) => runner.answer(served, accepted).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = ran {
            // Zeros may be no valid input (an index, a length): its users' are.
            tracing::debug!(model = info.name, %error, "the warm-up run failed");
            return;
        }
    }
}

/// One row of zeros (or empty strings) for every input; `None` where a dimension past
/// the batch varies, so that no size is typical.
fn zeros(info: &ModelInfo) -> Option<Vec<NamedInput>> {
    let zero = |input: &fugato_device::TensorSpec| {
        let batch = usize::from(info.max_batch_size > 0);
        let rows = std::iter::repeat_n(Some(1), batch);
        let shape: Vec<u64> = rows
            .chain(input.shape.iter().skip(batch).copied())
            .collect::<Option<_>>()?;
        let count = usize::try_from(shape.iter().product::<u64>()).ok()?;
        let data = match input.element.size() {
            Some(size) => TensorData::Raw(Bytes::from(vec![0; count * size])),
            None => TensorData::Strings(vec![Bytes::new(); count]),
        };
        Some(NamedInput {
            name: input.name.clone(),
            element: input.element,
            shape,
            data: data.into(),
        })
    };
    info.inputs.iter().map(zero).collect()
}

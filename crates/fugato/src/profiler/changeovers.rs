//! What the points of a grid do not show, because they are of runs of one model after each
//! other: what a run costs more right after one of another model, which has filled the caches,
//! and how long the device stands still until a run that it was not given in time begins.

use super::subject::Subject;
use super::{End, Run, median};
use fugato_core::profile::Changeover;
use fugato_core::{Nanos, PartitionId};
use fugato_device::{AnyDevice, Profiler, VisitError, Walk};

/// Pairs of runs per share: an odd number, so that the median is one of them, and enough that a
/// disturbed one or two do not move it far.
const PAIRS: usize = 7;

impl Run {
    /// Measures each model at its smallest batch and every share, in turn after each of the
    /// others. A model that has changeovers from an earlier run keeps them. `None` where all is
    /// done.
    pub(super) fn measure_changeovers(&mut self, stopped: &impl Fn() -> bool) -> Option<End> {
        let runs: Vec<Walk> = self.subjects.iter().map(Subject::run).collect();
        let mut launches = Vec::new();
        for (index, subject) in self.subjects.iter_mut().enumerate() {
            if !subject.changeovers().is_empty() || !subject.is_measured() {
                continue;
            }
            let others: Vec<&Walk> = (1..runs.len())
                .map(|step| &runs[(index + step) % runs.len()])
                .collect();
            if others.is_empty() {
                continue;
            }
            let mut found = Vec::new();
            for (share, partition) in subject.partitions() {
                if stopped() {
                    return Some(End::Stopped);
                }
                if self.begun.elapsed() >= self.options.budget.into() {
                    return Some(End::BudgetSpent);
                }
                let profiler = &mut self.bench.profiler;
                match extra(profiler, &runs[index], &others, partition, &mut launches) {
                    Ok(extra) => found.push(Changeover {
                        batch: runs[index].batch,
                        share,
                        extra_s: extra.as_secs_f64(),
                        repeats: u32::try_from(PAIRS).unwrap_or(u32::MAX),
                    }),
                    Err(error) => {
                        let model = &subject.model.name;
                        tracing::debug!(model, %error, "a changeover could not be measured");
                    }
                }
            }
            subject.set_changeovers(found);
        }
        if let Some(launch) = median(launches) {
            self.launch_s = Some(launch.as_secs_f64());
        }
        None
    }
}

/// The median of what a run right after another model's takes longer than the one behind it;
/// each pair follows the next of the others. `launches` gets the times from one run's end to the
/// start of the next.
fn extra(
    profiler: &mut Profiler<AnyDevice>,
    run: &Walk,
    others: &[&Walk],
    partition: PartitionId,
    launches: &mut Vec<Nanos>,
) -> Result<Nanos, VisitError> {
    let mut last = None;
    let mut time = |run: &Walk| {
        let run = Walk {
            partition,
            ..run.clone()
        };
        let walked = profiler.walk(&run)?;
        let (started, ended) = walked.span;
        // As the times of a grid are: what the host does besides is no part of a run, and the
        // device stands still in it too.
        let run = walked.on_device.unwrap_or(walked.whole);
        let still = walked.whole.saturating_sub(run);
        launches.extend(last.replace(ended).map(|last| (started - last) + still));
        Ok(run)
    };
    let mut extras = Vec::with_capacity(PAIRS);
    for other in others.iter().cycle().take(PAIRS) {
        time(other)?;
        let (after_other, after_itself) = (time(run)?, time(run)?);
        extras.push(after_other.saturating_sub(after_itself));
    }
    Ok(median(extras).unwrap_or(Nanos::ZERO))
}

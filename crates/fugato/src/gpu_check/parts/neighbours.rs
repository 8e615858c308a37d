//! What neighbours cost, and the gaps between legs.

use crate::gpu_check::bench::{Bench, micros, quantile};
use crate::gpu_check::report::{Answer, Verdict};
use fugato_device::cuda::{CudaError, DeviceMemory, Event, Executable, PinnedMemory, Stream};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const MODEL: &str = "resnet50";
const ROUNDS: usize = 300;

/// The 99th percentile beside a neighbour may be this many times the one alone.
const MOST: f64 = 1.5;

/// A change of the partition between two legs may take this long.
const SWITCH: Duration = Duration::from_micros(20);

/// Legs one after the other, of which the gaps are the mean.
const LEGS: u32 = 20;

const FILLED: usize = 1 << 30;
const COPIED: usize = 64 << 20;

pub(super) fn run(bench: &Bench) -> anyhow::Result<Answer> {
    let halves = bench.parts(2)?;
    let here = halves[0].stream(0)?;
    let there = halves[1].stream(0)?;
    let everywhere = bench.whole()?.stream(0)?;
    let urgent = bench.graph(MODEL, 1, &here)?;
    let heavy = bench.graph(MODEL, 32, &there)?;
    let spread = bench.graph(MODEL, 32, &everywhere)?;
    let memory = DeviceMemory::new(&bench.gpu, FILLED)?;
    let (target, source) = (
        DeviceMemory::new(&bench.gpu, COPIED)?,
        PinnedMemory::new(&bench.gpu, COPIED)?,
    );
    let enqueue = |stream: &Arc<Stream>, work: Work| Some((Arc::clone(stream), work));
    let alone = beside(bench, &urgent, &here, None)?;
    let stream = Arc::clone(&there);
    let work = enqueue(&there, Box::new(move || heavy.launch(&stream)));
    let compute = beside(bench, &urgent, &here, work)?;
    let stream = Arc::clone(&there);
    let work = enqueue(&there, Box::new(move || memory.fill(1, &stream)));
    let fills = beside(bench, &urgent, &here, work)?;
    let stream = Arc::clone(&there);
    let work = enqueue(&there, Box::new(move || target.copy_from(&source, &stream)));
    let copies = beside(bench, &urgent, &here, work)?;
    let stream = Arc::clone(&everywhere);
    let work = enqueue(&everywhere, Box::new(move || spread.launch(&stream)));
    let overlapping = beside(bench, &urgent, &here, work)?;
    let (gap, switch) = gaps(bench, &urgent, &here, &there)?;
    let found = Found {
        alone,
        beside: [("compute", compute), ("fills", fills), ("copies", copies)],
        overlapping,
        gap,
        switch,
    };
    Ok(found.answer(halves[0].sms()))
}

/// Median and 99th percentile.
type Times = [Duration; 2];

/// What was measured.
#[derive(Clone, Copy)]
struct Found {
    alone: Times,
    /// Beside neighbours in the other half, each by what it does.
    beside: [(&'static str, Times); 3],
    /// Beside one on all multiprocessors, of which nothing is asked.
    overlapping: Times,
    gap: Duration,
    switch: Duration,
}

impl Found {
    fn answer(&self, sms: u32) -> Answer {
        let limit = self.alone[1].mul_f64(MOST);
        let disturbed: Vec<_> = self
            .beside
            .iter()
            .filter(|(_, times)| times[1] > limit)
            .map(|(name, times)| format!("{name} {:.0} us", micros(times[1])))
            .collect();
        let [compute, fills, copies] = self.beside.map(|(_, times)| times);
        Answer {
            verdict: Verdict::of(disturbed.is_empty() && self.switch <= SWITCH),
            words: format!(
                "99th percentile {:.0} us alone{}; a change of partition takes {:.1} us (expected \
                 {:.0} at most)",
                micros(self.alone[1]),
                match disturbed.as_slice() {
                    [] => format!(", at most {MOST} times that beside neighbours"),
                    disturbed => format!(", beside {}", disturbed.join(", ")),
                },
                micros(self.switch),
                micros(SWITCH)
            ),
            facts: json!({
                "model": MODEL,
                "sms": sms,
                "alone": row(&self.alone),
                "beside_compute": row(&compute),
                "beside_fills": row(&fills),
                "beside_copies_from_the_host": row(&copies),
                "beside_work_on_all_multiprocessors": row(&self.overlapping),
                "gap_same_partition_us": micros(self.gap),
                "gap_other_partition_us": micros(self.switch),
            }),
        }
    }
}

fn row(times: &Times) -> Value {
    json!({ "p50_us": micros(times[0]), "p99_us": micros(times[1]) })
}

/// What a neighbour enqueues.
type Work = Box<dyn FnMut() -> Result<(), CudaError> + Send>;

/// Median and 99th percentile of a graph while a neighbour keeps its stream busy.
fn beside(
    bench: &Bench,
    graph: &Executable,
    stream: &Stream,
    neighbour: Option<(Arc<Stream>, Work)>,
) -> anyhow::Result<Times> {
    let is_over = AtomicBool::new(false);
    let (started, begin) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let busy = neighbour.map(|(stream, mut enqueue)| {
            let is_over = &is_over;
            scope.spawn(move || -> anyhow::Result<()> {
                let gpu = stream.partition().gpu();
                gpu.make_current()?;
                // Two at a time: the device never waits for the host.
                let done = [Event::new(gpu)?, Event::new(gpu)?];
                for round in 0.. {
                    enqueue()?;
                    stream.record(&done[round % 2])?;
                    if round == 1 {
                        // The receiver waits for this; it is gone only where it failed.
                        let _ = started.send(());
                    }
                    if round > 0 {
                        done[(round - 1) % 2].synchronize()?;
                    }
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                }
                Ok(stream.synchronize()?)
            })
        });
        if busy.is_some() {
            // An error is of a neighbour that failed, which its thread tells.
            let _ = begin.recv();
        }
        let times = bench.times(stream, ROUNDS, || Ok(graph.launch(stream)?));
        is_over.store(true, Ordering::Relaxed);
        if let Some(busy) = busy {
            busy.join()
                .map_err(|_| anyhow::anyhow!("a neighbour panicked"))??;
        }
        let times = times?;
        Ok([quantile(&times, 0.5), quantile(&times, 0.99)])
    })
}

/// The idle time between a leg and the next in the same partition, and in another one, which
/// waits for it by an event.
fn gaps(
    bench: &Bench,
    graph: &Executable,
    here: &Arc<Stream>,
    there: &Arc<Stream>,
) -> anyhow::Result<(Duration, Duration)> {
    let elsewhere = bench.graph(MODEL, 1, there)?;
    let one = bench.time(graph, here)?;
    let other = bench.time(&elsewhere, there)?;
    let same = bench.times(here, 10, || {
        (0..LEGS).try_for_each(|_| graph.launch(here))?;
        Ok(())
    })?;
    let (forth, back) = (Event::new(&bench.gpu)?, Event::new(&bench.gpu)?);
    let turns = bench.times(here, 10, || {
        for _ in 0..LEGS / 2 {
            graph.launch(here)?;
            here.record(&forth)?;
            there.wait(&forth)?;
            elsewhere.launch(there)?;
            there.record(&back)?;
            here.wait(&back)?;
        }
        Ok(())
    })?;
    let rest =
        |times: &[Duration], work: Duration| quantile(times, 0.5).saturating_sub(work) / LEGS;
    Ok((
        rest(&same, one * LEGS),
        rest(&turns, (one + other) * (LEGS / 2)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbour_that_disturbs_or_a_slow_change_of_partition_fails() {
        let times = |p99| [Duration::from_micros(80), Duration::from_micros(p99)];
        let answer = |p99: [u64; 3], switch| {
            let [compute, fills, copies] = p99.map(times);
            let found = Found {
                alone: times(100),
                beside: [("compute", compute), ("fills", fills), ("copies", copies)],
                overlapping: times(10_000),
                gap: Duration::from_millis(1),
                switch,
            };
            found.answer(64)
        };
        assert_eq!(answer([150; 3], SWITCH).verdict, Verdict::Holds);
        for place in 0..3 {
            let mut p99 = [150; 3];
            p99[place] = 151;
            assert_eq!(answer(p99, SWITCH).verdict, Verdict::Fails, "{p99:?}");
        }
        let words = answer([100, 151, 100], SWITCH).words;
        assert!(words.contains("beside fills 151 us"), "{words}");
        let longer = SWITCH + Duration::from_nanos(1);
        assert_eq!(answer([100; 3], longer).verdict, Verdict::Fails);
    }
}

//! The events of the ideal scheduler: tasks begin, kernels end, slices are divided.

use super::figures::Tally;
use super::{Division, IdealError, IdealModel, IdealOptions, IdealReport};
use crate::profile::{Kernel, KernelList};
use crate::time::{Nanos, Timestamp};
use crate::workload::Arrival;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// Units of one slice. Shares are integers of these, so that they add up; a millionth of a
/// slice is far below what any figure shows.
pub(super) const SLICE: u64 = 1_000_000;

/// The time that figures are taken of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
}

impl Window {
    pub(super) fn length(self) -> Nanos {
        self.until - self.from
    }

    pub(super) fn holds(self, at: Timestamp) -> bool {
        self.from <= at && at < self.until
    }

    /// How much of the time from `start` to `end` is in the window.
    fn overlap(self, start: Timestamp, end: Timestamp) -> Nanos {
        end.min(self.until) - start.max(self.from)
    }
}

/// A kernel at the batch of its task.
#[derive(Debug)]
struct Step {
    kernel: Kernel,
    /// The fewest whole slices at which it is fastest, in units.
    demand: u64,
    /// What it takes on the model's knee: slice-seconds.
    at_knee: f64,
}

/// A model at one batch.
#[derive(Debug)]
struct Program {
    batch: f64,
    sync_s: f64,
    steps: Vec<Step>,
    /// The time on the whole device, every kernel rounded as the engine rounds it.
    alone: Nanos,
}

impl Program {
    fn new(model: &IdealModel, items: u32, slices: u16) -> Self {
        let batch = f64::from(items);
        let KernelList { kernels, sync_s } = &model.kernels;
        let knee = f64::from(model.knee.0);
        let steps: Vec<Step> = kernels
            .iter()
            .map(|&kernel| Step {
                kernel,
                demand: u64::from(demand(kernel, batch, *sync_s, slices)) * SLICE,
                at_knee: knee * kernel.latency_s(batch, knee, *sync_s),
            })
            .collect();
        let mut program = Self {
            batch,
            sync_s: *sync_s,
            steps,
            alone: Nanos::ZERO,
        };
        let times = program.steps.iter();
        let times = times.map(|step| Nanos::from_secs_f64(program.time_s(step, step.demand)));
        program.alone = times.fold(Nanos::ZERO, |sum, time| sum + time);
        program
    }

    /// The time of a kernel at a share in units: without slices, for ever; below one slice,
    /// one slice that is divided in time.
    fn time_s(&self, step: &Step, share: u64) -> f64 {
        let slices = share as f64 / SLICE as f64;
        let whole = slices.max(1.0);
        let time_s = step.kernel.latency_s(self.batch, whole, self.sync_s);
        if share == 0 {
            return f64::INFINITY;
        }
        time_s * whole / slices
    }
}

/// The fewest whole slices at which a kernel is as fast as it gets.
fn demand(kernel: Kernel, batch: f64, sync_s: f64, slices: u16) -> u16 {
    // Equal but for the rounding of doubles.
    const SAME: f64 = 1.0 - 1e-12;
    let time_s = |share: u16| kernel.latency_s(batch, f64::from(share), sync_s);
    let mut best = 1;
    for share in 2..=slices {
        if time_s(share) < time_s(best) * SAME {
            best = share;
        }
    }
    best
}

/// A task in flight.
#[derive(Debug)]
struct Flight {
    model: usize,
    program: Rc<Program>,
    /// The kernel it is at.
    step: usize,
    /// How much of that kernel is left, 1 to 0.
    left: f64,
    /// What it holds, in units.
    share: u64,
    /// The time of the whole kernel at that share.
    time_s: f64,
    /// When the kernel ends at that share.
    ends: Timestamp,
    deadline: Timestamp,
    /// Tasks begun before it: breaks ties.
    order: u64,
    /// When each of its requests was received.
    received: Vec<Timestamp>,
    items: u32,
}

impl Flight {
    fn demand(&self) -> u64 {
        self.program.steps[self.step].demand
    }

    /// Puts it at the beginning of a kernel, without slices.
    fn enter(&mut self, step: usize) {
        self.step = step;
        self.left = 1.0;
        self.hold(0, Timestamp::MAX);
    }

    /// Gives it a share from `now` on. A share that stays as it was changes nothing, so
    /// that rounding does not add up.
    fn hold(&mut self, share: u64, now: Timestamp) {
        if share == self.share && share != 0 {
            return;
        }
        self.share = share;
        self.time_s = self.program.time_s(&self.program.steps[self.step], share);
        self.ends = now + Nanos::from_secs_f64(self.left * self.time_s);
    }
}

/// The state of the ideal scheduler.
#[derive(Debug)]
pub(super) struct Engine<'a> {
    models: &'a [IdealModel],
    options: IdealOptions,
    window: Window,
    /// By model, whether full batches are always waiting.
    saturated: Vec<bool>,
    now: Timestamp,
    programs: BTreeMap<(usize, u32), Rc<Program>>,
    flights: Vec<Flight>,
    begun: u64,
    tallies: Vec<Tally>,
}

impl<'a> Engine<'a> {
    pub(super) fn new(
        models: &'a [IdealModel],
        options: IdealOptions,
        window: Window,
        saturated: Vec<bool>,
    ) -> Result<Self, IdealError> {
        let numbers = [
            (u64::from(options.slices.0), "the number of slices"),
            (
                u64::from(options.in_flight),
                "the number of tasks in flight",
            ),
            (window.length().as_nanos(), "the duration"),
        ];
        for (number, parameter) in numbers {
            if number == 0 {
                return Err(IdealError::Zero { parameter });
            }
        }
        let mut engine = Self {
            models,
            options,
            window,
            saturated,
            now: Timestamp::ZERO,
            programs: BTreeMap::new(),
            flights: Vec::new(),
            begun: 0,
            tallies: vec![Tally::default(); models.len()],
        };
        for (index, model) in models.iter().enumerate() {
            if model.batch == 0 {
                return Err(IdealError::Zero {
                    parameter: "a model's batch",
                });
            }
            if engine.program(index, model.batch).alone == Nanos::ZERO {
                return Err(IdealError::NoTime {
                    model: model.name.clone(),
                });
            }
        }
        Ok(engine)
    }

    /// Runs `arrivals` to their end, the requests of a model having so many `items` each;
    /// until the end of the window, a saturated model has full batches besides.
    pub(super) fn run(&mut self, items: &[u32], arrivals: impl Iterator<Item = Arrival>) {
        let mut arrivals = arrivals.peekable();
        let mut queues = vec![VecDeque::new(); self.models.len()];
        loop {
            let now = self.now;
            while let Some(arrival) = arrivals.next_if(|arrival| arrival.at <= now) {
                queues[arrival.model].push_back(arrival.at);
            }
            for (model, queue) in queues.iter_mut().enumerate() {
                if self.saturated[model] {
                    self.fill(model);
                } else {
                    self.form(model, items[model], queue);
                }
            }
            self.divide();
            let arrival = arrivals.peek().map(|arrival| arrival.at);
            let Some(next) = self.next_end().into_iter().chain(arrival).min() else {
                return;
            };
            self.advance(next);
            self.finish();
        }
    }

    /// Begins full tasks of a saturated model.
    fn fill(&mut self, model: usize) {
        let batch = self.models[model].batch;
        while self.now < self.window.until && self.has_place(model) {
            self.begin(model, batch, vec![self.now; batch as usize]);
        }
    }

    /// When each model has ended `tasks` full tasks, all waiting from the start.
    #[cfg(test)]
    pub(super) fn run_each(&mut self, tasks: u64) -> Vec<Timestamp> {
        let mut begun = vec![0; self.models.len()];
        let mut ends = vec![Timestamp::ZERO; self.models.len()];
        loop {
            for (index, model) in self.models.iter().enumerate() {
                if begun[index] < tasks && self.has_place(index) {
                    begun[index] += 1;
                    self.begin(index, model.batch, vec![self.now]);
                }
            }
            self.divide();
            for flight in &self.flights {
                ends[flight.model] = flight.ends;
            }
            let Some(next) = self.next_end() else {
                return ends;
            };
            self.advance(next);
            self.finish();
        }
    }

    pub(super) fn into_report(self) -> IdealReport {
        let length = self.window.length();
        let models = self.models.iter().zip(self.tallies).zip(self.saturated);
        let models = models.map(|((model, tally), full)| tally.report(&model.name, length, full));
        IdealReport::new(models.collect(), self.options.slices, length)
    }

    /// Begins tasks of a model from its waiting requests, and rejects those that could not
    /// end in time if they had the whole device.
    fn form(&mut self, model: usize, items: u32, queue: &mut VecDeque<Timestamp>) {
        while self.has_place(model)
            && let Some(&first) = queue.front()
        {
            let deadline = first + self.models[model].slo;
            let fitting = (self.models[model].batch / items).max(1) as usize;
            // A full batch is not shrunk for its first request's sake: where more wait than
            // fit, that would lose more requests than the one.
            let most = fitting.min(queue.len());
            let least = if queue.len() > fitting { most } else { 1 };
            let taken = (least..=most).rev().find_map(|requests| {
                let batch = items.saturating_mul(u32::try_from(requests).unwrap_or(u32::MAX));
                let ends = self.now + self.program(model, batch).alone;
                (ends <= deadline).then_some((requests, batch))
            });
            if let Some((requests, batch)) = taken {
                let received = queue.drain(..requests).collect();
                self.begin(model, batch, received);
            } else {
                queue.pop_front();
                if self.window.holds(first) {
                    self.tallies[model].rejected += 1;
                }
            }
        }
    }

    fn has_place(&self, model: usize) -> bool {
        let flights = self.flights.iter();
        let running = flights.filter(|flight| flight.model == model).count();
        running < usize::from(self.options.in_flight)
    }

    /// Begins a task of requests, the first received first.
    fn begin(&mut self, model: usize, items: u32, received: Vec<Timestamp>) {
        let first = received.first().copied().unwrap_or(self.now);
        let mut flight = Flight {
            model,
            program: self.program(model, items),
            step: 0,
            left: 1.0,
            share: 0,
            time_s: f64::INFINITY,
            ends: Timestamp::MAX,
            deadline: first + self.models[model].slo,
            order: self.begun,
            received,
            items,
        };
        flight.enter(0);
        self.flights.push(flight);
        self.begun += 1;
    }

    fn program(&mut self, model: usize, items: u32) -> Rc<Program> {
        let slices = self.options.slices.0;
        let make = || Rc::new(Program::new(&self.models[model], items, slices));
        Rc::clone(self.programs.entry((model, items)).or_insert_with(make))
    }

    /// Divides the slices among the tasks in flight.
    fn divide(&mut self) {
        let mut left = u64::from(self.options.slices.0) * SLICE;
        let mut flights: Vec<&mut Flight> = self.flights.iter_mut().collect();
        match self.options.division {
            Division::MaxMin => flights.sort_by_key(|flight| (flight.demand(), flight.order)),
            Division::EarliestDeadline => {
                flights.sort_by_key(|flight| (flight.deadline, flight.order));
            }
        }
        let mut waiting = flights.len() as u64;
        for flight in flights {
            let part = match self.options.division {
                Division::MaxMin => left / waiting,
                Division::EarliestDeadline => left,
            };
            let share = flight.demand().min(part);
            flight.hold(share, self.now);
            left -= share;
            waiting -= 1;
        }
    }

    /// When the next kernel ends.
    fn next_end(&self) -> Option<Timestamp> {
        self.flights.iter().map(|flight| flight.ends).min()
    }

    /// Lets the time go to `to`, where no kernel ends before.
    fn advance(&mut self, to: Timestamp) {
        let elapsed = to - self.now;
        if elapsed == Nanos::ZERO {
            return;
        }
        let counted = self.window.overlap(self.now, to);
        let part = counted.as_secs_f64() / elapsed.as_secs_f64();
        for flight in &mut self.flights {
            let done = if flight.ends <= to {
                flight.left
            } else {
                (elapsed.as_secs_f64() / flight.time_s).min(flight.left)
            };
            flight.left -= done;
            let tally = &mut self.tallies[flight.model];
            tally.held += u128::from(flight.share) * u128::from(counted.as_nanos());
            tally.at_knee_s += done * part * flight.program.steps[flight.step].at_knee;
        }
        self.now = to;
    }

    /// Takes the tasks whose kernel ended to the next one, or to their end.
    fn finish(&mut self) {
        let mut ended = Vec::new();
        let now = self.now;
        for (index, flight) in self.flights.iter_mut().enumerate() {
            if flight.ends > now {
                continue;
            }
            if flight.step + 1 < flight.program.steps.len() {
                flight.enter(flight.step + 1);
            } else {
                ended.push(index);
            }
        }
        for index in ended.into_iter().rev() {
            let flight = self.flights.remove(index);
            // Nobody waits for what a saturated model would have done.
            if self.saturated[flight.model] && now > self.window.until {
                continue;
            }
            let slo = self.models[flight.model].slo;
            let tally = &mut self.tallies[flight.model];
            let counted = |at: &&Timestamp| self.window.holds(**at);
            for &received in flight.received.iter().filter(counted) {
                tally.ended(now - received, slo);
            }
            if flight.received.iter().any(|at| self.window.holds(*at)) {
                tally.tasks += 1;
                tally.items += u64::from(flight.items);
            }
        }
    }
}

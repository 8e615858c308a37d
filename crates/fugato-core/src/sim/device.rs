//! A simulated device: lanes with the contract of a real one, and a stated model of
//! contention.

use super::contention::{FRACTION, Occupant, Pace, TimeSlicing, paces};
use super::service::Service;
use crate::device::{AtomSet, DeviceSpec, LaneClass};
use crate::id::{BatchSize, DeviceId, LaneId, LegIndex, ModelId, PartitionId, Share, TaskId};
use crate::sched::{Input, LegResult, Start};
use crate::time::{Nanos, Timestamp};
use std::collections::{BTreeMap, VecDeque};

/// A simulated device.
///
/// It keeps the contract of every device: legs of a lane run in order, a committed leg
/// starts by itself when the lane falls free, and a revoked leg either starts or comes
/// back.
///
/// # Contention
/// Legs on shared atoms divide them in time, and legs on disjoint atoms slow each other by
/// their demand of memory. The pace of a leg changes when others come and go. Time is
/// counted in whole nanoseconds, work in 2^-24 ns: an end is at most 1 ns late per
/// change of pace.
///
/// # Cost
/// A leg that begins or ends costs O(legs that run) where it shares no atoms and nobody
/// demands memory, else what it costs to find all paces anew.
#[derive(Debug)]
pub struct SimDevice {
    spec: DeviceSpec,
    overheads: Overheads,
    now: Timestamp,
    /// By lane, rising.
    running: Vec<Running>,
    /// By lane, rising; at most one per lane.
    queued: Vec<Queued>,
    /// When the next leg begins or ends.
    next: Option<Timestamp>,
    /// Whether some running leg is slowed down.
    disturbed: bool,
    events: VecDeque<Input>,
    used: BTreeMap<ModelId, Used>,
    /// Kept to allocate nothing per event.
    scratch: (Vec<Occupant>, Vec<Pace>),
}

/// What a simulated device costs beside the legs themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overheads {
    /// From a leg being handed to a free lane to its start.
    pub launch: Nanos,
    /// From the end of a leg to the start of the one committed behind it.
    pub boundary: Nanos,
    /// How overlapping legs share their atoms.
    pub slicing: TimeSlicing,
}

impl Overheads {
    /// A device whose legs cost nothing but their own time.
    pub const NONE: Self = Self {
        launch: Nanos::ZERO,
        boundary: Nanos::ZERO,
        slicing: TimeSlicing::FREE,
    };
}

/// What a model has had of a device so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Slices times the time they were its own, in slice-nanoseconds: a leg that shares
    /// its atoms in time has 1/k of it.
    pub held: u128,
    /// The same, counting only slices that the leg can make use of.
    pub useful: u128,
    /// First legs that ended well: runs.
    pub runs: u64,
    /// Items of those runs.
    pub items: u64,
}

impl Used {
    fn add(&mut self, leg: &Running, elapsed: Nanos) {
        let elapsed = u128::from(elapsed.as_nanos());
        let had = (elapsed << FRACTION) / u128::from(leg.pace.crowd);
        self.held += had * u128::from(leg.share.0);
        self.useful += had * u128::from(leg.share.min(leg.service.useful).0);
    }
}

type LaneKey = (PartitionId, LaneId);

#[derive(Debug)]
struct Queued {
    lane: LaneKey,
    start: Start,
    service: Service,
}

#[derive(Debug)]
struct Running {
    lane: LaneKey,
    task: TaskId,
    leg: LegIndex,
    /// Whether its task begins with it.
    first: bool,
    model: ModelId,
    batch: BatchSize,
    atoms: AtomSet,
    urgent: bool,
    share: Share,
    service: Service,
    begins: Timestamp,
    reported: bool,
    /// Work left at `since`, in 2^-[`FRACTION`] ns of the leg alone.
    left: u128,
    since: Timestamp,
    pace: Pace,
    /// When it ends at this pace; never, where it hangs.
    end: Option<Timestamp>,
    /// Up to when its time is in [`Used`].
    counted: Timestamp,
    result: LegResult,
}

impl Running {
    /// When it next changes by itself.
    fn next(&self, now: Timestamp) -> Option<Timestamp> {
        if self.reported {
            self.end
        } else {
            Some(self.begins.max(now))
        }
    }

    fn ends_by(&self, now: Timestamp) -> bool {
        self.reported && self.end.is_some_and(|end| end <= now)
    }

    /// Begins at last.
    fn report(&mut self, now: Timestamp) {
        self.reported = true;
        self.begins = now;
        self.since = now;
        self.counted = now;
        self.end = Some(now + self.remaining());
    }

    /// Goes on at another pace from `now` on.
    fn set_pace(&mut self, now: Timestamp, pace: Pace, used: &mut BTreeMap<ModelId, Used>) {
        self.count(now, used);
        let elapsed = u128::from((now - self.since).as_nanos()) << (2 * FRACTION);
        self.left = self
            .left
            .saturating_sub(elapsed / u128::from(self.pace.slow));
        self.since = now;
        self.pace = pace;
        if self.end.is_some() {
            self.end = Some(now + self.remaining());
        }
    }

    fn remaining(&self) -> Nanos {
        let slow = u128::from(self.pace.slow);
        let nanos = self.left.saturating_mul(slow).div_ceil(1 << (2 * FRACTION));
        Nanos::new(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Counts its time up to `now` as its model's.
    fn count(&mut self, now: Timestamp, used: &mut BTreeMap<ModelId, Used>) {
        let elapsed = now - self.counted;
        used.entry(self.model).or_default().add(self, elapsed);
        self.counted = self.counted.max(now);
    }

    fn occupant(&self) -> Occupant {
        Occupant {
            urgent: self.urgent,
            atoms: self.atoms,
            share: self.share,
            sensitivity: self.service.sensitivity,
            demand: self.service.demand,
        }
    }
}

impl SimDevice {
    /// An idle device without overheads.
    pub fn new(spec: DeviceSpec) -> Self {
        Self::with_overheads(spec, Overheads::NONE)
    }

    /// An idle device.
    pub fn with_overheads(spec: DeviceSpec, overheads: Overheads) -> Self {
        Self {
            spec,
            overheads,
            now: Timestamp::ZERO,
            running: Vec::new(),
            queued: Vec::new(),
            next: None,
            disturbed: false,
            events: VecDeque::new(),
            used: BTreeMap::new(),
            scratch: (Vec::new(), Vec::new()),
        }
    }

    /// What it publishes.
    pub fn spec(&self) -> &DeviceSpec {
        &self.spec
    }

    /// Takes a leg.
    ///
    /// # Panics
    /// Where the lane holds a running and a committed leg already.
    pub fn start(&mut self, now: Timestamp, start: Start, service: impl Into<Service>) {
        self.advance(now);
        let lane = (start.partition, start.lane);
        let (service, launch) = (service.into(), self.overheads.launch);
        if !self.is_running(lane) {
            self.begin(lane, start, service, launch);
            return self.find_next();
        }
        let place = self.queued.partition_point(|queued| queued.lane < lane);
        assert!(
            self.queued.get(place).is_none_or(|next| next.lane != lane),
            "a third leg on {} of {}",
            start.lane,
            start.partition
        );
        let queued = Queued {
            lane,
            start,
            service,
        };
        self.queued.insert(place, queued);
    }

    /// Takes a committed leg back, if it has not begun.
    pub fn revoke(&mut self, now: Timestamp, task: TaskId, leg: LegIndex) {
        self.advance(now);
        let is_queued = |queued: &Queued| (queued.start.task, queued.start.leg) == (task, leg);
        let is_waiting =
            |running: &Running| (running.task, running.leg) == (task, leg) && !running.reported;
        if let Some(place) = self.queued.iter().position(is_queued) {
            self.queued.remove(place);
        } else if let Some(place) = self.running.iter().position(is_waiting) {
            let lane = self.running.remove(place).lane;
            self.follow(lane, self.overheads.launch);
            self.find_next();
        } else {
            return;
        }
        self.events.push_back(Input::LegRevoked {
            device: self.spec.id,
            task,
            leg,
        });
    }

    /// Makes the running leg of a task fail when it ends.
    pub fn fail(&mut self, task: TaskId) {
        for leg in self.running.iter_mut().filter(|leg| leg.task == task) {
            leg.result = LegResult::Failed;
        }
    }

    /// Makes the running leg of a task never end; its atoms stay taken until the device
    /// is lost.
    pub fn hang(&mut self, task: TaskId) {
        for leg in self.running.iter_mut().filter(|leg| leg.task == task) {
            leg.end = None;
        }
        self.find_next();
    }

    /// Forgets everything that runs or waits: the device was lost.
    pub fn reset(&mut self, now: Timestamp) {
        self.advance(now);
        self.count(now);
        self.running.clear();
        self.queued.clear();
        self.events.clear();
        self.disturbed = false;
        self.next = None;
    }

    /// When it will next report something, if nothing is done before.
    pub fn next_event(&self) -> Option<Timestamp> {
        if !self.events.is_empty() {
            return Some(self.now);
        }
        self.next
    }

    /// The next report up to `now`.
    pub fn poll_event(&mut self, now: Timestamp) -> Option<Input> {
        self.advance(now);
        self.events.pop_front()
    }

    /// What each model has had of the device up to `now`.
    pub fn used(&mut self, now: Timestamp) -> &BTreeMap<ModelId, Used> {
        self.advance(now);
        self.count(now);
        &self.used
    }

    fn count(&mut self, now: Timestamp) {
        for leg in self.running.iter_mut().filter(|leg| leg.reported) {
            leg.count(now, &mut self.used);
        }
    }

    fn is_running(&self, lane: LaneKey) -> bool {
        self.running
            .binary_search_by_key(&lane, |leg| leg.lane)
            .is_ok()
    }

    fn find_next(&mut self) {
        let now = self.now;
        self.next = self.running.iter().filter_map(|leg| leg.next(now)).min();
    }

    fn advance(&mut self, to: Timestamp) {
        while let Some(at) = self.next.filter(|&at| at <= to) {
            self.now = self.now.max(at);
            self.report();
        }
        self.now = self.now.max(to);
    }

    /// Reports the legs that end or begin now, lanes in order, ends first.
    fn report(&mut self) {
        let now = self.now;
        let mut place = 0;
        while place < self.running.len() {
            if self.running[place].ends_by(now) {
                // What follows on the lane takes its place, and has not begun.
                let lane = self.end(place);
                self.follow(lane, self.overheads.boundary);
            } else {
                place += 1;
            }
        }
        for place in 0..self.running.len() {
            let leg = &mut self.running[place];
            if !leg.reported && leg.begins <= now {
                leg.report(now);
                let (task, leg) = (leg.task, leg.leg);
                self.events.push_back(Input::LegStarted {
                    device: self.spec.id,
                    task,
                    leg,
                    at: now,
                });
                self.disturbed |= self.is_disturbed_by(place);
            }
        }
        if self.disturbed {
            self.find_paces();
        }
        self.find_next();
    }

    /// Takes a leg that ends now off its lane, and says which lane.
    fn end(&mut self, place: usize) -> LaneKey {
        let mut gone = self.running.remove(place);
        gone.count(self.now, &mut self.used);
        if gone.first && gone.result == LegResult::Done {
            let used = self.used.entry(gone.model).or_default();
            used.runs += 1;
            used.items += u64::from(gone.batch.0);
        }
        self.events.push_back(Input::LegFinished {
            device: self.spec.id,
            task: gone.task,
            leg: gone.leg,
            started: gone.begins,
            ended: self.now,
            result: gone.result,
        });
        gone.lane
    }

    /// Lets the leg committed to a lane that has fallen free begin after `delay`.
    fn follow(&mut self, lane: LaneKey, delay: Nanos) {
        if let Ok(place) = self.queued.binary_search_by_key(&lane, |next| next.lane) {
            let Queued { start, service, .. } = self.queued.remove(place);
            self.begin(lane, start, service, delay);
        }
    }

    fn begin(&mut self, lane: LaneKey, start: Start, service: Service, delay: Nanos) {
        let partition = &self.spec.partitions[usize::from(start.partition.0)];
        let begins = start.not_before.max(self.now) + delay;
        let leg = Running {
            lane,
            task: start.task,
            leg: start.leg,
            first: start.leg == LegIndex(0) || start.unsplit,
            model: start.model,
            batch: start.batch,
            atoms: partition.atoms,
            urgent: partition.lanes[usize::from(start.lane.0)] == LaneClass::Urgent,
            share: partition.share(),
            service,
            begins,
            reported: false,
            left: u128::from(service.alone.as_nanos()) << FRACTION,
            since: begins,
            pace: Pace::ALONE,
            end: None,
            counted: begins,
            result: LegResult::Done,
        };
        let place = self.running.partition_point(|other| other.lane < lane);
        self.running.insert(place, leg);
    }

    /// Whether the leg at `place`, which has just begun, slows another or is slowed.
    fn is_disturbed_by(&self, place: usize) -> bool {
        let leg = self.running[place].occupant();
        let reported = self.running.iter().enumerate();
        let others = reported.filter(|&(other, known)| known.reported && other != place);
        let mut others = others.map(|(_, known)| known.occupant());
        others.any(|other| leg.disturbs(&other) || other.disturbs(&leg))
    }

    fn find_paces(&mut self) {
        let (occupants, found) = &mut self.scratch;
        occupants.clear();
        let running = self.running.iter().filter(|leg| leg.reported);
        occupants.extend(running.map(Running::occupant));
        paces(occupants, self.spec.slices, self.overheads.slicing, found);
        let running = self.running.iter_mut().filter(|leg| leg.reported);
        for (leg, &pace) in running.zip(found.iter()) {
            if leg.pace != pace {
                leg.set_pace(self.now, pace, &mut self.used);
            }
        }
        self.disturbed = found.iter().any(|&pace| pace != Pace::ALONE);
    }

    /// Which device it is.
    pub fn id(&self) -> DeviceId {
        self.spec.id
    }
}

#[cfg(test)]
mod tests;

//! A simulated device: lanes with the contract of a real one, and a stated model of
//! contention.

use crate::device::{AtomSet, DeviceSpec};
use crate::id::{DeviceId, LaneId, LegIndex, PartitionId, TaskId};
use crate::sched::{Input, LegResult, Start};
use crate::time::{Nanos, Timestamp};
use std::collections::{BTreeMap, VecDeque};

/// Work is counted in fractions of a nanosecond, so that shared legs progress exactly
/// enough: 2^-16 ns per step of the clock.
const FRACTION: u32 = 16;

/// A simulated device.
///
/// It keeps the contract of every device: legs of a lane run in order, a committed leg
/// starts by itself when the lane falls free, and a revoked leg either starts or comes
/// back.
///
/// # Contention
/// Legs whose partitions share atoms divide them evenly in time, as an operating system
/// or a time-sliced accelerator would: a leg runs at the rate of its most crowded atom,
/// 1/k where k running legs cover it. Legs on disjoint atoms do not disturb each other.
#[derive(Debug)]
pub struct SimDevice {
    spec: DeviceSpec,
    now: Timestamp,
    lanes: BTreeMap<(PartitionId, LaneId), SimLane>,
    events: VecDeque<Input>,
}

#[derive(Debug, Default)]
struct SimLane {
    running: Option<Running>,
    queued: Option<(Start, Nanos)>,
}

#[derive(Debug)]
struct Running {
    task: TaskId,
    leg: LegIndex,
    atoms: AtomSet,
    begins: Timestamp,
    reported: bool,
    /// Work left, in 2^-[`FRACTION`] ns.
    left: u128,
    result: LegResult,
}

impl SimDevice {
    /// An idle device.
    pub fn new(spec: DeviceSpec) -> Self {
        Self {
            spec,
            now: Timestamp::ZERO,
            lanes: BTreeMap::new(),
            events: VecDeque::new(),
        }
    }

    /// What it publishes.
    pub fn spec(&self) -> &DeviceSpec {
        &self.spec
    }

    /// Takes a leg that would need `service` alone on its partition.
    ///
    /// # Panics
    /// Where the lane holds a running and a committed leg already.
    pub fn start(&mut self, now: Timestamp, start: Start, service: Nanos) {
        self.advance(now);
        let lane = self.lanes.entry((start.partition, start.lane)).or_default();
        assert!(
            lane.queued.is_none(),
            "a third leg on {} of {}",
            start.lane,
            start.partition
        );
        lane.queued = Some((start, service));
        self.begin_queued();
    }

    /// Takes a committed leg back, if it has not begun.
    pub fn revoke(&mut self, now: Timestamp, task: TaskId, leg: LegIndex) {
        self.advance(now);
        for lane in self.lanes.values_mut() {
            if lane
                .queued
                .as_ref()
                .is_some_and(|(start, _)| (start.task, start.leg) == (task, leg))
            {
                lane.queued = None;
                self.events.push_back(Input::LegRevoked {
                    device: self.spec.id,
                    task,
                    leg,
                });
            } else if let Some(running) = &lane.running
                && (running.task, running.leg, running.reported) == (task, leg, false)
            {
                lane.running = None;
                self.events.push_back(Input::LegRevoked {
                    device: self.spec.id,
                    task,
                    leg,
                });
            }
        }
        self.begin_queued();
    }

    /// Makes the running leg of a task fail when it ends.
    pub fn fail(&mut self, task: TaskId) {
        let running = self
            .lanes
            .values_mut()
            .filter_map(|lane| lane.running.as_mut());
        for leg in running.filter(|leg| leg.task == task) {
            leg.result = LegResult::Failed;
        }
    }

    /// Forgets everything that runs or waits: the device was lost.
    pub fn reset(&mut self) {
        self.lanes.clear();
        self.events.clear();
    }

    /// When it will next report something, if nothing is done before.
    pub fn next_event(&self) -> Option<Timestamp> {
        if !self.events.is_empty() {
            return Some(self.now);
        }
        self.next_change()
    }

    /// The next report up to `now`.
    pub fn poll_event(&mut self, now: Timestamp) -> Option<Input> {
        self.advance(now);
        self.events.pop_front()
    }

    /// When the next leg begins or ends.
    fn next_change(&self) -> Option<Timestamp> {
        let running = self.lanes.values().filter_map(|lane| lane.running.as_ref());
        running
            .map(|leg| {
                if !leg.reported {
                    return leg.begins.max(self.now);
                }
                let nanos = (leg.left * u128::from(self.crowd(leg.atoms))).div_ceil(1 << FRACTION);
                self.now + Nanos::new(u64::try_from(nanos).unwrap_or(u64::MAX))
            })
            .min()
    }

    /// Legs that run on the most crowded of the atoms.
    fn crowd(&self, atoms: AtomSet) -> u64 {
        let running: Vec<AtomSet> = self
            .lanes
            .values()
            .filter_map(|lane| lane.running.as_ref())
            .filter(|leg| leg.reported)
            .map(|leg| leg.atoms)
            .collect();
        let on = |atom: u16| {
            running
                .iter()
                .filter(|other| other.overlaps(AtomSet::range(atom, 1)))
                .count() as u64
        };
        atoms.iter().map(on).max().unwrap_or(1).max(1)
    }

    fn advance(&mut self, to: Timestamp) {
        while let Some(at) = self.next_change().filter(|&at| at <= to) {
            self.progress(at);
            self.report();
        }
        self.progress(to);
    }

    /// Lets time pass without a leg beginning or ending in between.
    fn progress(&mut self, to: Timestamp) {
        let elapsed = u128::from(to.since(self.now).as_nanos()) << FRACTION;
        let crowds: Vec<u64> = self
            .lanes
            .values()
            .map(|lane| lane.running.as_ref().map_or(1, |leg| self.crowd(leg.atoms)))
            .collect();
        for (lane, crowd) in self.lanes.values_mut().zip(crowds) {
            if let Some(leg) = lane.running.as_mut().filter(|leg| leg.reported) {
                leg.left = leg.left.saturating_sub(elapsed.div_ceil(u128::from(crowd)));
            }
        }
        self.now = self.now.max(to);
    }

    /// Reports the legs that begin or end now, lanes in order, ends first.
    fn report(&mut self) {
        let (now, device) = (self.now, self.spec.id);
        for lane in self.lanes.values_mut() {
            if lane
                .running
                .as_ref()
                .is_some_and(|leg| leg.reported && leg.left == 0)
                && let Some(Running {
                    task,
                    leg,
                    begins: started,
                    result,
                    ..
                }) = lane.running.take()
            {
                self.events.push_back(Input::LegFinished {
                    device,
                    task,
                    leg,
                    started,
                    ended: now,
                    result,
                });
            }
        }
        self.begin_queued();
        for lane in self.lanes.values_mut() {
            if let Some(leg) = lane
                .running
                .as_mut()
                .filter(|leg| !leg.reported && leg.begins <= now)
            {
                leg.reported = true;
                leg.begins = now;
                self.events.push_back(Input::LegStarted {
                    device,
                    task: leg.task,
                    leg: leg.leg,
                    at: now,
                });
            }
        }
    }

    fn begin_queued(&mut self) {
        for lane in self.lanes.values_mut() {
            if lane.running.is_none()
                && let Some((start, service)) = lane.queued.take()
            {
                lane.running = Some(Running {
                    task: start.task,
                    leg: start.leg,
                    atoms: self.spec.partitions[usize::from(start.partition.0)].atoms,
                    begins: start.not_before.max(self.now),
                    reported: false,
                    left: u128::from(service.as_nanos()) << FRACTION,
                    result: LegResult::Done,
                });
            }
        }
    }

    /// Which device it is.
    pub fn id(&self) -> DeviceId {
        self.spec.id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::LaneClass;
    use crate::id::{BatchSize, ModelId, Share, SlotIndex};

    fn device() -> SimDevice {
        let lanes = [LaneClass::Normal; 2];
        SimDevice::new(DeviceSpec::nested(
            DeviceId(0),
            "sim",
            Share(2),
            &lanes,
            &lanes,
        ))
    }

    fn start(task: u64, partition: u16, lane: u16) -> Start {
        Start {
            device: DeviceId(0),
            task: TaskId(task),
            model: ModelId(0),
            leg: LegIndex(0),
            partition: PartitionId(partition),
            lane: LaneId(lane),
            slot: SlotIndex(0),
            batch: BatchSize(1),
            not_before: Timestamp::ZERO,
            requests: Vec::new(),
        }
    }

    /// (task, start, end) of all legs, by end.
    fn finished(device: &mut SimDevice) -> Vec<(u64, u64, u64)> {
        let end = Timestamp::from_nanos(1_000_000);
        std::iter::from_fn(|| device.poll_event(end))
            .filter_map(|event| {
                let Input::LegFinished {
                    task,
                    started,
                    ended,
                    ..
                } = event
                else {
                    return None;
                };
                Some((task.0, started.as_nanos(), ended.as_nanos()))
            })
            .collect()
    }

    #[test]
    fn disjoint_partitions_run_undisturbed_and_shared_ones_divide_time() {
        let mut apart = device();
        apart.start(Timestamp::ZERO, start(1, 1, 0), Nanos::new(100));
        apart.start(Timestamp::ZERO, start(2, 2, 0), Nanos::new(100));
        assert_eq!(finished(&mut apart), [(1, 0, 100), (2, 0, 100)]);
        let mut shared = device();
        shared.start(Timestamp::ZERO, start(1, 0, 0), Nanos::new(100));
        shared.start(Timestamp::from_nanos(50), start(2, 0, 1), Nanos::new(100));
        assert_eq!(finished(&mut shared), [(1, 0, 150), (2, 50, 200)]);
    }

    #[test]
    fn a_committed_leg_follows_by_itself_or_comes_back() {
        let mut device = device();
        device.start(Timestamp::ZERO, start(1, 0, 0), Nanos::new(100));
        device.start(Timestamp::from_nanos(90), start(2, 0, 0), Nanos::new(100));
        assert_eq!(finished(&mut device), [(1, 0, 100), (2, 100, 200)]);
        let mut device = self::device();
        device.start(Timestamp::ZERO, start(1, 0, 0), Nanos::new(100));
        device.start(Timestamp::from_nanos(90), start(2, 0, 0), Nanos::new(100));
        device.revoke(Timestamp::from_nanos(95), TaskId(2), LegIndex(0));
        let revoked = Input::LegRevoked {
            device: DeviceId(0),
            task: TaskId(2),
            leg: LegIndex(0),
        };
        let events: Vec<Input> =
            std::iter::from_fn(|| device.poll_event(Timestamp::from_nanos(96))).collect();
        assert!(events.contains(&revoked));
        assert_eq!(finished(&mut device), [(1, 0, 100)]);
    }
}

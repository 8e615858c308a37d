//! The buffers of one task in flight, and which task has them.

use super::super::backend::{Backend, Fault, Port};
use super::model::{LaneKey, LoadedModel};
use crate::batch::Failed;
use crate::device::RunErrorKind;
use crate::flight::Flight;
use fugato_core::sched::Start;
use fugato_core::{SlotIndex, TaskId};
use std::sync::{Arc, Mutex, PoisonError};

/// The buffers of one task in flight, which stay where they are for as long as the model.
pub(super) struct Slot<B: Backend> {
    /// Where requests are written side by side.
    pub(super) staged: Mutex<Vec<B::Pinned>>,
    pub(super) inputs: Vec<Arc<B::Memory>>,
    pub(super) outputs: Vec<Arc<B::Memory>>,
    /// What legs leave for each other.
    pub(super) kept: Option<Arc<B::Memory>>,
    /// After the last leg that the device was given, in a model of several.
    pub(super) left: Option<B::Event>,
    pub(super) tenancy: Mutex<Tenancy>,
}

/// Which task has a slot.
#[derive(Default)]
pub(super) struct Tenancy {
    /// A task between its legs.
    pub(super) flight: Option<Flight>,
    /// Where its last leg was given to the device.
    pub(super) left_on: Option<LaneKey>,
    /// The task whose legs the device has, and how many.
    on_device: Option<(TaskId, u32)>,
}

/// What a slot has room for.
pub(super) struct Room<'a> {
    pub(super) inputs: &'a [Port],
    pub(super) outputs: &'a [Port],
    /// Bytes of what legs leave for each other.
    pub(super) kept: usize,
    pub(super) legs: usize,
    pub(super) rows: u32,
}

impl Room<'_> {
    pub(super) fn bytes(&self, port: &Port) -> Result<usize, Fault> {
        port.bytes(self.rows).ok_or_else(|| port.too_large())
    }
}

impl<B: Backend> Slot<B> {
    pub(super) fn new(backend: &B, room: &Room<'_>) -> Result<Self, Fault> {
        let pinned = |port: &Port| backend.pinned(room.bytes(port)?);
        let placed = |port: &Port| Ok(Arc::new(backend.memory(room.bytes(port)?)?));
        let all = |ports: &[Port]| ports.iter().map(placed).collect::<Result<_, Fault>>();
        let staged: Result<_, Fault> = room.inputs.iter().map(pinned).collect();
        Ok(Self {
            staged: Mutex::new(staged?),
            inputs: all(room.inputs)?,
            outputs: all(room.outputs)?,
            kept: match room.kept {
                0 => None,
                bytes => Some(Arc::new(backend.memory(bytes)?)),
            },
            left: match room.legs {
                0 | 1 => None,
                _ => Some(backend.event()?),
            },
            tenancy: Mutex::default(),
        })
    }
}

/// A slot that a task has while the device has a leg of it.
pub(super) struct Hold<B: Backend> {
    model: Arc<LoadedModel<B>>,
    slot: SlotIndex,
    task: TaskId,
}

impl<B: Backend> Hold<B> {
    /// Takes hold of a leg's slot; gives the task too, unless this is its first leg.
    pub(super) fn take(
        model: &Arc<LoadedModel<B>>,
        start: &Start,
    ) -> Result<(Self, Option<Flight>), Failed> {
        let mut tenancy = model.tenancy(start.slot);
        let held = match tenancy.on_device {
            Some((task, legs)) if task == start.task && start.leg.0 > 0 => legs,
            Some((other, _)) => {
                let (task, slot) = (start.task, start.slot);
                let detail = format!("{task} was given {slot}, which {other} is using");
                return Err((RunErrorKind::Runtime, detail));
            }
            None => 0,
        };
        let flight = match start.leg.0 {
            0 => {
                // Of a task that nobody has let go of.
                tenancy.flight = None;
                None
            }
            _ => Some(Flight::resume(&mut tenancy.flight, start)?),
        };
        tenancy.on_device = Some((start.task, held + 1));
        drop(tenancy);
        let hold = Self {
            model: Arc::clone(model),
            slot: start.slot,
            task: start.task,
        };
        Ok((hold, flight))
    }

    /// Where the task's last leg was given to the device.
    pub(super) fn left_on(&self) -> Option<LaneKey> {
        self.model.tenancy(self.slot).left_on
    }

    /// The device has the leg, and the task goes on after it if there is more.
    pub(super) fn leave(&self, lane: LaneKey, flight: Option<Flight>) {
        let mut tenancy = self.model.tenancy(self.slot);
        tenancy.left_on = Some(lane);
        tenancy.flight = flight;
    }

    /// The task goes no further, since the leg failed on the device.
    pub(super) fn give_up(&self) {
        self.model.let_go(self.task, self.slot);
    }
}

impl<B: Backend> Drop for Hold<B> {
    fn drop(&mut self) {
        let mut tenancy = self.model.tenancy(self.slot);
        tenancy.on_device = match tenancy.on_device {
            Some((task, legs)) if legs > 1 => Some((task, legs - 1)),
            Some(_) | None => None,
        };
    }
}

impl<B: Backend> LoadedModel<B> {
    /// Frees what a task has left between its legs.
    pub(super) fn let_go(&self, task: TaskId, slot: SlotIndex) {
        if let Some(slot) = self.slots.get(usize::from(slot.0)) {
            let mut tenancy = slot.tenancy.lock().unwrap_or_else(PoisonError::into_inner);
            tenancy.flight.take_if(|flight| flight.task == task);
        }
    }
}

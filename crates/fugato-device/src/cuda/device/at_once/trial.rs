//! What groups answer by themselves and in a graph, and whether it is the same.

use super::super::super::backend::{Backend, Fault, How, Place};
use super::super::answers::{Filling, apart};
use super::super::model::LoadedModel;
use super::super::run::Tools;
use super::super::session::Batch;
use super::{Answers, AtOnce, refused};
use std::ops::Range;
use std::sync::{Arc, PoisonError};

impl<B: Backend> Tools<B> {
    /// What the groups of a leg answer by themselves, over what lies in the slot.
    pub(super) fn answers(
        &self,
        backend: &B,
        (model, at_once): (&LoadedModel<B>, &mut AtOnce<B>),
        (leg, batch): (usize, &Batch<'_, B>),
    ) -> Result<Answers, Fault> {
        let forks = at_once.forks(backend)?;
        at_once.enqueue(backend, (&forks, (batch.index, batch.rows)), How::Eager)?;
        self.settle(backend, at_once.trunk()?)?;
        let places = outputs(model, &model.course.legs[leg].concat(), batch)?;
        let answers = places.iter().map(|place| self.read(backend, place));
        answers.collect()
    }

    /// Holds what a graph answers against what its groups did, over what lies in the slot.
    pub(super) fn compare(
        &self,
        backend: &B,
        (model, at_once): (&LoadedModel<B>, &AtOnce<B>),
        (leg, batch): (usize, &Batch<'_, B>),
        expected: &Answers,
    ) -> Result<(), Fault> {
        let groups = at_once.stages.iter().flatten().map(|group| group.part);
        self.spoil(
            backend,
            &outputs(model, &groups.collect::<Vec<_>>(), batch)?,
        )?;
        let places = outputs(model, &model.course.legs[leg].concat(), batch)?;
        for (place, expected) in places.iter().zip(expected) {
            let spoilt: Vec<u8> = expected.iter().map(|byte| !byte).collect();
            backend.write(&spoilt, (place.memory, place.offset), &self.compute)?;
        }
        match at_once.launch((backend, &self.compute), (batch.index, batch.rows)) {
            Some(launched) => launched?,
            None => return Err(Fault::other("there is no such graph")),
        }
        self.settle(backend, &self.compute)?;
        for (place, expected) in places.iter().zip(expected) {
            let found = self.read(backend, place)?;
            apart(place.element, &found, expected).map_err(|apart| {
                let name = place.name.to_string_lossy();
                refused(format!("its graph gives another `{name}`: {apart}"))
            })?;
        }
        Ok(())
    }

    fn read(&self, backend: &B, place: &Place<'_, B::Memory>) -> Result<Vec<u8>, Fault> {
        backend.read((place.memory, place.offset), place.bytes, &self.compute)
    }

    /// Turns every bit in places round, once where they lie over each other.
    fn spoil(&self, backend: &B, places: &[Place<'_, B::Memory>]) -> Result<(), Fault> {
        for (memory, at) in united(places) {
            let found = backend.read((memory, at.start), at.len(), &self.compute)?;
            let spoilt: Vec<u8> = found.iter().map(|byte| !byte).collect();
            backend.write(&spoilt, (memory, at.start), &self.compute)?;
        }
        Ok(())
    }

    /// Writes inputs to try a model with, into the slot of a batch, or for no batch into the host
    /// memory of all slots.
    pub(super) fn fill(
        &self,
        backend: &B,
        model: &LoadedModel<B>,
        filling: Filling,
        batch: Option<&Batch<'_, B>>,
    ) -> Result<(), Fault> {
        let slots = match batch {
            Some(batch) => std::slice::from_ref(batch.slot),
            None => &model.slots[..],
        };
        for slot in slots {
            let mut staged = slot.staged.lock().unwrap_or_else(PoisonError::into_inner);
            for (input, (port, staged)) in model.inputs.iter().zip(&mut *staged).enumerate() {
                let bytes = match batch {
                    Some(batch) => port.bytes(batch.rows).ok_or_else(|| port.too_large())?,
                    None => staged.as_ref().len(),
                };
                filling.fill(port.spec.element, input, &mut staged.as_mut()[..bytes]);
            }
        }
        let Some(batch) = batch else { return Ok(()) };
        self.upload(backend, model, batch, &self.compute)?;
        self.settle(backend, &self.compute)
    }
}

/// Where parts put what they give.
fn outputs<'a, B: Backend>(
    model: &'a LoadedModel<B>,
    parts: &[usize],
    batch: &Batch<'a, B>,
) -> Result<Vec<Place<'a, B::Memory>>, Fault> {
    let mut outputs = Vec::new();
    for &part in parts {
        outputs.extend(model.places(part, batch)?.outputs);
    }
    Ok(outputs)
}

/// The bytes of places, each once: those of several that touch or overlap are one.
fn united<'a, M>(places: &[Place<'a, M>]) -> Vec<(&'a Arc<M>, Range<usize>)> {
    let range = |place: &Place<'a, M>| (place.memory, place.offset..place.offset + place.bytes);
    let mut ranges: Vec<_> = places.iter().map(range).collect();
    ranges.sort_by_key(|(memory, at)| (Arc::as_ptr(memory), at.start));
    let mut united: Vec<(&Arc<M>, Range<usize>)> = Vec::new();
    for (memory, at) in ranges {
        match united.last_mut() {
            Some((last, before)) if Arc::ptr_eq(last, memory) && at.start <= before.end => {
                before.end = before.end.max(at.end);
            }
            Some(_) | None => united.push((memory, at)),
        }
    }
    united
}

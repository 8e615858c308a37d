//! Whether a graph answers as its groups do by themselves, and about as the leg's one session.
//!
//! The graph answers first, so that nothing has to be kept of what groups answered before its
//! capture and others': one leg of one slot and batch is in memory at a time.

use super::super::super::backend::{Backend, Fault, Place};
use super::super::Core;
use super::super::answers::{Filling, apart, blank, far_apart};
use super::super::model::LoadedModel;
use super::super::run::Tools;
use super::super::session::{Batch, LaneSessions};
use super::{Answers, AtOnce, refused};
use std::ops::Range;
use std::sync::{Arc, PoisonError};

/// The inputs that graphs are tried with. Captures are over the first.
const FILLINGS: [Filling; 2] = [Filling::First, Filling::Second];

impl<B: Backend> Tools<B> {
    /// Has the graphs of all legs answer, each with its groups and the leg's one session after it,
    /// and holds the answers against each other. A leg whose graph answers otherwise does without.
    pub(super) fn try_graphs(
        &self,
        core: &Core<B>,
        (model, lane): (&LoadedModel<B>, &mut LaneSessions<B>),
        batch: &Batch<'_, B>,
    ) -> Result<(), Fault> {
        let mut seen = vec![None; model.legs()];
        for filling in FILLINGS {
            if lane.at_once.iter().all(Option::is_none) {
                return Ok(());
            }
            self.fill(core, model, filling, Some(batch))?;
            for (leg, seen) in seen.iter_mut().enumerate() {
                let at_once = lane.at_once[leg].as_mut();
                let answers = at_once
                    .map(|at_once| self.compare_with_groups(core, (model, at_once), (leg, batch)));
                self.pass_on(core, (model, &mut *lane), leg, batch)?;
                let Some(answers) = answers else { continue };
                let tried = answers.and_then(|answers| {
                    self.compare_with_one(core, model, (leg, batch), &answers)?;
                    match seen.replace(digest(&answers)) {
                        Some(before) if Some(before) == *seen => Err(indifferent()),
                        Some(_) | None => Ok(()),
                    }
                });
                if let Err(fault) = tried {
                    self.in_turn(core, (model, &mut *lane), leg, fault)?;
                }
            }
        }
        Ok(())
    }

    /// What a graph answers over what lies in the slot, held against what its groups answer then
    /// by themselves.
    fn compare_with_groups(
        &self,
        core: &Core<B>,
        (model, at_once): (&LoadedModel<B>, &mut AtOnce<B>),
        (leg, batch): (usize, &Batch<'_, B>),
    ) -> Result<Answers, Fault> {
        let groups = at_once.stages.iter().flatten().map(|group| group.part);
        self.spoil(core, &outputs(model, &groups.collect::<Vec<_>>(), batch)?)?;
        let places = outputs(model, &model.course.legs[leg].concat(), batch)?;
        for place in &places {
            let blank = blank(place.element, place.bytes);
            self.write(core, &blank, (place.memory, place.offset))?;
        }
        let with = (&core.backend, &self.compute);
        match at_once.launch(with, (batch.index, batch.rows)) {
            Some(launched) => launched?,
            None => return Err(Fault::other("there is no such graph")),
        }
        self.settle(core, &self.compute)?;
        let found = places.iter().map(|place| self.read(core, place));
        let found: Answers = found.collect::<Result<_, _>>()?;
        self.run_groups(core, at_once, batch)?;
        for (place, found) in places.iter().zip(&found) {
            let name = place.name.to_string_lossy();
            let expected = self.read(core, place)?;
            apart(place.element, found, &expected)
                .map_err(|apart| refused(format!("its graph gives another `{name}`: {apart}")))?;
            let blank = blank(place.element, place.bytes);
            if !expected.is_empty() && apart(place.element, &blank, &expected).is_ok() {
                let why = "which shows nothing of its graph";
                return Err(refused(format!("`{name}` is what was there before, {why}")));
            }
        }
        Ok(found)
    }

    /// Holds what a graph answered against what the leg's one session did just now.
    fn compare_with_one(
        &self,
        core: &Core<B>,
        model: &LoadedModel<B>,
        (leg, batch): (usize, &Batch<'_, B>),
        answers: &Answers,
    ) -> Result<(), Fault> {
        let places = outputs(model, &model.course.legs[leg].concat(), batch)?;
        for (place, found) in places.iter().zip(answers) {
            let expected = self.read(core, place)?;
            far_apart(place.element, found, &expected).map_err(|apart| {
                let name = place.name.to_string_lossy();
                refused(format!(
                    "its groups give another `{name}` than the leg in one piece: {apart}"
                ))
            })?;
        }
        Ok(())
    }

    fn read(&self, core: &Core<B>, place: &Place<'_, B::Memory>) -> Result<Vec<u8>, Fault> {
        self.read_at(core, (place.memory, place.offset), place.bytes)
    }

    fn read_at(
        &self,
        core: &Core<B>,
        from: (&B::Memory, usize),
        bytes: usize,
    ) -> Result<Vec<u8>, Fault> {
        core.watched(self.lane, || core.backend.read(from, bytes, &self.compute))
    }

    fn write(&self, core: &Core<B>, bytes: &[u8], to: (&B::Memory, usize)) -> Result<(), Fault> {
        core.watched(self.lane, || core.backend.write(bytes, to, &self.compute))
    }

    /// Turns every bit in places round, once where they lie over each other.
    fn spoil(&self, core: &Core<B>, places: &[Place<'_, B::Memory>]) -> Result<(), Fault> {
        for (memory, at) in united(places) {
            let found = self.read_at(core, (memory, at.start), at.len())?;
            let spoilt: Vec<u8> = found.iter().map(|byte| !byte).collect();
            self.write(core, &spoilt, (memory, at.start))?;
        }
        Ok(())
    }

    /// Writes inputs to try a model with, into the slot of a batch, or for no batch into the host
    /// memory of all slots.
    pub(super) fn fill(
        &self,
        core: &Core<B>,
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
        self.upload(&core.backend, model, batch, &self.compute)?;
        self.settle(core, &self.compute)
    }
}

/// What tells answers apart to the bit.
fn digest(answers: &Answers) -> blake3::Hash {
    let mut digest = blake3::Hasher::new();
    for answer in answers {
        digest.update(answer);
    }
    digest.finalize()
}

fn indifferent() -> Fault {
    refused("it answers two inputs alike, which shows nothing of its graph".to_owned())
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

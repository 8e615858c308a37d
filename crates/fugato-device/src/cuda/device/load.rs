//! Bringing models up: in legs where they can be cut, else in one piece.

use super::super::backend::Backend;
use super::GpuDevice;
use super::lane::Job;
use super::model::{Interface, LaneKey, LoadedModel};
use super::run::Readied;
use crate::course::{Course, Placing};
use crate::device::{LoadOptions, Loaded};
use crate::store::{CutModel, Cuts, LoadCause, LoadError};
use fugato_core::{LaneId, ModelId, PartitionId};
use std::collections::hash_map::Entry;
use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, PoisonError};

/// What all ways to load a model start from.
struct Parts<'a, B: Backend> {
    model: &'a B::Model,
    weights: Arc<B::Weights>,
    interface: Interface,
    options: &'a LoadOptions,
}

/// The parts of a model, as far as it is cut.
#[derive(Default)]
struct CutWays {
    /// One for each leg; `None` where all is one leg.
    joined: Option<CutModel>,
    /// The groups of legs, where they are to run side by side.
    groups: Option<CutModel>,
}

impl<B: Backend> GpuDevice<B> {
    /// Loads a model under `id`: its weights and buffers, and what its first tasks need in the
    /// partitions to be warm.
    ///
    /// Where a part of a cut model does not work by itself the model is loaded in one piece, and
    /// a warning says so; [`Loaded::legs`] is then 1.
    pub(in super::super) fn load(
        &self,
        id: ModelId,
        model: &B::Model,
        options: &LoadOptions,
    ) -> Result<Loaded, LoadError> {
        let (_, origin) = B::describe(model);
        let loaded = self.bring_up(id, model, options).inspect_err(|cause| {
            if let LoadCause::DeviceLost { detail } = cause {
                self.core.lose(detail);
            }
        });
        let (legs, legs_at_once) = loaded.map_err(|cause| cause.of(origin))?;
        let count = |legs| u16::try_from(legs).expect("a model of more legs is refused");
        Ok(Loaded {
            legs: count(legs),
            unsplit: false,
            legs_at_once: count(legs_at_once),
        })
    }

    fn bring_up(
        &self,
        id: ModelId,
        model: &B::Model,
        options: &LoadOptions,
    ) -> Result<(usize, usize), LoadCause> {
        let core = &self.core;
        core.alive()?;
        if core.model(id).is_some() {
            return Err(LoadCause::IdInUse);
        }
        let interface = Interface::of::<B>(model, options)?;
        let cut = match &options.cuts {
            Some(cuts) => self.cut(model, cuts, options)?,
            None => CutWays::default(),
        };
        core.backend.enter()?;
        let parts = Parts::<B> {
            model,
            weights: Arc::new(core.backend.weights(model)?),
            interface,
            options,
        };
        let loaded = match self.bring_up_cut(&parts, cut)? {
            Some(loaded) => loaded,
            None => {
                let whole = self.whole(&parts)?;
                for &partition in &options.warm {
                    self.make_ready(&whole, partition)?;
                }
                whole
            }
        };
        core.alive()?;
        tell_on_host::<B>(&loaded);
        let legs = (loaded.legs(), loaded.legs_at_once());
        let mut models = core.models.write().unwrap_or_else(PoisonError::into_inner);
        match models.entry(id) {
            Entry::Occupied(_) => Err(LoadCause::IdInUse),
            Entry::Vacant(place) => {
                place.insert(loaded);
                Ok(legs)
            }
        }
    }

    fn whole(&self, parts: &Parts<'_, B>) -> Result<Arc<LoadedModel<B>>, LoadCause> {
        let (info, _) = B::describe(parts.model);
        self.with_course(parts, Course::whole(info))
    }

    fn with_course(
        &self,
        parts: &Parts<'_, B>,
        course: Course,
    ) -> Result<Arc<LoadedModel<B>>, LoadCause> {
        let backend = &self.core.backend;
        let of = (parts.model, &parts.weights);
        let model = LoadedModel::new(backend, of, (&parts.interface, parts.options), course)?;
        Ok(Arc::new(model))
    }

    /// The parts of a model.
    fn cut(
        &self,
        model: &B::Model,
        cuts: &Cuts,
        options: &LoadOptions,
    ) -> Result<CutWays, LoadCause> {
        let joined = cuts.leg_by_leg(B::operators(model)?);
        let joined = joined.map(|cuts| B::cut(model, &cuts)).transpose()?;
        let wanted = self.core.side_by_side && options.gpu.side_by_side && options.gpu.graphs;
        let groups = cuts.side_by_side().filter(|_| wanted);
        let groups = groups.and_then(|cuts| match B::cut(model, &cuts) {
            Ok(groups) => Some(groups),
            Err(cause) => {
                let (_, origin) = B::describe(model);
                tell_in_turn(origin, &cause.of(origin).report());
                None
            }
        });
        Ok(CutWays { joined, groups })
    }

    /// `None` where nothing is cut, or where a part does not load or does not run where the whole
    /// model does.
    fn bring_up_cut(
        &self,
        parts: &Parts<'_, B>,
        cut: CutWays,
    ) -> Result<Option<Arc<LoadedModel<B>>>, LoadCause> {
        let (info, origin) = B::describe(parts.model);
        let placing = Placing {
            rows_max: parts.interface.batched.then_some(parts.options.max_batch),
            align: B::ALIGN,
            // A capture runs more than once over the same tensors.
            sums_in_place: false,
        };
        let is_cut = cut.joined.is_some();
        if let Some(groups) = cut.groups {
            let course = Course::side_by_side(info, cut.joined.clone(), groups, placing);
            match self.bring_up_course(parts, course, is_cut) {
                // One after the other they take less.
                Err(LoadCause::DeviceMemory { detail }) => tell_in_turn(origin, &detail),
                brought => return brought,
            }
        }
        match cut.joined {
            Some(joined) => self.bring_up_course(parts, Course::cut(joined, placing), true),
            None => Ok(None),
        }
    }

    /// As [`bring_up_cut`](Self::bring_up_cut), of one way; `is_cut`: whether a leg may be less
    /// than the whole model.
    fn bring_up_course(
        &self,
        parts: &Parts<'_, B>,
        course: Course,
        is_cut: bool,
    ) -> Result<Option<Arc<LoadedModel<B>>>, LoadCause> {
        let Parts { model, options, .. } = parts;
        let (_, origin) = B::describe(model);
        let whole = |why: &dyn std::fmt::Display| {
            tracing::warn!(
                model = %origin.display(),
                %why,
                "a part of the model does not work by itself; the model is not cut"
            );
            Ok(None)
        };
        if let Some(name) = course.unplaced() {
            let name = name.to_string_lossy();
            return whole(&format!("only running it tells the size of `{name}`"));
        }
        let loaded = self.with_course(parts, course)?;
        // Somewhere at least, so that a part that does not load is known before a task is at it.
        let anywhere = [PartitionId(0)];
        let warm = match options.warm.is_empty() {
            true => &anywhere[..],
            false => &options.warm,
        };
        for &partition in warm {
            let detail = match self.make_ready(&loaded, partition) {
                Ok(Readied::Ran) => continue,
                Ok(Readied::Refused(_)) if !is_cut => continue,
                Ok(Readied::Refused(detail)) => detail,
                Err(cause) if !is_cut || is_of_the_device(&cause) => return Err(cause),
                Err(cause) => return whole(&cause.of(origin).report()),
            };
            // A model may refuse zeros as a whole too.
            let uncut = self.whole(parts)?;
            if matches!(self.make_ready(&uncut, partition)?, Readied::Ran) {
                return whole(&detail);
            }
        }
        Ok(Some(loaded))
    }

    /// Has the first lane of a partition make a model ready by its own thread, since that
    /// thread will run it.
    fn make_ready(
        &self,
        model: &Arc<LoadedModel<B>>,
        partition: PartitionId,
    ) -> Result<Readied, LoadCause> {
        let (core, key): (_, LaneKey) = (&self.core, (partition, LaneId(0)));
        let lane = core
            .find(key)
            .ok_or(LoadCause::NoSuchPartition(partition.0))?;
        self.ensure_threads(key)
            .map_err(|error| LoadCause::Device {
                detail: format!("a lane's threads could not be started: {error}"),
            })?;
        let (done, result) = channel();
        let model = Arc::clone(model);
        // What is given back is dropped, and with it the sender.
        drop(lane.prepare(Job { model, done }));
        match result.recv() {
            Ok(result) => result,
            Err(_) => {
                core.alive()?;
                Err(LoadCause::Device {
                    detail: "the device is being closed".to_owned(),
                })
            }
        }
    }
}

/// Whether the cause is the device and not the cut. Memory counts as that, though a model in one
/// piece takes less of it: what is nearly full is better refused than loaded otherwise than asked.
fn is_of_the_device(cause: &LoadCause) -> bool {
    matches!(
        cause,
        LoadCause::NoSuchPartition(_)
            | LoadCause::DeviceMemory { .. }
            | LoadCause::DeviceLost { .. }
    )
}

/// Says what of a model runs on the host, which is slow: the device waits for it, and it for the
/// device, and nothing of that is captured.
fn tell_on_host<B: Backend>(model: &LoadedModel<B>) {
    let (_, origin) = B::describe(&model.model);
    if let Some(operators) = model.shapes_on_host() {
        tracing::info!(
            model = %origin.display(),
            operators,
            "operators that compute shapes run on the CPU as runs of the model are captured; its \
             graphs have what they gave then"
        );
    }
    let Some(operators) = model.on_host() else {
        return;
    };
    tracing::warn!(
        model = %origin.display(),
        operators,
        "operators of the model run on the CPU, in the device's lanes: the device has no kernel for \
         them, or they compute shapes"
    );
}

/// Says that groups of a plan run one after the other, and why.
fn tell_in_turn(model: &Path, reason: &str) {
    tracing::warn!(
        model = %model.display(),
        reason,
        "groups of the model's legs run one after the other"
    );
}

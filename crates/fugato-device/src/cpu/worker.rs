//! What a lane's thread does for a leg.

use super::crew::Crew;
use super::lane::Worker;
use super::model::LoadedModel;
use super::{Place, Shared};
use crate::device::{LegWork, RunErrorKind, RunSplit};
use crate::os;
use crate::report::{Outcome, run_error};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A lane's thread at work.
pub(super) struct CpuWorker {
    shared: Arc<Shared>,
    place: Place,
    /// What the lane's thread has; only that thread looks at it.
    slice: Mutex<os::Slice>,
    /// Made by the lane's thread with the first model that is cut.
    crew: OnceLock<Option<Crew>>,
}

impl CpuWorker {
    pub(super) fn new(shared: Arc<Shared>, place: Place) -> Self {
        Self {
            shared,
            slice: Mutex::new(place.slice),
            place,
            crew: OnceLock::new(),
        }
    }

    /// Gives the lane's thread another slice, where the policy has changed.
    fn heed_policy(&self) {
        let (mut has, wanted) = (
            self.slice.lock().unwrap_or_else(PoisonError::into_inner),
            self.shared.slice(self.place.class),
        );
        if std::mem::replace(&mut *has, wanted) != wanted
            && let Err(error) = os::yield_to_others(self.place.niceness, wanted)
        {
            tracing::warn!(%error, "a lane's thread keeps its slice");
        }
    }

    /// The threads that run groups of a stage beside the lane's own; `None` on one core,
    /// for models in one piece, and where there are no more threads to have.
    fn crew(&self, model: &LoadedModel) -> Option<&Crew> {
        if self.place.threads() < 2 || !model.has_groups() {
            return None;
        }
        let new = || Crew::new(&self.place.cores);
        let made = self.crew.get_or_init(|| match self.place.make(new) {
            Ok(crew) => Some(crew),
            Err(error) => {
                tracing::warn!(%error, "a lane has no helpers; groups run one after the other");
                None
            }
        });
        made.as_ref()
    }
}

impl Worker for CpuWorker {
    type Leg = Option<Arc<LoadedModel>>;

    fn enter(&self) {
        self.place.enter();
    }

    fn begin(&self, work: &LegWork) -> Self::Leg {
        self.heed_policy();
        self.shared.model(work.start.model)
    }

    fn run(&self, work: &LegWork, model: Self::Leg) -> Outcome {
        let shared = &self.shared;
        shared.legs.fetch_add(1, Ordering::Relaxed);
        let Some(model) = model else {
            let detail = "it is not loaded on this device".to_owned();
            let error = run_error(work, RunErrorKind::ModelNotLoaded, detail);
            return (Err(error), RunSplit::default());
        };
        let crew = self.crew(&model);
        match model.run(work, (&self.place, crew), &shared.clock) {
            Ok(ran) => {
                let at_once = u64::from(ran.at_once);
                shared.legs_at_once.fetch_add(at_once, Ordering::Relaxed);
                for (counter, copied) in [
                    (&shared.bytes_copied_in, ran.bytes_copied_in),
                    (&shared.bytes_copied_out, ran.bytes_copied_out),
                ] {
                    counter.fetch_add(copied, Ordering::Relaxed);
                }
                (Ok(ran.outputs), ran.split)
            }
            Err((kind, detail)) => {
                let error = run_error(work, kind, detail);
                (Err(error), RunSplit::default())
            }
        }
    }
}

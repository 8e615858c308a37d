//! The way of a request: found its model, checked, handed to the driver, answered.

use super::devices::Devices;
use super::journal::{self, Found, Journal, Record};
use super::live::LiveModels;
use super::profiles::Profiles;
use super::reply;
use super::served::ServedModel;
use super::settings::Queueing;
use super::table::Table;
use super::timeline::LiveTimeline;
use crate::api::{
    Explanation, InferReply, InferRequest, ProfileReport, TraceContext, ValidRequest, validate,
};
use crate::driver::{Answer, Mailbox, NotTaken, Payload, ProfileEvent};
use crate::error::{InferError, QueueLimit};
use crate::telemetry::{ModelGauges, RequestTimes, Telemetry, Traces};
use fugato_core::profile::GridPoint;
use fugato_core::sched::{self, Arrival, Input, Scheduler};
use fugato_core::{BatchSize, ModelId, Nanos, RequestId, Timestamp};
use fugato_device::MonotonicClock;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// What was measured of a model while serving.
pub(super) struct Points {
    points: Vec<GridPoint>,
    /// Whether that is all.
    whole: bool,
}

impl Points {
    pub(super) fn of(scheduler: &Scheduler, model: ModelId) -> Self {
        Self {
            points: scheduler.measured_points(model).to_vec(),
            whole: scheduler.is_measured_whole(model),
        }
    }
}

/// Runs requests on the models that are loaded.
pub(super) struct Runner {
    pub(super) clock: MonotonicClock,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) devices: Devices,
    pub(super) table: Table,
    /// Whether the first loading has ended.
    pub(super) loaded: AtomicBool,
    pub(super) draining: AtomicBool,
    pub(super) journal: Journal,
    pub(super) traces: Traces,
    pub(super) profiles: Arc<Profiles>,
    pub(super) live: LiveModels,
    pub(super) timeline: Arc<LiveTimeline>,
    /// Cancelled when the driver has ended.
    pub(super) ended: CancellationToken,
}

/// A request that the driver has, and what its answer needs.
pub(super) struct Accepted<'a> {
    request: RequestId,
    guard: CancelOnDrop<'a>,
    answered: oneshot::Receiver<Answer>,
    /// What it is followed as: by the journal where it is `remembered`, by `trace` and a
    /// span for each leg where it is `traced`.
    followed: Option<journal::Open>,
    remembered: bool,
    traced: bool,
    trace: Option<TraceContext>,
    id: String,
    outputs: Box<[usize]>,
    received: Timestamp,
    timeout: Option<Nanos>,
}

/// Takes a request back unless it was answered: the client went away.
struct CancelOnDrop<'a> {
    mailbox: &'a Mailbox,
    journal: &'a Journal,
    request: Option<RequestId>,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(request) = self.request {
            self.mailbox.control(Input::Cancelled { request });
            self.journal.dropped(request);
        }
    }
}

impl Runner {
    pub(super) fn is_live(&self) -> bool {
        !self.ended.is_cancelled()
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Finds the request's model and hands the request to the driver. Where the model is
    /// taken out in between, it is found again: nothing is refused for that.
    ///
    /// # Errors
    /// Where there is no model for it. The inner result: where the model does not take it.
    pub(super) fn accept(
        &self,
        request: InferRequest,
    ) -> Result<(Arc<ServedModel>, Result<Accepted<'_>, InferError>), InferError> {
        loop {
            let model = self
                .table
                .served(&request.model, request.version.as_deref())?;
            let inside = model.gate.enter();
            if inside.is_some() {
                let accepted = self.hand_in(&model, request);
                drop(inside);
                return Ok((model, accepted));
            }
        }
    }

    /// Checks the request and hands it to the driver.
    pub(super) fn hand_in(
        &self,
        model: &ServedModel,
        request: InferRequest,
    ) -> Result<Accepted<'_>, InferError> {
        if self.is_draining() {
            return Err(InferError::draining());
        }
        let (received, deadline) = (request.arrived, request.deadline);
        let Queueing {
            priority,
            timeout,
            overdue,
        } = model
            .settings
            .queueing(request.priority, request.queue_timeout);
        let (id, trace) = (request.id.clone(), request.trace);
        let ValidRequest {
            inputs,
            items,
            bytes,
            shape,
            outputs,
        } = validate(&model.info, request)?;
        let class = model.shapes.class(&shape);
        let traced = self.traces.wants(&model.info.name, trace.as_ref());
        let remembered = self.journal.wants(&id);
        let followed = (traced || remembered).then(|| journal::Open {
            name: journal::Name {
                model: model.info.name.clone(),
                version: model.info.version.clone(),
                id: id.clone(),
            },
            arrived: received,
            deadline,
        });
        let (reply, answered) = oneshot::channel();
        let arrived = self.mailbox.arrive(
            Payload {
                items,
                inputs,
                reply,
            },
            |request| Arrival {
                request,
                model: model.id,
                items: BatchSize(items),
                bytes,
                class,
                received,
                deadline,
                queue_timeout: timeout.map(|timeout| received + timeout),
                overdue,
                // Triton's levels are far below 32 bits; what is above is as low as can be.
                priority: u32::try_from(priority).unwrap_or(u32::MAX),
            },
        );
        let request = arrived.map_err(|not_taken| match not_taken {
            NotTaken::Closed => InferError::shutting_down(),
            NotTaken::Full { limit } => {
                let limit = limit as u64;
                InferError::queue_full(&model.info.name, QueueLimit::Requests, limit, 1, limit)
            }
        })?;
        if let Some(open) = &followed
            && remembered
        {
            self.journal.began(request, open.clone());
        }
        Ok(Accepted {
            request,
            guard: CancelOnDrop {
                mailbox: &self.mailbox,
                journal: &self.journal,
                request: Some(request),
            },
            answered,
            followed,
            remembered,
            traced,
            trace,
            id,
            outputs,
            received,
            timeout,
        })
    }

    /// Waits for the answer to a request to `model`.
    pub(super) async fn answer(
        &self,
        model: &ServedModel,
        accepted: Accepted<'_>,
    ) -> Result<(InferReply, RequestTimes), InferError> {
        let Accepted {
            request,
            mut guard,
            answered,
            followed,
            remembered,
            traced,
            trace,
            id,
            outputs,
            received,
            timeout,
        } = accepted;
        let Ok(Answer { result, course }) = answered.await else {
            return Err(InferError::shutting_down());
        };
        guard.request = None;
        let now = self.clock.now();
        let record = followed.map(|open| Record::new(open, now, &result, course));
        let result = result
            .map_err(|failure| reply::error(&model.info.name, now, received, timeout, failure));
        if let Some(record) = record {
            let record = record.with_error(result.as_ref().err());
            if traced {
                self.traces.tell(&record.traced(trace));
            }
            if remembered {
                self.journal.ended(request, record);
            }
        }
        let served = result?;
        let times = reply::times(now, received, &served);
        let info = Arc::clone(&model.info);
        Ok((reply::reply(info, id, &outputs, served), times))
    }

    /// What is known of the latest request of that model and id.
    pub(super) async fn explain(&self, name: &str, id: &str) -> Result<Explanation, InferError> {
        match self.journal.find(name, id) {
            Some(Found::Ended(explanation)) => Ok(*explanation),
            Some(Found::Open(request, open)) => {
                let asked = self
                    .mailbox
                    .ask(move |scheduler| scheduler.explain(request));
                let state = match asked.await {
                    Ok(Some(sched::Explanation::InTask { .. })) => "in_task",
                    // Its answer is on the way here.
                    Ok(Some(sched::Explanation::Ended { .. })) => "ended",
                    Ok(Some(sched::Explanation::Waiting { .. })) | Ok(None) => "waiting",
                    Err(_) => return Err(InferError::shutting_down()),
                };
                Ok(open.explain(state))
            }
            None => Err(InferError::unknown_request(name, id, self.journal.limit())),
        }
    }

    /// What was measured of a model, and how that stands.
    pub(super) async fn profile(&self, model: &ServedModel) -> Result<ProfileReport, InferError> {
        let id = model.id;
        let asked = self
            .mailbox
            .ask(move |scheduler| scheduler.profile_status(id));
        let status = asked.await.map_err(|_| InferError::shutting_down())?;
        // It was taken out meanwhile.
        let gone = || InferError::unknown_model(&model.info.name);
        Ok(ProfileReport {
            serving: status.ok_or_else(gone)?.into(),
            profile: self.profiles.report(id).ok_or_else(gone)?,
        })
    }

    /// Has a model measured while nothing waits, if it needs that and can be.
    pub(super) fn want_profile(&self, model: &ServedModel) {
        if self.profiles.sample(model.id).is_some() {
            self.mailbox
                .control(Input::ProfileWanted { model: model.id });
        }
    }

    /// Follows what the scheduler measures of models, and says when one drifts. Ends with the
    /// driver; gives the models whose points it could not be asked for any more, for
    /// [`keep_measured`](Self::keep_measured).
    pub(super) async fn follow_profiles(
        self: Arc<Self>,
        mut events: UnboundedReceiver<(ModelId, ProfileEvent)>,
    ) -> BTreeSet<ModelId> {
        let mut left = BTreeSet::new();
        while let Some((id, event)) = events.recv().await {
            let done = match event {
                ProfileEvent::Measured { done } => done,
                ProfileEvent::Drifted => {
                    self.say_drifted(id);
                    continue;
                }
            };
            let asked = self.mailbox.ask(move |scheduler| Points::of(scheduler, id));
            match asked.await {
                // More was measured meanwhile: what says that it is all comes next.
                Ok(points) if points.whole && !done => {}
                Ok(points) => self.keep_measured(id, points).await,
                Err(_) => {
                    left.insert(id);
                }
            }
        }
        left
    }

    fn say_drifted(&self, id: ModelId) {
        if let Some((model, version)) = self.profiles.name(id) {
            tracing::warn!(
                model,
                version,
                "its times have left the band of its profile; it is measured anew where \
                 profile.online_share allows it"
            );
        }
    }

    /// Draws the conclusions from what was measured of a model, and keeps it.
    pub(super) async fn keep_measured(&self, id: ModelId, points: Points) {
        // It was taken out meanwhile.
        let Some((model, version)) = self.profiles.name(id) else {
            return;
        };
        let Points { points, whole } = points;
        let count = points.len();
        let profiles = Arc::clone(&self.profiles);
        let kept = tokio::task::spawn_blocking(move || profiles.measured(id, points, whole));
        match kept.await {
            Ok(Some(profile)) if whole => {
                tracing::info!(model, version, points = count, "measured while serving");
                // With the fit, which fills what is between the points.
                let profile = Box::new(profile);
                self.mailbox
                    .control(Input::ProfileGiven { model: id, profile });
            }
            Ok(_) => {}
            Err(panic) => {
                tracing::error!(model, version, %panic, "what was measured is lost");
            }
        }
    }

    /// Takes the model out of the scheduler; what was accepted runs to its end, and then
    /// its memory is given back. The table must not have it any more.
    pub(super) fn retire(&self, model: &ServedModel) {
        model.gate.close();
        self.mailbox
            .control(Input::ModelRemoved { model: model.id });
    }

    /// Shows in the metrics what the scheduler says of each model now.
    pub(super) async fn sample(&self) {
        let served = self.table.all();
        let ids: Vec<ModelId> = served.iter().map(|model| model.id).collect();
        let asked = self.mailbox.ask(move |scheduler| {
            ids.iter()
                .map(|&id| scheduler.model_status(id).zip(scheduler.profile_status(id)))
                .collect::<Vec<_>>()
        });
        // The driver has ended: the process is about to.
        let Ok(statuses) = asked.await else { return };
        for (model, status) in served.iter().zip(statuses) {
            let Some((status, profile)) = status else {
                continue;
            };
            let known = self.profiles.knees(model.id);
            let telemetry = &self.telemetry;
            telemetry.show_place(&model.metrics, model.device);
            telemetry.show_profile(&model.metrics, &profile, known);
            let gauges = ModelGauges {
                waiting: status.waiting,
                in_flight: status.in_flight,
                held_bytes: status.bytes,
                prediction_error: status.prediction_error,
            };
            telemetry.show(&model.metrics, &gauges);
        }
    }
}

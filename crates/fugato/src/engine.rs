//! The engine: loaded models behind one interface for both protocols.
//!
//! It checks requests against their model, hands them to the driver, and turns what comes
//! back into replies and errors. Start reading at [`Engine`]; [`serve()`] puts a whole
//! server together.

mod devices;
mod found;
mod import;
mod journal;
mod lifecycle;
mod live;
mod load;
mod open;
mod overrides;
mod plan_bench;
mod planned;
mod profiles;
mod reply;
mod runner;
mod sample;
mod serve;
mod served;
mod settings;
mod table;
mod timeline;
mod warm;
mod workbench;

pub use import::ImportedModel;
#[cfg(any(feature = "cuda", test))]
pub(crate) use open::{OpenDevice, open_device};
pub use plan_bench::{Difference, PlanBench, PlanBenchError, Timing};
#[cfg(any(feature = "cuda", test))]
pub(crate) use planned::cuts_of;
pub use profiles::ProfileFileError;
#[cfg(any(feature = "cuda", test))]
pub(crate) use serve::InProcess;
pub use serve::{Given, ServeError, serve};
pub use timeline::TimelineFileError;
pub use workbench::{BenchModel, CutModel, ForAll, LegsWanted, Workbench};

use crate::api::{
    Explanation, InferReply, InferRequest, InferenceService, LoadRequest, LogSettings, ModelInfo,
    ModelSettings, ModelStatistics, ModelStatus, ModelUpdate, ProfileReport, SchedulerSettings,
    SchedulerUpdate, TimelineTrace, TraceSettings,
};
use crate::error::{ErrorKind, InferError};
use crate::modelconfig::complete;
use crate::server::proto::ModelConfig;
use crate::shm::SharedMemory;
use crate::telemetry;
use fugato_core::Nanos;
use fugato_core::sched::Input;
use fugato_device::MonotonicClock;
use lifecycle::Lifecycle;
use runner::Runner;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The models of one server, the way to its driver, and who loads and unloads them.
pub struct Engine {
    runner: Arc<Runner>,
    lifecycle: Lifecycle,
    regions: SharedMemory,
}

impl Engine {
    /// Takes no new requests from here on; what was accepted runs to its end.
    pub fn drain(&self) {
        self.runner.draining.store(true, Ordering::Release);
        self.runner.mailbox.control(Input::Drain);
    }

    /// Whether requests that were accepted may still be answered. None is of a device that was lost:
    /// those ended with it.
    pub async fn is_owing(&self) -> bool {
        let mailbox = &self.runner.mailbox;
        let open = mailbox.ask(|scheduler| scheduler.requests_open()).await;
        // A driver that has ended answers nothing.
        open.is_ok_and(|open| open > 0)
    }

    /// Sends the traces that have not been sent. Blocks for at most a few seconds.
    pub fn flush_traces(&self) {
        self.runner.traces.flush();
    }

    /// Whether there is a model of that name, where one is named.
    fn check_known(&self, model: Option<&str>) -> Result<(), InferError> {
        match model {
            Some(name) if !self.runner.table.is_known(name) => Err(InferError::unknown_model(name)),
            Some(_) | None => Ok(()),
        }
    }
}

impl InferenceService for Engine {
    fn clock(&self) -> MonotonicClock {
        self.runner.clock
    }

    fn live(&self) -> bool {
        self.runner.is_live()
    }

    fn ready(&self) -> bool {
        self.live() && self.runner.loaded.load(Ordering::Acquire) && !self.runner.is_draining()
    }

    fn model(&self, name: &str, version: Option<&str>) -> Result<Arc<ModelInfo>, InferError> {
        self.runner.table.info(name, version)
    }

    fn models(&self) -> Vec<ModelStatus> {
        self.runner.table.statuses()
    }

    async fn infer(&self, request: InferRequest) -> Result<InferReply, InferError> {
        let runner = &self.runner;
        let arrived = request.arrived;
        let (model, accepted) = runner.accept(request).inspect_err(|error| {
            // The name is the client's and may be anything: it is no label.
            runner.telemetry.failed("", "", error.kind().facts().label);
        })?;
        let answered = match accepted {
            Ok(accepted) => runner.answer(&model, accepted).await,
            Err(error) => Err(error),
        };
        match answered {
            Ok((reply, times)) => {
                model.metrics.replied(&times);
                Ok(reply)
            }
            Err(error) => {
                let (name, version) = (&model.info.name, &model.info.version);
                let label = error.kind().facts().label;
                runner.telemetry.failed(name, version, label);
                let took = runner.clock.now() - arrived;
                model.metrics.failed(error.kind(), took);
                Err(error)
            }
        }
    }

    fn refused(&self, kind: ErrorKind) {
        // Whose request it was may not have been read.
        let telemetry = &self.runner.telemetry;
        telemetry.failed("", "", kind.facts().label);
    }

    fn config(&self, name: &str, version: Option<&str>) -> Result<Arc<ModelConfig>, InferError> {
        let served = self.runner.table.served(name, version)?;
        let asked = served.settings.asked.as_ref();
        let full = complete(asked.map(|asked| &asked.config), &served.info);
        Ok(Arc::new(full))
    }

    fn statistics(
        &self,
        name: Option<&str>,
        version: Option<&str>,
    ) -> Result<Vec<ModelStatistics>, InferError> {
        let table = &self.runner.table;
        let served = match (name, version) {
            (None, _) => table.all(),
            (Some(name), Some(_)) => vec![table.served(name, version)?],
            (Some(name), None) => {
                // Every version that is ready; at least one is.
                table.served(name, None)?;
                table.all_of(name)
            }
        };
        let counted = served.iter().map(|model| model.metrics.statistics());
        Ok(counted.collect())
    }

    async fn load(&self, request: LoadRequest) -> Result<(), InferError> {
        self.lifecycle.load(request).await
    }

    async fn unload(&self, name: &str) -> Result<(), InferError> {
        self.lifecycle.unload(name).await
    }

    fn trace_settings(&self, model: Option<&str>) -> Result<TraceSettings, InferError> {
        self.check_known(model)?;
        Ok(self.runner.traces.settings(model))
    }

    fn update_trace_settings(
        &self,
        model: Option<&str>,
        update: BTreeMap<String, Option<Vec<String>>>,
    ) -> Result<TraceSettings, InferError> {
        self.check_known(model)?;
        self.runner.traces.update(model, update)?;
        Ok(self.runner.traces.settings(model))
    }

    fn log_settings(&self) -> LogSettings {
        telemetry::log_settings()
    }

    fn update_log_settings(&self, update: LogSettings) -> Result<LogSettings, InferError> {
        telemetry::update_log_settings(update)
    }

    async fn explain(&self, name: &str, id: &str) -> Result<Explanation, InferError> {
        self.check_known(Some(name))?;
        self.runner.explain(name, id).await
    }

    async fn profile(
        &self,
        name: &str,
        version: Option<&str>,
    ) -> Result<ProfileReport, InferError> {
        let served = self.runner.table.served(name, version)?;
        self.runner.profile(&served).await
    }

    async fn scheduler(&self) -> Result<SchedulerSettings, InferError> {
        self.runner.scheduler_settings().await
    }

    async fn update_scheduler(
        &self,
        update: SchedulerUpdate,
    ) -> Result<SchedulerSettings, InferError> {
        self.lifecycle.update_scheduler(update).await
    }

    fn model_settings(&self, name: &str) -> Result<ModelSettings, InferError> {
        self.runner.model_settings(name)
    }

    async fn update_model_settings(
        &self,
        name: &str,
        update: ModelUpdate,
    ) -> Result<ModelSettings, InferError> {
        self.lifecycle.update_model_settings(name, &update).await
    }

    fn timeline(&self, last: Nanos) -> TimelineTrace {
        let now = self.runner.clock.now();
        self.runner.timeline.since(now.before(last))
    }

    fn regions(&self) -> &SharedMemory {
        &self.regions
    }

    async fn metrics(&self) -> String {
        let runner = &self.runner;
        runner.sample().await;
        let counted = runner
            .devices
            .known()
            .map(|site| (site.id(), site.device.metrics()));
        runner.telemetry.encode(&counted.collect::<Vec<_>>())
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("models", &self.models())
            .finish_non_exhaustive()
    }
}

//! What operators change while requests are served: the policy, what deadlines do, and what
//! each model is to reach.
//!
//! **Invariant:** a change is one input to the scheduler, so a request comes before it or
//! after it; none is lost or decided about twice.

use super::lifecycle::Lifecycle;
use super::open::is_layered;
use super::runner::Runner;
use super::served::ServedModel;
use crate::api::{
    Change, ModelSettings, ModelUpdate, Objective, SchedulerSettings, SchedulerUpdate,
};
use crate::config::{Config, ModelConfig, Policy, SLO_RANGE, Span, WEIGHT_RANGE};
use crate::error::{Fault, InferError};
use crate::policies::{self, SettingError};
use clap::ValueEnum as _;
use fugato_core::device::DeviceSpec;
use fugato_core::sched::{Input, ModelSpec, PolicySpec};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What was changed of models, by name. It stays while a model is loaded anew, and goes when
/// the model does.
#[derive(Default)]
pub(super) struct LiveModels(Mutex<BTreeMap<String, Changed>>);

/// What was changed of one model; `None` where the configuration counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Changed {
    slo: Option<Option<Span>>,
    weight: Option<f64>,
}

impl LiveModels {
    pub(super) fn of(&self, model: &str) -> Changed {
        self.lock().get(model).copied().unwrap_or_default()
    }

    pub(super) fn forget(&self, model: &str) {
        self.lock().remove(model);
    }

    fn update(&self, model: &str, update: &ModelUpdate) -> Changed {
        let mut models = self.lock();
        let changed = models.entry(model.to_owned()).or_default();
        apply(&mut changed.slo, update.slo);
        apply(&mut changed.weight, update.weight);
        *changed
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Changed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn apply<T>(to: &mut Option<T>, change: Change<T>) {
    match change {
        Change::Keep => {}
        Change::TakeBack => *to = None,
        Change::Set(value) => *to = Some(value),
    }
}

impl Changed {
    /// What counts of a model that is configured so.
    fn over(self, configured: Objective) -> Objective {
        Objective {
            slo: self.slo.unwrap_or(configured.slo),
            weight: self.weight.unwrap_or(configured.weight),
        }
    }

    /// The model as the scheduler is to see it, which is configured as `config`.
    pub(super) fn spec(self, config: &ModelConfig, spec: ModelSpec) -> ModelSpec {
        let objective = self.over(configured(config));
        ModelSpec {
            slo: objective.slo.map(Span::nanos),
            weight: objective.weight,
            ..spec
        }
    }

    fn names(self) -> Vec<&'static str> {
        let slo = self.slo.map(|_| "slo");
        slo.into_iter()
            .chain(self.weight.map(|_| "weight"))
            .collect()
    }
}

fn configured(config: &ModelConfig) -> Objective {
    Objective {
        slo: config.slo,
        weight: config.weight,
    }
}

impl Runner {
    /// The settings of a model that is served.
    pub(super) fn model_settings(&self, name: &str) -> Result<ModelSettings, InferError> {
        let served = self.table.served(name, None)?;
        let configured = configured(&served.settings.model);
        let changed = self.live.of(name);
        Ok(ModelSettings {
            model_name: name.to_owned(),
            device: served.device.0,
            device_name: self.devices.get(served.device).name().to_owned(),
            in_force: changed.over(configured),
            live: changed.names(),
            configured,
        })
    }

    /// Changes the settings of a model of which nothing is loaded or taken out meanwhile.
    pub(super) async fn update_model_settings(
        &self,
        name: &str,
        update: &ModelUpdate,
    ) -> Result<ModelSettings, InferError> {
        // Before anything changes.
        self.table.served(name, None)?;
        check(update)?;
        let changed = self.live.update(name, update);
        for served in self.table.all_of(name) {
            self.tell(&served, changed);
        }
        let settings = self.model_settings(name)?;
        let Objective { slo, weight } = settings.in_force;
        let slo = slo.map(|slo| slo.to_string());
        tracing::info!(
            model = name,
            slo,
            weight,
            "a client changed what counts of the model"
        );
        self.decided().await?;
        Ok(settings)
    }

    fn tell(&self, served: &ServedModel, changed: Changed) {
        let spec = changed.spec(&served.settings.model, served.spec.clone());
        self.profiles.aim(served.id, spec.slo);
        // Not after it was removed, whoever does that.
        if let Some(_inside) = served.gate.enter() {
            self.mailbox.control(Input::ModelChanged(spec));
        }
    }

    /// Waits until everything put into the mailbox so far has been decided about.
    async fn decided(&self) -> Result<(), InferError> {
        let asked = self.mailbox.ask(|_| ());
        asked.await.map_err(|_| InferError::shutting_down())
    }

    /// How the scheduler decides.
    pub(super) async fn scheduler_settings(&self) -> Result<SchedulerSettings, InferError> {
        let asked = self.mailbox.ask(|scheduler| {
            let config = scheduler.config();
            (config.policy.clone(), config.deadlines)
        });
        let (policy, deadlines) = asked.await.map_err(|_| InferError::shutting_down())?;
        Ok(SchedulerSettings {
            policy: policy.name(),
            settings: policies::settings(&policy).1,
            deadlines,
            policies: &PolicySpec::NAMES,
        })
    }

    /// Changes how the scheduler decides.
    pub(super) async fn update_scheduler(
        &self,
        config: &Config,
        update: SchedulerUpdate,
    ) -> Result<SchedulerSettings, InferError> {
        let SchedulerUpdate {
            policy,
            settings,
            deadlines,
        } = update;
        let base = match policy {
            Some(name) => Some(configured_policy(config, &name)?),
            None if settings.is_empty() => None,
            None => {
                let asked = self
                    .mailbox
                    .ask(|scheduler| scheduler.config().policy.clone());
                Some(asked.await.map_err(|_| InferError::shutting_down())?)
            }
        };
        let device = self.devices.main().device.spec();
        let policy = base
            .map(|base| with_settings(base, settings, device))
            .transpose()?;
        if let Some(policy) = &policy {
            for site in self.devices.all() {
                site.device.set_layered(is_layered(policy));
            }
        }
        let inputs = policy.map(Input::PolicyChanged).into_iter();
        let inputs: Vec<Input> = inputs
            .chain(deadlines.map(Input::DeadlinesChanged))
            .collect();
        if !inputs.is_empty() {
            self.mailbox.together(Vec::new(), inputs, Vec::new());
        }
        let settings = self.scheduler_settings().await?;
        let SchedulerSettings {
            policy, deadlines, ..
        } = &settings;
        tracing::info!(
            policy,
            ?deadlines,
            "a client changed how the scheduler decides"
        );
        Ok(settings)
    }
}

impl Lifecycle {
    /// Changes the settings of a model for a client.
    pub(super) async fn update_model_settings(
        &self,
        name: &str,
        update: &ModelUpdate,
    ) -> Result<ModelSettings, InferError> {
        self.check_control()?;
        let _held = self.hold(name).await;
        self.runner().update_model_settings(name, update).await
    }

    /// Changes how the scheduler decides, for a client.
    pub(super) async fn update_scheduler(
        &self,
        update: SchedulerUpdate,
    ) -> Result<SchedulerSettings, InferError> {
        self.check_control()?;
        self.runner().update_scheduler(self.config(), update).await
    }
}

fn check(update: &ModelUpdate) -> Result<(), InferError> {
    if let Change::Set(Some(slo)) = update.slo {
        within("slo", slo, SLO_RANGE)?;
    }
    if let Change::Set(weight) = update.weight {
        within("weight", weight, WEIGHT_RANGE)?;
    }
    Ok(())
}

fn within<T: PartialOrd + Display>(
    name: &str,
    found: T,
    (low, high): (T, T),
) -> Result<(), InferError> {
    // A number that compares with nothing (NaN) is out of range too.
    match found >= low && found <= high {
        true => Ok(()),
        false => Err(setting(name, &found, format!("{low} to {high}"))),
    }
}

fn setting(name: &str, found: &impl Display, expected: String) -> InferError {
    Fault::Setting {
        name: name.to_owned(),
        found: format!("`{found}`"),
        expected,
    }
    .into()
}

/// A policy by its name, with the settings of the configuration.
fn configured_policy(config: &Config, name: &str) -> Result<PolicySpec, InferError> {
    let policy = Policy::from_str(name, false).map_err(|_| {
        let names: Vec<String> = PolicySpec::NAMES
            .iter()
            .map(|name| format!("`{name}`"))
            .collect();
        setting("policy", &name, format!("one of {}", names.join(", ")))
    })?;
    Ok(config.policy_spec(policy))
}

/// The policy with other values of some of its settings.
fn with_settings(
    policy: PolicySpec,
    changes: Map<String, Value>,
    device: &DeviceSpec,
) -> Result<PolicySpec, InferError> {
    let changed = changes
        .into_iter()
        .try_fold(policy, |policy, (name, value)| {
            policies::with_setting(&policy, &name, value).map_err(refused)
        })?;
    changed
        .check(device)
        .map_err(|bad| setting(bad.setting, &bad.found, bad.expected))?;
    Ok(changed)
}

fn refused(error: SettingError) -> InferError {
    match error {
        SettingError::UnknownSetting {
            policy,
            name,
            expected,
        } => Fault::UnknownSetting {
            object: format!("policy `{policy}`"),
            name,
            expected,
        }
        .into(),
        SettingError::Value {
            name,
            found,
            expected,
        } => setting(&name, &found, expected),
        SettingError::UnknownPolicy { found } | SettingError::Form { found } => {
            setting("policy", &found, "the name of a policy".to_owned())
        }
    }
}

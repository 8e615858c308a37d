//! Settings of the scheduler and of its models.

use crate::device::DeviceSpec;
use crate::id::{BatchSize, DeviceId, ModelId, Share};
use crate::policy::{FugatoParts, OperatingPoint};
use crate::time::Nanos;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Settings of a [`Scheduler`](super::Scheduler).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SchedulerConfig {
    /// Who decides.
    pub policy: PolicySpec,
    /// What deadlines do.
    pub deadlines: DeadlineMode,
    /// How long before a lane's predicted end the next leg is committed to it. Too short
    /// and every boundary is a bubble (the device's report, a decision, a wake-up); too
    /// long and batches close early.
    pub commit_lead: Nanos,
    /// The limits of all models together.
    pub limits: QueueLimits,
    /// The quantile of latency that admission uses; packing uses the median.
    pub admission_quantile: f64,
    /// Where a request has no deadline, policies that order by deadline place it as if it
    /// had one this long after its arrival, so that it waits but does not starve.
    pub best_effort: Nanos,
    /// A model that has not finished a task for this long is given one request whatever
    /// its predicted latency, so that a bad estimate cannot starve it of the
    /// measurements that would mend it.
    pub probe_interval: Nanos,
    /// The most verdicts per [`poll_action`](super::Scheduler::poll_action) drain; past
    /// it the rest follows in a timeout at the same instant.
    pub verdicts_max: u32,
    /// Ended requests that [`explain`](super::Scheduler::explain) remembers.
    pub explanations: u32,
    /// Decision records kept until they are polled; 0 turns them off.
    pub decisions: u32,
    /// The share of the devices' time, 0 to 1, that models without a profile are measured
    /// within while nothing waits; 0 measures none.
    #[serde(default)]
    pub profile_share: f64,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            policy: PolicySpec::Edf,
            deadlines: DeadlineMode::Enforce,
            commit_lead: Nanos::from_micros(300),
            limits: QueueLimits {
                requests: 16_384,
                bytes: 2 << 30,
            },
            admission_quantile: 0.95,
            best_effort: Nanos::from_millis(1_000),
            probe_interval: Nanos::from_millis(250),
            verdicts_max: 256,
            explanations: 4_096,
            decisions: 0,
            profile_share: 0.0,
        }
    }
}

/// What deadlines do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadlineMode {
    /// A request that cannot end in time is refused on arrival, or dropped as soon as
    /// that is known.
    #[default]
    Enforce,
    /// Deadlines order requests where the policy does so, and nothing is refused or
    /// dropped for them: what a server without deadlines does.
    Observe,
}

/// Which policy decides, with its settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicySpec {
    /// [`crate::policy::Fifo`].
    Fifo,
    /// [`crate::policy::Edf`].
    Edf,
    /// [`crate::policy::EdfLegs`].
    EdfLegs,
    /// [`crate::policy::Temporal`].
    Temporal {
        /// How long the turns of all models take together; `None` for the largest objective.
        #[serde(default)]
        cycle: Option<Nanos>,
    },
    /// [`crate::policy::Uncontrolled`].
    Uncontrolled {
        /// The most legs at once on one device.
        lanes: u16,
        /// The slices that a leg uses, on whichever of them the fewest legs are: threads of
        /// an instance, on a CPU. `None` for the whole device.
        #[serde(default)]
        share: Option<Share>,
    },
    /// [`crate::policy::Clipper`].
    Clipper {
        /// The part of its model's objective that a batch may take, in percent.
        target_percent: u8,
    },
    /// [`crate::policy::Nexus`].
    Nexus,
    /// [`crate::policy::Gslice`].
    Gslice {
        /// The most legs at once on one device.
        lanes: u16,
        /// The part of its model's objective that a batch may take, in percent.
        target_percent: u8,
    },
    /// [`crate::policy::MaxThroughput`].
    MaxThroughput,
    /// [`crate::policy::MaxMin`].
    MaxMin,
    /// [`crate::policy::Dstack`].
    Dstack {
        /// What models' batches and shares are chosen by.
        #[serde(default)]
        point: OperatingPoint,
        /// Slices above the chosen share, as far as the device has such partitions.
        #[serde(default = "no_slices")]
        margin: Share,
        /// Whether models run between their planned runs.
        #[serde(default = "yes")]
        dynamic: bool,
    },
    /// [`crate::policy::Fugato`].
    Fugato(FugatoParts),
}

const fn yes() -> bool {
    true
}

const fn no_slices() -> Share {
    Share(0)
}

/// Lanes that [`PolicySpec::named`] lets an oversubscribing policy use at once on a device.
const LANES: u16 = 16;

impl PolicySpec {
    /// The part of an objective that a batch may take unless told otherwise, in percent: a
    /// request that just missed a batch waits for a whole one, and then runs in the next.
    pub const TARGET_PERCENT: u8 = 50;

    /// Names of all policies, in the order of the documentation.
    pub const NAMES: [&'static str; 12] = [
        "fifo",
        "edf",
        "edf-legs",
        "temporal",
        "uncontrolled",
        "clipper",
        "nexus",
        "gslice",
        "max-throughput",
        "max-min",
        "dstack",
        "fugato",
    ];

    /// `dstack` as published.
    pub const DSTACK: Self = Self::Dstack {
        point: OperatingPoint::Efficacy,
        margin: Share(0),
        dynamic: true,
    };

    /// The policy of a name, with its usual settings; `None` for a name that is not among
    /// [`NAMES`](Self::NAMES).
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "fifo" => Self::Fifo,
            "edf" => Self::Edf,
            "edf-legs" => Self::EdfLegs,
            "temporal" => Self::Temporal { cycle: None },
            "uncontrolled" => Self::Uncontrolled {
                lanes: LANES,
                share: None,
            },
            "clipper" => Self::Clipper {
                target_percent: Self::TARGET_PERCENT,
            },
            "nexus" => Self::Nexus,
            "gslice" => Self::Gslice {
                lanes: LANES,
                target_percent: Self::TARGET_PERCENT,
            },
            "max-throughput" => Self::MaxThroughput,
            "max-min" => Self::MaxMin,
            "dstack" => Self::DSTACK,
            "fugato" => Self::Fugato(FugatoParts::default()),
            _ => return None,
        })
    }

    /// The policy's name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Fifo => "fifo",
            Self::Edf => "edf",
            Self::EdfLegs => "edf-legs",
            Self::Temporal { .. } => "temporal",
            Self::Uncontrolled { .. } => "uncontrolled",
            Self::Clipper { .. } => "clipper",
            Self::Nexus => "nexus",
            Self::Gslice { .. } => "gslice",
            Self::MaxThroughput => "max-throughput",
            Self::MaxMin => "max-min",
            Self::Dstack { .. } => "dstack",
            Self::Fugato(_) => "fugato",
        }
    }
}

/// A setting of a policy that is out of its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{setting}` of the policy is {found}, expected {expected}")]
pub struct PolicySettingError {
    /// The setting.
    pub setting: &'static str,
    /// Its value.
    pub found: String,
    /// What is allowed.
    pub expected: String,
}

/// The most legs at once on one device: more than a device has lanes of one partition.
const LANES_MAX: u16 = 64;

impl PolicySpec {
    /// Checks that every setting is in its range on a device.
    ///
    /// # Errors
    /// [`PolicySettingError`], for the first one that is not.
    pub fn check(&self, device: &DeviceSpec) -> Result<(), PolicySettingError> {
        let bad = |setting, found: u16, expected| PolicySettingError {
            setting,
            found: found.to_string(),
            expected,
        };
        match *self {
            Self::Temporal { cycle: Some(cycle) } if cycle == Nanos::ZERO => {
                Err(bad("cycle", 0, "more than 0 ns".to_owned()))
            }
            Self::Clipper { target_percent } | Self::Gslice { target_percent, .. }
                if !(1..=100).contains(&target_percent) =>
            {
                let found = u16::from(target_percent);
                Err(bad("target_percent", found, "1 to 100".to_owned()))
            }
            Self::Uncontrolled { lanes, .. } | Self::Gslice { lanes, .. }
                if !(1..=LANES_MAX).contains(&lanes) =>
            {
                Err(bad("lanes", lanes, format!("1 to {LANES_MAX}")))
            }
            Self::Dstack { margin, .. } if margin >= device.slices => {
                let most = device.slices.0.saturating_sub(1);
                Err(bad("margin", margin.0, format!("0 to {most}")))
            }
            Self::Fifo
            | Self::Edf
            | Self::EdfLegs
            | Self::Temporal { .. }
            | Self::Uncontrolled { share: None, .. }
            | Self::Clipper { .. }
            | Self::Nexus
            | Self::Gslice { .. }
            | Self::MaxThroughput
            | Self::MaxMin
            | Self::Dstack { .. }
            | Self::Fugato(_) => Ok(()),
            Self::Uncontrolled {
                share: Some(share), ..
            } => {
                let partitions = device.partitions.iter();
                let shares: BTreeSet<u16> = partitions.map(|part| part.share().0).collect();
                // Legs of any other share would wait for ever.
                match shares.contains(&share.0) {
                    true => Ok(()),
                    false => Err(bad("share", share.0, format!("one of {shares:?}"))),
                }
            }
        }
    }
}

/// How much may wait or run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueLimits {
    /// Requests that wait.
    pub requests: u64,
    /// Bytes of requests that have not ended.
    pub bytes: u64,
}

/// A model as the scheduler sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// Its id; a reload is another id.
    pub id: ModelId,
    /// Its name and version, for people.
    pub name: String,
    /// Its latency objective, from a request's first byte.
    pub slo: Option<Nanos>,
    /// Its worth against other models where a policy trades them; above zero.
    pub weight: f64,
    /// The most items in one batch; 1 for a model without a batch dimension.
    pub max_batch: BatchSize,
    /// Tasks it may have in flight.
    pub slots: u16,
    /// Legs of its plan; 1 for an unsplit model.
    pub legs: u16,
    /// Whether the devices can run it as one besides, which a task does while no other model
    /// asks for them. Nothing follows from it for a model of one leg.
    #[serde(default)]
    pub unsplit: bool,
    /// The devices that host it.
    pub devices: Vec<DeviceId>,
    /// The limits of its queue.
    pub limits: QueueLimits,
    /// Settings of [`crate::policy::Uncontrolled`].
    pub batching: DynamicBatching,
}

/// Triton's dynamic batcher: its settings, with its meaning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DynamicBatching {
    /// Copies of the model that may run at once (`instance_group.count`).
    pub instances: u16,
    /// Batch sizes to aim for (`preferred_batch_size`), rising; empty for none.
    pub preferred: Vec<BatchSize>,
    /// How long a request may wait for its batch to reach a preferred (or the largest)
    /// size (`max_queue_delay_microseconds`); under other policies that heed it, the size
    /// that they aim at.
    pub max_queue_delay: Nanos,
}

impl Default for DynamicBatching {
    /// Triton's defaults: one instance, no preferred size, no delay.
    fn default() -> Self {
        Self {
            instances: 1,
            preferred: Vec::new(),
            max_queue_delay: Nanos::ZERO,
        }
    }
}

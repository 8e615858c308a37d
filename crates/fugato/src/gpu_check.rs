//! What has to hold on an NVIDIA device, tried part by part.
//!
//! Each part runs in a process of its own with a limit of time: a part that crashes the driver,
//! hangs or is killed says so in its report and takes no other with it. A report is written as
//! soon as its part ends; parts of many measurements write theirs anew after each.
//!
//! Most parts ask what the device is built on, by the driver's own calls. The others run the
//! device itself as the server does (`served`).

#[cfg(feature = "cuda")]
mod bench;
#[cfg(any(feature = "cuda", test))]
mod compare;
#[cfg(any(feature = "cuda", test))]
mod inputs;
#[cfg(feature = "cuda")]
mod parts;
mod process;
mod report;
#[cfg(any(feature = "cuda", test))]
mod served;

pub use process::{Job, run_parts};
pub use report::{Origin, Report, SCHEMA, Verdict, summary};

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A part of the check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Part {
    /// What the device is, and into which partitions it can be divided.
    Device,
    /// Whether a run of ONNX Runtime can be captured into a graph of ours, and answers the same
    Capture,
    /// Whether two partitions work side by side in one graph
    Overlap,
    /// What a session takes of memory and of time to make
    Memory,
    /// How models run on a part of the multiprocessors
    Partitions,
    /// What neighbours cost, and the gaps between legs
    Neighbours,
    /// Whether a captured graph can be moved to another partition
    Retarget,
    /// Whether every model of the zoo answers as on the CPU, and how long it takes
    Zoo,
    /// What share of the device models can use, as a profile for the simulator
    Knees,
    /// Whether legs of a model need smaller shares than all of it, as a profile with legs
    Legs,
    /// Which load the policies hold on the papers' mixes, beside what is simulated
    Policies,
    /// How long the device stands still between two legs, in one partition and in two
    Switch,
    /// What the server adds to a run of one model on the whole device
    Server,
    /// What neighbours of other models cost a model in a half of its own
    Beside,
    /// What eight models take of memory in three partitions each
    Models,
    /// Whether plans with groups side by side in one graph pay, and answer the same
    Plans,
    /// Whether full memory refuses one model only, and how soon a killed server answers again
    Faults,
}

impl Part {
    /// All, in the order they are tried: the riskiest assumptions first.
    /// What they leave of their time goes to the parts that measure as long as they may.
    pub const ALL: [Self; 17] = [
        Self::Device,
        Self::Capture,
        Self::Overlap,
        Self::Retarget,
        Self::Memory,
        Self::Neighbours,
        Self::Partitions,
        Self::Switch,
        Self::Server,
        Self::Beside,
        Self::Models,
        Self::Faults,
        Self::Plans,
        Self::Zoo,
        Self::Knees,
        Self::Legs,
        Self::Policies,
    ];

    /// Its name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Capture => "capture",
            Self::Overlap => "overlap",
            Self::Memory => "memory",
            Self::Partitions => "partitions",
            Self::Neighbours => "neighbours",
            Self::Retarget => "retarget",
            Self::Zoo => "zoo",
            Self::Knees => "knees",
            Self::Legs => "legs",
            Self::Policies => "policies",
            Self::Switch => "switch",
            Self::Server => "server",
            Self::Beside => "beside",
            Self::Models => "models",
            Self::Plans => "plans",
            Self::Faults => "faults",
        }
    }

    /// What is asked.
    pub fn question(self) -> &'static str {
        match self {
            Self::Device => "Can the device be divided?",
            Self::Capture => "Do captured runs answer what eager ones do?",
            Self::Overlap => "Do two partitions work side by side in one graph?",
            Self::Memory => "Does a further session cost little memory?",
            Self::Partitions => "Do models run well on a part of the device?",
            Self::Neighbours => "Do neighbours leave each other alone?",
            Self::Retarget => "Can a captured graph be moved to another partition?",
            Self::Zoo => "Do all models answer as on the CPU?",
            Self::Knees => "Is a part of the device enough for a model?",
            Self::Legs => "Do legs need smaller shares than their model?",
            Self::Policies => "Do policies hold the loads they are to hold?",
            Self::Switch => "Is another partition as near as the same one?",
            Self::Server => "Does the server add little to a run?",
            Self::Beside => "Do other models leave one alone?",
            Self::Models => "Do eight models in three partitions each fit, with weights shared?",
            Self::Plans => "Do groups of a plan gain by running side by side?",
            Self::Faults => "Do faults hit only what they must, and not for long?",
        }
    }

    /// Its part of the time, in seconds of [`TIME`]; all parts together have all of it.
    pub fn limit(self) -> Duration {
        Duration::from_secs(match self {
            Self::Device => 10,
            Self::Capture => 45,
            Self::Overlap
            | Self::Memory
            | Self::Partitions
            | Self::Beside
            | Self::Models
            | Self::Faults => 20,
            Self::Neighbours | Self::Legs => 25,
            Self::Retarget | Self::Switch | Self::Server => 15,
            Self::Plans | Self::Zoo | Self::Knees | Self::Policies => 50,
        })
    }
}

/// The time for all parts, less what it takes to start a process for each.
pub const TIME: Duration = Duration::from_secs(470);

/// What the parts need.
#[derive(Clone, Debug)]
pub struct Setup {
    /// ONNX Runtime's library, of the build with the CUDA provider.
    pub onnxruntime: PathBuf,
    /// Folders with the vendor's libraries, before all other places.
    pub libraries: Vec<PathBuf>,
    /// A folder for models, which are written there once.
    pub models: PathBuf,
    /// The device's number.
    pub device: u32,
    /// An existing folder for the reports, and for what parts leave to others.
    pub out: PathBuf,
}

/// How a part is tried.
pub struct Trial<'a> {
    /// When it has to come to an end by itself.
    pub until: Instant,
    /// Takes a report of what was found so far, each with more in it than the one before.
    pub keep: &'a mut dyn FnMut(&Report) -> anyhow::Result<()>,
}

/// Tries one part, in this process.
///
/// # Errors
/// Where it could not be tried, which answers nothing about what it asks.
#[cfg(feature = "cuda")]
pub fn try_part(part: Part, setup: &Setup, trial: Trial<'_>) -> anyhow::Result<Report> {
    let Trial { until, keep } = trial;
    let mut budget = report::Budget {
        until,
        keep: &mut |answer| keep(&Report::of(part, answer)),
    };
    parts::run(part, setup, &mut budget)
}

/// Tries one part, in this process.
///
/// # Errors
/// Always: this program was built without NVIDIA devices.
#[cfg(not(feature = "cuda"))]
pub fn try_part(_part: Part, _setup: &Setup, _trial: Trial<'_>) -> anyhow::Result<Report> {
    anyhow::bail!("this program was built without the feature `cuda`")
}

/// The device to check, as far as it is known before anything is loaded.
///
/// # Errors
/// Why there is none.
#[cfg(feature = "cuda")]
pub fn find_device(ordinal: u32) -> anyhow::Result<Origin> {
    let found = fugato_device::cuda::find(ordinal)?;
    Ok(Origin {
        driver: found.driver_build.clone(),
        cuda: Some(found.driver.clone()),
        ..Origin::of(found.to_string())
    })
}

/// The same with the libraries that a part runs on, which are loaded here as it loads them. What
/// cannot be is left out: the part then says why.
///
/// # Errors
/// Why there is no device.
#[cfg(feature = "cuda")]
pub fn origin(setup: &Setup) -> anyhow::Result<Origin> {
    let libraries = fugato_device::cuda::CudaLibraries::load(&setup.libraries).ok();
    let runtime = fugato_device::Runtime::load(&setup.onnxruntime).ok();
    Ok(Origin {
        runtime: runtime.map(|runtime| runtime.profile_key()),
        libraries: libraries.and_then(|libraries| libraries.versions()),
        ..find_device(setup.device)?
    })
}

/// The device to check.
///
/// # Errors
/// Always: this program was built without NVIDIA devices.
#[cfg(not(feature = "cuda"))]
pub fn find_device(_ordinal: u32) -> anyhow::Result<Origin> {
    anyhow::bail!("this program was built without the feature `cuda`")
}

/// The device to check.
///
/// # Errors
/// Always: this program was built without NVIDIA devices.
#[cfg(not(feature = "cuda"))]
pub fn origin(_setup: &Setup) -> anyhow::Result<Origin> {
    anyhow::bail!("this program was built without the feature `cuda`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_share_all_of_the_time() {
        let all: Duration = Part::ALL.iter().map(|part| part.limit()).sum();
        assert_eq!(all, TIME);
        assert!(TIME < Duration::from_secs(480), "less than eight minutes");
        let mut parts = Part::ALL.to_vec();
        parts.sort_unstable();
        parts.dedup();
        assert_eq!(parts.len(), Part::ALL.len());
    }
}

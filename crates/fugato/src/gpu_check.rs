//! What has to hold on an NVIDIA device, tried part by part.
//!
//! Each part runs in a process of its own with a limit of time: a part that crashes the driver,
//! hangs or is killed says so in its report and takes no other with it. Each report is written
//! as soon as its part ends.

#[cfg(feature = "cuda")]
mod bench;
#[cfg(feature = "cuda")]
mod parts;
mod process;
mod report;

pub use process::{Job, run_parts};
pub use report::{Report, SCHEMA, Verdict, summary};

use std::path::PathBuf;
use std::time::Duration;

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
}

impl Part {
    /// All, in the order they are tried: the riskiest assumptions first.
    pub const ALL: [Self; 7] = [
        Self::Device,
        Self::Capture,
        Self::Overlap,
        Self::Retarget,
        Self::Memory,
        Self::Neighbours,
        Self::Partitions,
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
        }
    }

    /// How long it may take. Together with the start of a process each, all end in eight
    /// minutes.
    pub fn limit(self) -> Duration {
        Duration::from_secs(match self {
            Self::Device => 15,
            Self::Capture => 90,
            Self::Overlap | Self::Retarget | Self::Neighbours => 60,
            Self::Memory => 75,
            Self::Partitions => 110,
        })
    }
}

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
}

/// Tries one part, in this process.
///
/// # Errors
/// Where it could not be tried, which answers nothing about what it asks.
#[cfg(feature = "cuda")]
pub fn try_part(part: Part, setup: &Setup) -> anyhow::Result<Report> {
    parts::run(part, setup)
}

/// Tries one part, in this process.
///
/// # Errors
/// Always: this program was built without NVIDIA devices.
#[cfg(not(feature = "cuda"))]
pub fn try_part(_part: Part, _setup: &Setup) -> anyhow::Result<Report> {
    anyhow::bail!("this program was built without the feature `cuda`")
}

/// Whether there is a device to check.
///
/// # Errors
/// Why there is none.
#[cfg(feature = "cuda")]
pub fn find_device(ordinal: u32) -> anyhow::Result<String> {
    let driver = fugato_device::cuda::Driver::find()?;
    let count = driver.devices()?;
    if ordinal >= count {
        return Err(fugato_device::cuda::NoDriver::NoDevice { ordinal, count }.into());
    }
    Ok(format!("CUDA {} with {count} devices", driver.version()))
}

/// Whether there is a device to check.
///
/// # Errors
/// Always: this program was built without NVIDIA devices.
#[cfg(not(feature = "cuda"))]
pub fn find_device(_ordinal: u32) -> anyhow::Result<String> {
    anyhow::bail!("this program was built without the feature `cuda`")
}

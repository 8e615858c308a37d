//! What ran on the devices.

use crate::timeline::{Scene, write_trace};
use fugato_core::ModelId;
use fugato_core::device::DeviceSpec;
use fugato_core::timeline::TimelineLeg;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// The legs that ran on a server's devices.
#[derive(Clone, Debug)]
pub struct TimelineTrace {
    /// The devices.
    pub devices: Vec<DeviceSpec>,
    /// What people call the models.
    pub models: BTreeMap<ModelId, String>,
    /// The legs, in the order in which they ended.
    pub legs: Vec<TimelineLeg>,
    /// Legs that were asked for and are not kept any more.
    pub lost: u64,
}

impl TimelineTrace {
    /// Writes it in the trace event format.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        let scene = Scene {
            simulated: false,
            what: concat!("fugato ", env!("CARGO_PKG_VERSION"), " serve"),
            devices: &self.devices,
            models: &self.models,
            legs: &self.legs,
            lost: self.lost,
        };
        write_trace(&scene, out)
    }
}

//! The simulator: a simulated clock and simulated devices around the real scheduler.

mod device;
mod world;

pub use device::SimDevice;
pub use world::{EndedRequest, ServiceTime, SimClock, SimEffects, World};

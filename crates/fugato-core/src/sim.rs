//! The simulator: a simulated clock and simulated devices around the real scheduler.
//!
//! Start reading at [`World`]: what happens to the scheduler there is what the server does
//! to it, by the same [`Driver`](crate::driver::Driver).

mod contention;
mod device;
mod ideal;
mod service;
mod world;

pub use contention::{Part, TimeSlicing};
pub use device::{Overheads, SimDevice, Used};
pub use ideal::{
    Division, IdealError, IdealModel, IdealModelReport, IdealOptions, IdealReport, headroom,
    ideal_offered, ideal_saturated,
};
pub use service::{Service, ServiceTime};
pub use world::{EndedRequest, Outside, Script, SimClock, SimEffects, World};

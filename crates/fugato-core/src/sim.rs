//! The simulator: a simulated clock and simulated devices around the real scheduler.
//!
//! Start reading at [`World`]: what happens to the scheduler there is what the server does
//! to it, by the same [`Driver`](crate::driver::Driver). A [`Scenario`] sets up such a
//! world from a profile and a workload, and counts what passes.

mod contention;
mod device;
mod fleet;
mod histogram;
mod ideal;
mod placement;
mod profiled;
mod report;
mod scenario;
mod service;
mod spec;
mod tally;
mod traffic;
mod world;

pub use contention::{Part, TimeSlicing};
pub use device::{Overheads, SimDevice, Used};
pub use fleet::Fleet;
pub use histogram::Histogram;
pub use ideal::{
    Division, IdealError, IdealModel, IdealModelReport, IdealOptions, IdealReport, headroom,
    ideal_offered, ideal_saturated,
};
pub use placement::{Placement, Replica};
pub use profiled::{ProfiledService, ServiceTable};
pub use report::{ModelReport, ModelSetup, PolicyReport, Report, SCHEMA, Setup};
pub use scenario::{Scenario, ScenarioError, SimOptions, Simulated, Simulation};
pub use service::{Service, ServiceTime};
pub use spec::sim_device;
pub use tally::{ModelTally, Tally};
pub use world::{EndedRequest, Outside, Script, SimClock, SimEffects, World};

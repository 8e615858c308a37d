//! The Fugato server: configuration, repository, driver, HTTP and gRPC, telemetry,
//! load generator and command line around the scheduler of `fugato-core`.

pub mod accelerator;
pub mod api;
pub mod bench;
pub mod cli;
pub mod config;
pub mod driver;
pub mod engine;
pub mod error;
mod floats;
pub mod fuzz;
pub mod gpu_check;
pub mod modelconfig;
pub mod plan_lanes;
pub mod planning;
pub mod plots;
pub mod policies;
pub mod profiler;
pub mod provenance;
pub mod report;
pub mod repository;
pub mod runtime;
pub mod server;
pub mod shm;
pub mod simulation;
pub mod supervisor;
pub mod telemetry;
pub mod timeline;

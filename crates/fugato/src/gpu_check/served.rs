//! The parts on the device as the server has it: models of the zoo through the model store, legs
//! through [`Device::start`](fugato_device::Device), policies through the server's own driver
//! and scheduler, in this process.
//!
//! Each part takes any device, so that all of them are tried on the CPU where there is no other.
//! `on_gpu` opens the NVIDIA device and says what is tried on it.

mod beside;
mod faults;
mod knees;
mod legs;
mod load;
mod memory;
mod models;
#[cfg(feature = "cuda")]
pub(super) mod on_gpu;
mod plans;
mod policies;
mod server;
mod stage;
mod switch;
#[cfg(test)]
mod tests;
mod zoo;

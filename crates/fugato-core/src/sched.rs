//! The scheduler: a pure state machine from inputs to [`Action`]s.

mod action;

pub use action::{Action, Start};

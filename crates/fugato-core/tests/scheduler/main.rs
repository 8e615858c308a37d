//! The scheduler under every policy of [`PolicySpec::NAMES`], beside a naive model of it.
//!
//! [`harness`] drives a real scheduler and simulated devices; after each drain
//! [`reference`] checks what came out, and [`Scheduler::audit`] every index inside. On
//! top: random worlds by the thousand ([`random`]), cases that are meant to break things
//! ([`adversarial`]), and small scenarios whose decisions are written down
//! ([`decisions`]).
//!
//! [`PolicySpec::NAMES`]: fugato_core::sched::PolicySpec::NAMES
//! [`Scheduler::audit`]: fugato_core::sched::Scheduler::audit
#![allow(unreachable_pub, reason = "a test binary has no users")]
#![allow(
    clippy::cast_possible_truncation,
    reason = "random numbers are cut to small ranges first"
)]
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks at the inputs it is about"
)]

mod adversarial;
#[path = "../common/mod.rs"]
mod common;
mod decisions;
mod harness;
mod random;
mod reference;

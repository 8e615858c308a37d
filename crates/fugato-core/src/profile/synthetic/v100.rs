//! The built-in profile set `v100-dstack`: the models of D-STACK's table on its device.
//!
//! Each model is the paper's own synthetic kernel list, its widest kernel and unit of time
//! chosen as the parent module says. Under the paper's own rule `latency <= SLO / 2` two
//! rows of the table are infeasible, so the table's (batch, share) is kept as
//! [`ModelProfile::published`](crate::profile::ModelProfile::published).

use super::{Row, Set, row};
use crate::profile::{KernelList, Profile};

/// Kernels per model, and serial time as a fraction of one operation's: those of the
/// paper's synthetic run (`t_p` = 40, `t_np` = 10).
const KERNELS: u16 = 50;
const LAUNCH: f64 = 0.25;

/// The table: model, knee in per cent of the device, SLO and runtime in milliseconds.
const TABLE: [Row; 8] = [
    row("mobilenet", 20, 25, 10),
    row("alexnet", 30, 25, 8),
    row("bert", 30, 25, 9),
    row("resnet18", 30, 25, 12),
    row("resnet50", 40, 50, 28),
    row("inception", 40, 50, 25),
    row("vgg19", 50, 100, 55),
    row("resnext50", 50, 100, 40),
];

/// The profile set `v100-dstack`, flagged synthetic.
///
/// # Source
/// D-STACK's table of models on a V100, as recalled by readers of the paper and not
/// checked against it.
///
/// # Cost
/// Some thousand evaluations of 50 kernels: milliseconds.
#[must_use]
pub fn v100_dstack() -> Profile {
    let set = Set {
        runtime: "D-STACK's equations",
        source: "D-STACK, table of models on a V100",
        rows: &TABLE,
        list: |width, op_s| KernelList::falling(width, KERNELS, op_s, LAUNCH * op_s),
    };
    set.profile()
}

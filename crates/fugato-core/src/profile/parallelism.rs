//! What a model's latency is made of: D-STACK's kernel model, and what it lacks.
//!
//! | paper (D-STACK) | here | unit |
//! |---|---|---|
//! | `S`, SMs allocated | `share` | slices |
//! | `b` | `batch` | items |
//! | `N_i / b`, parallel operations of kernel `i` per item | [`Kernel::width`] | operations |
//! | `R_i` | [`Kernel::repeats`] | |
//! | `t_p` | [`Kernel::op_s`] | seconds on one slice |
//! | `t_np` | [`Kernel::launch_s`] | seconds |
//! | `d_i / M`, bytes by bandwidth of one slice | [`Kernel::traffic_s`] (weights), [`Kernel::traffic_per_item_s`] (activations) | slice-seconds |
//! | `W_se` | the two above with `launch_s` | seconds |
//! | `E_t(S)` | [`KernelList::latency_s`] | seconds |
//! | `b` times `t_np` in its equation 4 | [`Kernel::serial_per_item_s`] | seconds |
//! | (none) | [`KernelList::sync_s`], fork and join of one more slice, `t_sync` | seconds |
//! | (none) | [`Kernel::spill_s`], items that crowd each other out of the caches | slice-seconds |
//!
//! `E(b, S) = sum_i R_i * (b n_i t_p / max(1, min(S, b n_i)) + t_np + b t_item
//! + t_sync (S - 1) + (d_i + b a_i + b^2 c_i) / (M S))`
//!
//! The paper is not certain whether the batch multiplies `t_np`; here both kinds of serial
//! time have their own term, and the fit decides. It has no `t_sync`, so its latency can
//! only fall with the share; measured latency also rises. It has no `c_i`, so time per item
//! can only fall with the batch; on a CPU it rises once activations leave the caches
//! (ShuffleNet: 2.2 ms per item at batch 1, 3.4 ms at batch 16).

use serde::{Deserialize, Serialize};

/// The kernels of one model: a stand-in that has the model's latency, not its operators.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelList {
    /// The kernels, in falling order of width.
    pub kernels: Vec<Kernel>,
    /// Fork and join cost of each further slice, in seconds, paid once per repeat of each
    /// kernel.
    #[serde(default)]
    pub sync_s: f64,
}

/// Kernels that are alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// Parallel operations per item of the batch; at least as many slices help. Below 1
    /// where one item cannot fill a slice.
    pub width: f64,
    /// How often the kernel runs in one pass through the model. The fit keeps it at 1.
    pub repeats: f64,
    /// Time of one operation on one slice, in seconds.
    pub op_s: f64,
    /// Serial time of each run whatever the batch, in seconds.
    #[serde(default)]
    pub launch_s: f64,
    /// Serial time of each run for each item, in seconds.
    #[serde(default)]
    pub serial_per_item_s: f64,
    /// Bytes moved whatever the batch (weights), over the bandwidth of one slice: in
    /// slice-seconds.
    #[serde(default)]
    pub traffic_s: f64,
    /// Bytes moved for each item (activations), over the bandwidth of one slice: in
    /// slice-seconds.
    #[serde(default)]
    pub traffic_per_item_s: f64,
    /// Bytes moved once more for each pair of items, because one crowds the other out of
    /// the caches, over the bandwidth of one slice: in slice-seconds.
    #[serde(default)]
    pub spill_s: f64,
}

impl KernelList {
    /// The paper's synthetic model: `kernels` kernels whose parallel operations fall
    /// linearly from `width` per item towards 0, each operation of `op_s` seconds, each
    /// kernel with `launch_s` seconds of serial time.
    ///
    /// # Source
    /// D-STACK, equation 1, `N_i = N_(i-1) - floor(N_1 / K)`, without its floor: with fewer
    /// operations than kernels the floor is 0, and the operations would not fall at all.
    #[must_use]
    pub fn falling(width: f64, kernels: u16, op_s: f64, launch_s: f64) -> Self {
        let kernel = |index: u16| Kernel {
            width: width * (1.0 - f64::from(index) / f64::from(kernels)),
            repeats: 1.0,
            op_s,
            launch_s,
            ..Kernel::default()
        };
        Self {
            kernels: (0..kernels).map(kernel).collect(),
            sync_s: 0.0,
        }
    }

    /// The time of one pass over `batch` items on `share` slices, alone on the device, in
    /// seconds.
    ///
    /// # Source
    /// D-STACK, equations 1 to 5; see the module header for what is ours.
    #[must_use]
    pub fn latency_s(&self, batch: f64, share: f64) -> f64 {
        let one = |kernel: &Kernel| kernel.latency_s(batch, share, self.sync_s);
        self.kernels.iter().map(one).sum()
    }
}

impl Kernel {
    /// The time of the kernel in one pass, all its repeats together, with fork and join at
    /// `sync_s` seconds for each further slice; in seconds. The summand of
    /// [`KernelList::latency_s`].
    #[must_use]
    pub fn latency_s(&self, batch: f64, share: f64, sync_s: f64) -> f64 {
        let further = (share - 1.0).max(0.0);
        let parallel = batch * self.width;
        let busy = share.min(parallel).max(1.0);
        let per_item = self.traffic_per_item_s + batch * self.spill_s;
        let traffic = self.traffic_s + batch * per_item;
        let run = parallel * self.op_s / busy
            + self.launch_s
            + batch * self.serial_per_item_s
            + sync_s * further
            + traffic / share;
        self.repeats * run
    }
}

//! What neighbours of other models cost, as the profile has it.

use serde::{Deserialize, Serialize};

/// What a neighbour of another model costs: runs of this one alone, and with all other slices
/// busy with that one, in turn. What a neighbour of the same model costs is in the grid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beside {
    /// The neighbour's name in its repository.
    pub model: String,
    /// The content hash of the neighbour's file, by which it is known.
    pub hash: String,
    /// Items in the batch.
    pub batch: u32,
    /// Slices it ran in.
    pub share: u16,
    /// Items in the neighbour's batches.
    pub neighbour_batch: u32,
    /// Slices that were busy with the neighbour.
    pub neighbours: u16,
    /// The median alone, in seconds.
    pub alone_s: f64,
    /// The median beside the neighbour, in seconds.
    pub beside_s: f64,
    /// Runs timed of each of the two.
    pub repeats: u32,
}

/// How a model and its neighbours on other slices slow each other: a run takes
/// `1 + sensitivity * demand` times as long where all other slices are busy with a model of that
/// demand, and as much less as fewer slices are.
///
/// Only products mean something. Of models that were measured beside each other, directly or
/// by way of others, the sensitivities are as large as the demands (the sums of their squares
/// are equal); across others both are comparable as far as these models are alike.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interference {
    /// How much the model waits for what all slices share, such as memory and caches; 0 is
    /// never.
    pub sensitivity: f64,
    /// How much it makes others wait for that.
    pub demand: f64,
}

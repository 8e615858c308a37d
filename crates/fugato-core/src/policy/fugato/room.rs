//! What a model of long legs leaves free for those that such a leg would make late.
//!
//! An operator cannot be cut, and where the device suspends nothing a request waits for the end of
//! the leg that runs. So a model may not hold all slices of a device while another one is asked
//! for whose objective is under twice the longest leg of the first, one item in its usual share:
//! who waits for that leg has less than half of its objective left. What is left free is the
//! smallest share in which one item of the other is in time; of two slices it is one.
//!
//! Nobody is held back where that makes nobody earlier, or costs more than it gives:
//!
//! - while nobody else was asked for within a second;
//! - where the device suspends a leg for an urgent one, which then does not wait for its end;
//! - where the other is in time in the whole device only, or not even there: that covers devices
//!   of one slice;
//! - where one item of the model itself would be late in what it may hold.
//!
//! Several models of long legs may still hold a device together: each leaves what it must.

use super::Fugato;
use super::claims::{Claim, Who};
use super::table::Basis;
use crate::flat::FlatMap;
use crate::id::{BatchSize, DeviceId, ModelId, Share};
use crate::policy::Verdict;
use crate::sched::View;
use crate::time::Nanos;

/// An objective of less than this many of a leg is short beside it.
const SHORT: u64 = 2;

/// The share of who is not held back.
pub(super) const ALL: Share = Share(u16::MAX);

/// What a model may hold, by its longest leg and who else asks.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    configuration: u64,
    longest: FlatMap<(DeviceId, ModelId), Option<Longest>>,
    /// Found in this decision.
    limits: Vec<((DeviceId, ModelId), Share)>,
}

/// The longest leg of a model for one item in a share, and what that rests on.
#[derive(Clone, Copy, Debug)]
struct Longest {
    basis: Basis,
    share: Share,
    takes: Nanos,
}

impl Rooms {
    /// Forgets what held for the last decision.
    pub(super) fn begin(&mut self) {
        self.limits.clear();
    }
}

impl Fugato {
    /// The most slices of a device that a model may hold now; [`ALL`] where it is not held back.
    ///
    /// # Cost
    /// Once in a decision a few look-ups; once in 64 tasks of a model those of a table.
    pub(super) fn limit(&mut self, view: &View<'_>, device: DeviceId, model: ModelId) -> Share {
        let suspends = self.parts.niceness && view.has_urgent(device);
        if !self.parts.leave_room || suspends || view.is_alone(model) {
            return ALL;
        }
        let key = (device, model);
        if let Some(&(_, limit)) = self.rooms.limits.iter().find(|(known, _)| *known == key) {
            return limit;
        }
        let limit = self.limited_to(view, device, model).unwrap_or(ALL);
        self.rooms.limits.push((key, limit));
        limit
    }

    fn limited_to(&mut self, view: &View<'_>, device: DeviceId, model: ModelId) -> Option<Share> {
        let longest = self.longest_leg(view, device, model)?;
        let mut short = view.tighter(device, model, longest.times(SHORT));
        let slices = view.slices(device);
        let room = short.find_map(|other| {
            let slo = view.slo(other)?;
            let table = self.tables.of(view, device, other, BatchSize(1));
            let room = match table.fastest(0) {
                Some(_) => table.share(table.enough(0, slo)?),
                // Nothing is known of it: it is learned in whatever is free.
                None => view.shares(device).next()?,
            };
            (room < slices).then_some(room)
        })?;
        let left = slices.0 - room.0;
        let table = self.tables.of(view, device, model, BatchSize(1));
        let place = table.within(left)?;
        let in_time = |slo| table.rest(place, 0) <= slo;
        view.slo(model).is_none_or(in_time).then_some(Share(left))
    }

    /// How long the longest leg of a model takes for one item in its usual share; `None` where
    /// nothing is known of it.
    fn longest_leg(&mut self, view: &View<'_>, device: DeviceId, model: ModelId) -> Option<Nanos> {
        let usual = self.sizes.get(device, model);
        let share = usual.map_or_else(|| view.slices(device), |usual| usual.share);
        let basis = self.tables.basis(view, model);
        let rooms = &mut self.rooms;
        if rooms.configuration != view.configuration() {
            rooms.configuration = view.configuration();
            rooms.longest = FlatMap::default();
        }
        let known = rooms.longest.entry((device, model));
        match *known {
            Some(longest) if (longest.basis, longest.share) == (basis, share) => {
                Some(longest.takes)
            }
            _ => {
                let table = self.tables.of(view, device, model, BatchSize(1));
                let place = table.fastest(0).and_then(|_| table.within(share.0));
                *known = place.map(|place| Longest {
                    basis,
                    share,
                    takes: table.longest_leg(place),
                });
                known.map(|longest| longest.takes)
            }
        }
    }

    /// What of its model's limit a claim may have, beside what other legs of the model hold.
    pub(super) fn allowed(view: &View<'_>, device: DeviceId, claim: &Claim, limit: Share) -> Share {
        match limit {
            ALL => ALL,
            limit => {
                let others = held(view, device, claim.model).saturating_sub(claim.held.0);
                Share(limit.0.saturating_sub(others))
            }
        }
    }

    /// Leaves a model out whose head may have nothing, for what the model holds already, until
    /// the first leg of that should end.
    pub(super) fn held_back(
        view: &View<'_>,
        device: DeviceId,
        claims: &[Claim],
    ) -> Option<Verdict> {
        let is_held =
            |claim: &&Claim| matches!(claim.who, Who::Head(_)) && claim.allowed == Share(0);
        let model = claims.iter().find(is_held)?.model;
        let own = view.running(device).filter(|leg| leg.model == model);
        let ends = own.filter_map(|leg| leg.ends);
        let until = ends.filter(|&end| end > view.now()).min();
        Some(Verdict::Park { model, until })
    }
}

/// The slices that legs of a model hold.
fn held(view: &View<'_>, device: DeviceId, model: ModelId) -> u16 {
    let own = view.running(device).filter(|leg| leg.model == model);
    let shares = own.map(|leg| view.share_of(leg.at).0);
    shares.fold(0, u16::saturating_add)
}

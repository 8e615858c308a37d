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
//! - where one item of the model itself, alone in what it may hold, would be late.
//!
//! Of several models of long legs each leaves room beside what the others hold, but for those whose
//! own legs are too long for it: it need not wait for them, and takes what they left. The others have
//! one share between them then, however many they are: that is the price of the short objective.

use super::Fugato;
use super::claims::{Claim, Who};
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
    /// Where anything is known of the model.
    longest: FlatMap<(DeviceId, ModelId), Longest>,
    /// Found in this decision.
    limits: Vec<((DeviceId, ModelId), Share)>,
    /// What runs of models that are held back; found in this decision, for the device that was
    /// looked at last.
    holders: Option<(DeviceId, Vec<Holder>)>,
}

/// A leg that runs of a model that is held back.
#[derive(Clone, Copy, Debug)]
struct Holder {
    model: ModelId,
    share: Share,
    /// What the model's longest leg takes.
    longest: Nanos,
}

/// How long the longest leg of a model takes for one item in its usual share, and the knowledge
/// that this rests on. What else it rests on is told by [`Rooms::forget`].
#[derive(Clone, Copy, Debug)]
struct Longest {
    knowledge: u32,
    takes: Nanos,
}

impl Rooms {
    /// Forgets what held for the last decision.
    pub(super) fn begin(&mut self) {
        self.limits.clear();
        self.holders = None;
    }

    /// Forgets a model's longest leg: its usual share, or what its times rest on, is another.
    ///
    /// # Cost
    /// All models; it is seldom called.
    pub(super) fn forget(&mut self, model: ModelId) {
        self.longest.retain(|(_, known)| known != model);
    }
}

impl Fugato {
    /// The most slices of a device that a model may hold now; [`ALL`] where it is not held back.
    ///
    /// # Cost
    /// A look-up where no objective is short beside the model's legs; else once in a decision a
    /// few, and once in 64 tasks of a model those of a table.
    pub(super) fn limit(&mut self, view: &View<'_>, device: DeviceId, model: ModelId) -> Share {
        let suspends = self.parts.niceness && view.has_urgent(device);
        if !self.parts.leave_room || suspends {
            return ALL;
        }
        let Some(shortest) = view.shortest_beside(model) else {
            return ALL;
        };
        let longest = self.longest_leg(view, device, model);
        let within = longest.map_or(Nanos::ZERO, |longest| longest.times(SHORT));
        if shortest >= within {
            return ALL;
        }
        let key = (device, model);
        if let Some(&(_, limit)) = self.rooms.limits.iter().find(|(known, _)| *known == key) {
            return limit;
        }
        let limit = self.limited_to(view, key, within).unwrap_or(ALL);
        self.rooms.limits.push((key, limit));
        limit
    }

    /// What a model may hold beside those whose objectives are under `within`; `None` for all.
    fn limited_to(
        &mut self,
        view: &View<'_>,
        (device, model): (DeviceId, ModelId),
        within: Nanos,
    ) -> Option<Share> {
        let mut short = view.tighter(device, model, within);
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
        let key = (device, model);
        let knowledge = view.knowledge(model);
        if self.rooms.configuration != view.configuration() {
            self.rooms.configuration = view.configuration();
            self.rooms.longest = FlatMap::default();
        }
        let known = self.rooms.longest.get(key);
        if let Some(longest) = known.filter(|longest| longest.knowledge == knowledge) {
            return Some(longest.takes);
        }
        let usual = self.sizes.get(device, model);
        let share = usual.map_or_else(|| view.slices(device), |usual| usual.share);
        let table = self.tables.of(view, device, model, BatchSize(1));
        let place = table.fastest(0).and_then(|_| table.within(share.0))?;
        let takes = table.longest_leg(place);
        self.rooms.longest.insert(key, Longest { knowledge, takes });
        Some(takes)
    }

    /// What of its model's limit a claim may have, beside what those hold that leave room too.
    ///
    /// # Cost
    /// Nothing where the model is not held back; else once in a decision some look-ups for each leg
    /// that runs.
    pub(super) fn allowed(
        &mut self,
        view: &View<'_>,
        device: DeviceId,
        claim: &Claim,
        limit: Share,
    ) -> Share {
        if limit == ALL {
            return ALL;
        }
        let known = self.rooms.holders.as_ref();
        if known.is_none_or(|&(of, _)| of != device) {
            let holders = self.holders(view, device);
            self.rooms.holders = Some((device, holders));
        }
        let slo = view.slo(claim.model).unwrap_or(Nanos::MAX);
        let holders = self.rooms.holders.iter().flat_map(|(_, holders)| holders);
        let in_the_way = holders
            .filter(|holder| holder.model == claim.model || holder.longest.times(SHORT) <= slo);
        let held = in_the_way.map(|holder| holder.share.0);
        let held = held.fold(0, u16::saturating_add);
        let others = held.saturating_sub(claim.held.0);
        Share(limit.0.saturating_sub(others))
    }

    /// The legs that run of models that are held back.
    fn holders(&mut self, view: &View<'_>, device: DeviceId) -> Vec<Holder> {
        let legs = view.running(device);
        let holders = legs.filter_map(|leg| {
            let is_held_back = self.limit(view, device, leg.model) != ALL;
            let longest = self.longest_leg(view, device, leg.model)?;
            is_held_back.then_some(Holder {
                model: leg.model,
                share: view.share_of(leg.at),
                longest,
            })
        });
        holders.collect()
    }

    /// Leaves a model out whose own legs hold all that it may have, until the first of them should
    /// end. One that waits for others stays: their ends would not bring it back, and it may be
    /// pressed, so that it gets what they have at a boundary.
    pub(super) fn held_back(
        &mut self,
        view: &View<'_>,
        device: DeviceId,
        claims: &[Claim],
    ) -> Option<Verdict> {
        let is_held =
            |claim: &&Claim| matches!(claim.who, Who::Head(_)) && claim.allowed == Share(0);
        let mut models = claims.iter().filter(is_held).map(|claim| claim.model);
        let model =
            models.find(|&model| held(view, device, model) >= self.limit(view, device, model).0)?;
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

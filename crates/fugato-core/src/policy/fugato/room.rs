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
//! Of several models of long legs each leaves room beside what the others hold, but for those whose
//! own legs are too long for it: it need not wait for them, and takes what they left.

use super::Fugato;
use super::claims::{Claim, Who};
use crate::flat::FlatMap;
use crate::id::{BatchSize, DeviceId, ModelId, Share};
use crate::policy::Verdict;
use crate::sched::{Running, View};
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
    /// Nothing where the model is not held back; else some look-ups for each leg that runs.
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
        let mut others = 0_u16;
        for leg in self.in_the_way(view, device, claim.model) {
            others = others.saturating_add(view.share_of(leg.at).0);
        }
        Share(limit.0.saturating_sub(others.saturating_sub(claim.held.0)))
    }

    /// Leaves a model out whose head may have nothing, for what is held already, until the first of
    /// the legs that hold it should end.
    pub(super) fn held_back(
        &mut self,
        view: &View<'_>,
        device: DeviceId,
        claims: &[Claim],
    ) -> Option<Verdict> {
        let is_held =
            |claim: &&Claim| matches!(claim.who, Who::Head(_)) && claim.allowed == Share(0);
        let model = claims.iter().find(is_held)?.model;
        let legs = self.in_the_way(view, device, model);
        let ends = legs.iter().filter_map(|leg| leg.ends);
        let until = ends.filter(|&end| end > view.now()).min();
        Some(Verdict::Park { model, until })
    }

    /// The legs that run beside which a model that is held back leaves room: its own, and those of
    /// others that are held back and for whose legs it has the time to wait.
    fn in_the_way(&mut self, view: &View<'_>, device: DeviceId, model: ModelId) -> Vec<Running> {
        let slo = view.slo(model).unwrap_or(Nanos::MAX);
        let legs = view.running(device);
        let in_the_way = legs.filter(|leg| {
            leg.model == model || {
                let longest = self.longest_leg(view, device, leg.model);
                let can_wait = longest.is_none_or(|longest| longest.times(SHORT) <= slo);
                can_wait && self.limit(view, device, leg.model) != ALL
            }
        });
        in_the_way.collect()
    }
}

//! `gslice`: each model in a partition of its own, as large as its knee, whoever else's
//! partition lies over it; batches that adapt to their measured times.
//!
//! # Source
//! GSLICE (Dhakal et al., SoCC 2020) as D-STACK (TCC 2024, its scheduling baselines) compares
//! with it: static partitions at the knee, which oversubscribe the device where the knees add
//! up to more than it has, and adaptive batching. GSLICE's full text is not open, and neither
//! paper's section numbers are known here; batches adapt as
//! Clipper's do ([`super::aimd`]). Ours differs: GSLICE also learns the shares, from a
//! nominal one on; here knees come from the profile or from what was measured while serving.
//! A partition is placed where the fewest other models' partitions are, in the order in
//! which models and their knees become known, and stays until its model's knee changes or
//! the model goes. A model runs one batch at a time, the next one committed ahead. Requests
//! that cannot end in time even alone are dropped; where deadlines are only observed, none.
//!
//! | symbol | here |
//! |---|---|
//! | GPU% of a model | `Sizing::share` by [`OperatingPoint::Knee`] |

use super::aimd::Aimd;
use super::sizes::{Change, Sizes};
use super::sizing::OperatingPoint;
use super::turn::Turn;
use super::{Backlog, CapacityRule, Policy, QueueOrder, Ran, ServiceBound, Verdict};
use crate::device::{ATOMS_MAX, AtomSet};
use crate::id::{DeviceId, ModelId, PartitionId, Share};
use crate::sched::{LaneRef, Offer, View};
use crate::time::Timestamp;
use std::collections::BTreeMap;

/// The policy `gslice`.
#[derive(Debug)]
pub struct Gslice {
    lanes: u16,
    sizes: Sizes,
    aimd: Aimd,
    places: BTreeMap<DeviceId, Places>,
    configuration: u64,
}

/// Where the models of a device are.
#[derive(Debug)]
struct Places {
    of: BTreeMap<ModelId, (PartitionId, AtomSet)>,
    /// By atom: the partitions in use that cover it.
    crowd: [u32; ATOMS_MAX as usize],
}

impl Gslice {
    /// At most `lanes` legs at once on one device; batches may take `target_percent` of
    /// their model's objective.
    pub(crate) fn new(lanes: u16, target_percent: u8) -> Self {
        Self {
            lanes,
            sizes: Sizes::new(OperatingPoint::Knee),
            aimd: Aimd::new(target_percent),
            places: BTreeMap::new(),
            configuration: 0,
        }
    }

    fn refresh(&mut self, view: &View<'_>, device: DeviceId) {
        if self.configuration != view.configuration() {
            self.configuration = view.configuration();
            self.aimd.retain(view);
        }
        self.places
            .retain(|&known, _| known == device || view.slices(known) > Share(0));
        let places = self.places.entry(device).or_insert_with(|| Places {
            of: BTreeMap::new(),
            crowd: [0; ATOMS_MAX as usize],
        });
        self.sizes.refresh(view, device, |change| match change {
            Change::Gone(model) => places.leave(model),
            Change::Sized(model, sizing) => places.enter(view, device, model, sizing.share),
        });
    }

    fn start(&mut self, view: &View<'_>, device: DeviceId) -> Option<Verdict> {
        self.refresh(view, device);
        let places = self.places.get(&device)?;
        view.ready(device).find_map(|head| {
            let &(partition, _) = places.of.get(&head.model)?;
            let busy = view.in_flight(head.model) > 0;
            let running = busy.then(|| {
                let mut running = view.running(device);
                running.find(|leg| leg.model == head.model)
            });
            let (at, start) = match running.flatten() {
                None => free_lane(view, device, partition)?,
                Some(leg) => match view.offer(leg.at) {
                    Offer::After(end) => (leg.at, end),
                    Offer::Now | Offer::Closed => {
                        // Nothing is to be done before its leg is near its end.
                        let soon = leg.ends.map(|end| end.before(view.commit_lead()));
                        let soon = soon.filter(|&soon| soon > view.now());
                        let alone = view.devices().nth(1).is_none();
                        return (alone && soon.is_some()).then_some(Verdict::Park {
                            model: head.model,
                            until: soon,
                        });
                    }
                },
            };
            let turn = Turn { head, at, start };
            let limit = self.aimd.limit(view, device, head.model);
            match turn.grows_until(view, limit) {
                Some(until) => Some(Verdict::Park {
                    model: head.model,
                    until: Some(until),
                }),
                None => Some(turn.verdict(view, limit, Some(limit))),
            }
        })
    }
}

/// The lane of a partition that takes a leg soonest, and when.
fn free_lane(
    view: &View<'_>,
    device: DeviceId,
    partition: PartitionId,
) -> Option<(LaneRef, Timestamp)> {
    let lanes = view.lanes(device, partition);
    let offers = lanes.filter_map(|at| match view.offer(at) {
        Offer::Now => Some((at, view.now())),
        Offer::After(end) => Some((at, end)),
        Offer::Closed => None,
    });
    offers.min_by_key(|&(_, start)| start)
}

impl Policy for Gslice {
    fn name(&self) -> &'static str {
        "gslice"
    }

    fn capacity(&self) -> CapacityRule {
        CapacityRule::Oversubscribed { lanes: self.lanes }
    }

    /// None: a model that waits for its own partition is passed over by all others, as often
    /// as they run in theirs. In time it waits for its own batch, and where partitions have
    /// one lane for several models, for theirs.
    fn service_bound(&self) -> Option<ServiceBound> {
        None
    }

    fn queue_order(&self) -> QueueOrder {
        QueueOrder::Arrival
    }

    fn backlog(&self) -> Backlog {
        Backlog::Own
    }

    fn decide(&mut self, view: &View<'_>) -> Verdict {
        if let Some(verdict) = view.continue_first() {
            return verdict;
        }
        let verdict = view.devices().find_map(|device| self.start(view, device));
        verdict.unwrap_or_else(|| Verdict::Wait {
            until: self.sizes.catch_up(view),
        })
    }

    fn ran(&mut self, ran: &Ran) {
        self.aimd.ran(ran);
    }
}

impl Places {
    fn leave(&mut self, model: ModelId) {
        if let Some((_, atoms)) = self.of.remove(&model) {
            for atom in atoms.iter() {
                self.crowd[usize::from(atom)] -= 1;
            }
        }
    }

    /// Places a model in the partition of that share which is least crowded: on its most
    /// crowded atom, then on all.
    ///
    /// # Cost
    /// The partitions of that share times their atoms.
    fn enter(&mut self, view: &View<'_>, device: DeviceId, model: ModelId, share: Share) {
        if let Some((_, atoms)) = self.of.get(&model)
            && atoms.count() == share.0
        {
            return;
        }
        self.leave(model);
        let parts = view.partitions(device).iter();
        let has_lane = |id| view.lanes(device, id).next().is_some();
        let fits = parts.filter(|part| part.share() == share && has_lane(part.id));
        let crowded = |atoms: AtomSet| {
            let crowds = atoms.iter().map(|atom| self.crowd[usize::from(atom)]);
            let (most, all) =
                crowds.fold((0, 0), |(most, all), crowd| (crowd.max(most), all + crowd));
            (most, all)
        };
        let Some(part) = fits.min_by_key(|part| crowded(part.atoms)) else {
            return;
        };
        for atom in part.atoms.iter() {
            self.crowd[usize::from(atom)] += 1;
        }
        self.of.insert(model, (part.id, part.atoms));
    }
}

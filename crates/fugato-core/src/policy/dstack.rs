//! `dstack`: sessions of planned runs that never oversubscribe the device, and what else
//! fits between them.
//!
//! # Source
//! D-STACK (Dhakal, Kulkarni, Ramakrishnan, IEEE Transactions on Cloud Computing 12(4),
//! 2024), the sections on efficacy and on the scheduler, as readers recall them.
//!
//! | paper | here |
//! |---|---|
//! | session: the largest SLO | [`Plan::length`], over the models that ask |
//! | a model with SLO s runs session / s times | its turns: the session cut into equal parts no longer than s |
//! | operating point (knee, batch) | [`Sizer`](super::Sizer), by [`OperatingPoint`]; `margin` on top |
//! | static stage, non-preemptive EDF | [`Plan`]: turns in the order in which they are due, each where its share is free for its whole length |
//! | runs of the shortest SLO as far apart as it allows | early in one turn, late in the next |
//! | below the knee where that meets the SLO | smaller shares, tried where the own one has no room |
//! | dynamic stage, on a completion or a request | at each event, after what is planned |
//! | inactive model, no oversubscription, no delay of what is scheduled | a model with no task, on atoms that nobody holds, to end before they are planned for |
//! | scoreboard of ten sessions | runs of the last ten sessions, fewest first |
//! | largest batch that ends in the free slice | the same, by predicted medians |
//!
//! # How ours differs
//! - Runs are placed on partitions, not counted: a device whose partitions are places has
//!   less room than one that hands out percentages.
//! - What a session has no room for is left out in the order in which it is due, said in
//!   [`Plan::left_out`], run by the dynamic stage where that finds room, and placed first in
//!   the next session: so an overloaded plan leaves out each in its turn.
//! - The pushing apart is given up where it leaves something out of a session that has room
//!   for all, and more than it makes room for.
//! - The dynamic stage looks at the next session too, as if it were like this one; it lets a
//!   model that runs already run once more where no other fits, and runs models below their
//!   share where they keep their objective.
//! - Of equal scores the model due first goes first; heads that cannot end in time are
//!   dropped, as `edf` does it.
//! - A planned run with nothing waiting gives up its slot at its start; one whose place is
//!   taken, by a run that took longer than predicted, goes to another that nothing is
//!   planned on.
//! - Models without an objective are planned by that of best effort, and unknown ones as if
//!   a run took half of theirs; one that takes longer delays what is planned behind it.
//! - A run in between does not take the last task slot of its model while the model's own
//!   planned run needs one.
//! - A plan is bounded: 512 runs, some smaller shares, some models sized anew; and the
//!   dynamic stage compares the 32 models due first, and tries sixteen of them.
//! - Changing a share costs nothing: a partition is chosen per run.

mod opportunity;
mod place;
mod plan;
mod scoreboard;
mod session;
mod timeline;

pub use plan::{LeftOut, Plan, PlannedRun};

use super::{Backlog, CapacityRule, OperatingPoint, Policy, QueueOrder, ServiceBound, Verdict};
use crate::id::{DeviceId, Share};
use crate::sched::View;
use session::Session;
use std::collections::BTreeMap;

/// How `dstack` is set.
#[derive(Clone, Copy, Debug)]
struct Settings {
    point: OperatingPoint,
    margin: Share,
    dynamic: bool,
}

/// The policy `dstack`.
#[derive(Debug)]
pub struct Dstack {
    settings: Settings,
    sessions: BTreeMap<DeviceId, Session>,
}

impl Dstack {
    /// Sizes models by `point` with up to `margin` slices on top, as far as the device has
    /// such partitions. Without `dynamic` only planned runs are run, and models that the
    /// plan has no run for.
    pub const fn new(point: OperatingPoint, margin: Share, dynamic: bool) -> Self {
        Self {
            settings: Settings {
                point,
                margin,
                dynamic,
            },
            sessions: BTreeMap::new(),
        }
    }

    /// The session of a device, begun anew where it is over.
    fn session(&mut self, view: &View<'_>, device: DeviceId) -> &mut Session {
        let settings = self.settings;
        let session = self.sessions.entry(device);
        let session = session.or_insert_with(|| Session::new(settings, device));
        if !session.is_current(view) {
            session.renew(view);
        }
        session
    }
}

impl Policy for Dstack {
    fn name(&self) -> &'static str {
        "dstack"
    }

    fn capacity(&self) -> CapacityRule {
        CapacityRule::Exclusive
    }

    /// None: what a plan has no room for waits until there is.
    fn service_bound(&self) -> Option<ServiceBound> {
        None
    }

    fn queue_order(&self) -> QueueOrder {
        QueueOrder::Deadline
    }

    fn backlog(&self) -> Backlog {
        Backlog::Own
    }

    fn plan(&self, device: DeviceId) -> Option<&Plan> {
        self.sessions.get(&device).map(|session| &session.plan)
    }

    fn decide(&mut self, view: &View<'_>) -> Verdict {
        if let Some(verdict) = view.continue_first() {
            return verdict;
        }
        let mut until = None;
        for device in view.devices() {
            if view.first_ready(device).is_none() {
                continue;
            }
            let session = self.session(view, device);
            let verdict = session.planned(view).or_else(|| session.opportunity(view));
            if let Some(verdict) = verdict {
                return verdict;
            }
            let wake = session.wake(view.now());
            until = Some(until.map_or(wake, |until| wake.min(until)));
        }
        Verdict::Wait { until }
    }
}

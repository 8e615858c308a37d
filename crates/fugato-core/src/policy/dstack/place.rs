//! Where a run fits, and how large its batch may be.

use crate::device::AtomSet;
use crate::id::{BatchSize, DeviceId, Share};
use crate::policy::Verdict;
use crate::policy::turn::{self, Turn};
use crate::sched::{DropReason, LaneRef, Offer, ReadyHead, View};
use crate::time::Timestamp;

/// A free lane of a partition of a share, of all such the one that is planned for latest,
/// and when that is. `reserved` is what is planned, rising by start.
pub(super) fn longest(
    view: &View<'_>,
    device: DeviceId,
    share: Share,
    reserved: impl Iterator<Item = (Timestamp, AtomSet)>,
) -> Option<(LaneRef, Timestamp)> {
    let mut left = view.free(device);
    let mut best = view.fit(device, share, left)?;
    let mut until = Timestamp::MAX;
    for (start, atoms) in reserved {
        left = left.without(atoms);
        if best.atoms.overlaps(atoms) {
            let Some(other) = view.fit(device, share, left) else {
                until = start;
                break;
            };
            best = other;
        }
    }
    let mut lanes = view.lanes(device, best.id);
    let at = lanes.find(|&at| view.offer(at) == Offer::Now)?;
    Some((at, until))
}

/// The verdict that gives up a head which would be late even if it ran at once, by itself,
/// in this share; not where only a stale measurement says so.
pub(super) fn doomed(
    view: &View<'_>,
    device: DeviceId,
    head: ReadyHead,
    share: Share,
) -> Option<Verdict> {
    let request = head.key.request();
    let deadline = view.enforced_deadline(request)?;
    let held = view.slices(device).0 - view.free(device).count();
    let beside = Share(held.min(view.slices(device).0.saturating_sub(share.0)));
    let run = view.predict_at(head.model, view.items(request), (share, beside), 0.5)?;
    let run = run.measured()?;
    let predicted = view.now() + run;
    let late = predicted > deadline && !view.is_probe(request, run);
    late.then_some(Verdict::Drop {
        request,
        reason: DropReason::Doomed {
            deadline,
            predicted,
        },
    })
}

/// The verdict of a turn that must end by a time: the largest batch that does, by predicted
/// medians, and that ends by its head's deadline; or a drop of the head, where it would be late
/// or is better given up for a batch of up to `planned` items. The head by itself where nothing is
/// known of the model.
pub(super) fn verdict(view: &View<'_>, turn: Turn, until: Timestamp, most: BatchSize) -> Verdict {
    let Turn { head, at, start } = turn;
    let alone = view.items(head.key.request());
    let tasks = view.tasks_on(head.model, at);
    let end = |batch| Some(start + tasks.predict(batch, 0.5)?.time);
    if end(alone).is_none() {
        return turn.launch(alone);
    }
    let most = view.batch_available(head.model, head.class, most);
    let fitting = turn::largest_in_time(alone, most, until, end);
    turn.verdict(view, fitting, Some(fitting))
}

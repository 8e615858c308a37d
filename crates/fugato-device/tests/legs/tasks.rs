//! The legs of a task follow each other in its slot, whatever runs between them.

use crate::common::{Bench, Rig, later_leg, random_rows, request};
use crate::{operator_by_operator, options, twice_used};
use fugato_core::{LegIndex, ModelId, SlotIndex, TaskId};
use fugato_device::{Device, DeviceEvent, LeftBehind, LegWork, LoadOptions, RunErrorKind};

/// A model of several legs, loaded as model 1, with two slots.
fn in_legs(rig: &Rig, bench: &Bench) -> u16 {
    let stored = bench.prepare(&twice_used());
    let cuts = operator_by_operator(&stored);
    let legs = u16::try_from(cuts.legs()).unwrap();
    let loaded = rig.device.load(ModelId(1), &stored, &options(cuts, 4));
    assert_eq!(loaded.unwrap().legs, legs);
    legs
}

#[test]
fn tasks_at_different_legs_keep_to_their_slots() {
    let (bench, rig) = (Bench::new(), Rig::new());
    let legs = in_legs(&rig, &bench);
    let rows = [random_rows(1, 1, 4), random_rows(2, 3, 4)];
    let expected = [(1, &rows[0]), (3, &rows[1])].map(|(items, rows)| {
        let work = vec![request(items, vec![rows.clone()])];
        rig.run_legs(1, legs, work).unwrap()
    });
    let first = rig.leg(1, vec![request(1, vec![rows[0].clone()])]);
    let mut second = rig.leg(1, vec![request(3, vec![rows[1].clone()])]);
    second.start.slot = SlotIndex(1);
    let mut later: Vec<_> = (1..legs)
        .flat_map(|leg| [later_leg(&first, leg), later_leg(&second, leg)])
        .collect();
    later.reverse();
    let tasks = [first.start.task, second.start.task];
    rig.device.start(first);
    rig.device.start(second);
    let mut found = Vec::new();
    // The lane holds one leg of each; the next of a task follows when its last has ended.
    while found.len() < 2 {
        let ended = rig.finished();
        let outputs = ended.result.unwrap();
        match later.pop() {
            Some(work) => {
                assert_eq!(work.start.task, ended.task);
                rig.device.start(work);
            }
            None => found.push(outputs),
        }
    }
    for (task, found) in found.into_iter().enumerate() {
        let found: Vec<_> = found.requests.into_iter().map(Result::unwrap).collect();
        assert_eq!(found, expected[task], "{}", tasks[task]);
    }
}

#[test]
fn a_cancelled_task_leaves_nothing_to_the_next() {
    let (bench, rig) = (Bench::new(), Rig::new());
    let legs = in_legs(&rig, &bench);
    let work = || vec![request(2, vec![random_rows(7, 2, 4)])];
    let expected = rig.run_legs(1, legs, work()).unwrap();
    let cancelled = rig.leg(1, vec![request(2, vec![random_rows(8, 2, 4)])]);
    let late = later_leg(&cancelled, 1);
    rig.device.start(cancelled);
    rig.finished().result.unwrap();
    assert_eq!(rig.run_legs(1, legs, work()).unwrap(), expected);
    // Nor can it be taken up again.
    rig.device.start(late);
    let error = rig.finished().result.unwrap_err();
    assert_eq!(error.kind, RunErrorKind::InvalidInput);
    assert!(
        error.detail.contains("no task is under way"),
        "{}",
        error.detail
    );
}

#[test]
fn a_task_that_goes_no_further_leaves_nothing() {
    let bench = Bench::new();
    let rig = Rig::new();
    let legs = in_legs(&rig, &bench);
    assert!(legs > 1);
    let left = |work: &LegWork| LeftBehind {
        task: work.start.task,
        model: work.start.model,
        slot: work.start.slot,
    };
    let first = rig.leg(1, vec![request(1, vec![random_rows(1, 1, 4)])]);
    let (next, mine) = (later_leg(&first, 1), left(&first));
    let other = LeftBehind {
        task: TaskId(99),
        ..mine
    };
    rig.device.start(first);
    assert!(rig.finished().result.is_ok());
    // Another task's leavings are not this one's.
    rig.device.let_go(&other);
    rig.device.let_go(&mine);
    rig.device.start(next);
    let detail = rig.finished().result.unwrap_err().detail;
    assert!(detail.contains("no task is under way"), "{detail}");
    // The slot is as good as new.
    let work = vec![request(1, vec![random_rows(2, 1, 4)])];
    rig.run_legs(1, legs, work).unwrap();
}

#[test]
fn legs_out_of_order_are_refused_and_end_the_task() {
    let (bench, rig) = (Bench::new(), Rig::new());
    let legs = in_legs(&rig, &bench);
    let refused = |work, expected: &str| {
        rig.device.start(work);
        let error = rig.finished().result.unwrap_err();
        assert_eq!(error.kind, RunErrorKind::InvalidInput);
        assert!(error.detail.contains(expected), "{}", error.detail);
    };
    let work = || vec![request(1, vec![random_rows(7, 1, 4)])];
    let first = rig.leg(1, work());
    refused(later_leg(&first, 1), "no task is under way");
    let skipped = later_leg(&first, 2);
    let mut other = later_leg(&first, 1);
    other.start.task = TaskId(77);
    let past = later_leg(&first, legs);
    let mut with_requests = later_leg(&first, 1);
    with_requests.requests = work();
    rig.device.start(first);
    rig.finished().result.unwrap();
    refused(skipped, "leg 1 of task");
    refused(other, "leg 1 of task 77");
    refused(
        past,
        &format!("the model's plan has {legs} legs, not a leg {legs}"),
    );
    refused(with_requests, "1 requests came with leg 1");
}

#[test]
fn a_leg_that_is_taken_back_may_be_started_again() {
    let (bench, rig) = (Bench::new(), Rig::new());
    let legs = in_legs(&rig, &bench);
    let work = || vec![request(1, vec![random_rows(7, 1, 4)])];
    let expected = rig.run_legs(1, legs, work()).unwrap();
    let first = rig.leg(1, work());
    let later: Vec<_> = (1..legs).map(|leg| later_leg(&first, leg)).collect();
    let mut held = later_leg(&first, 1);
    held.start.not_before = fugato_core::Timestamp::MAX;
    let revoke = fugato_device::RevokeLeg {
        task: held.start.task,
        leg: LegIndex(1),
        partition: held.start.partition,
        lane: held.start.lane,
    };
    rig.device.start(first);
    rig.finished().result.unwrap();
    rig.device.start(held);
    rig.device.revoke(&revoke);
    assert!(matches!(rig.event(), DeviceEvent::Revoked { .. }));
    let mut found = Vec::new();
    for leg in later {
        rig.device.start(leg);
        found = rig.finished().result.unwrap().requests;
    }
    let found: Vec<_> = found.into_iter().map(Result::unwrap).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_task_may_run_unsplit_between_others_in_legs_where_that_was_asked_for() {
    let (bench, rig) = (Bench::new(), Rig::new());
    let stored = bench.prepare(&twice_used());
    let cuts = operator_by_operator(&stored);
    let legs = u16::try_from(cuts.legs()).unwrap();
    for (id, unsplit) in [(1, true), (2, false)] {
        let options = LoadOptions {
            unsplit,
            ..options(cuts.clone(), 4)
        };
        let loaded = rig.device.load(ModelId(id), &stored, &options).unwrap();
        assert_eq!((loaded.legs, loaded.unsplit), (legs, unsplit));
    }
    let work = || vec![request(3, vec![random_rows(7, 3, 4)])];
    let in_one_go = |model| {
        let mut leg = rig.leg(model, work());
        (leg.start.leg, leg.start.unsplit) = (LegIndex(legs - 1), true);
        leg
    };
    // Over what a task left between two legs, and again.
    rig.device.start(rig.leg(1, work()));
    rig.finished().result.unwrap();
    let expected = rig.run_legs(1, legs, work()).unwrap();
    for _ in 0..2 {
        rig.device.start(in_one_go(1));
        let found = rig.finished().result.unwrap().requests.into_iter();
        assert_eq!(found.map(Result::unwrap).collect::<Vec<_>>(), expected);
    }
    assert_eq!(rig.run_legs(1, legs, work()).unwrap(), expected);

    let refused = |work| {
        rig.device.start(work);
        let error = rig.finished().result.unwrap_err();
        assert_eq!(error.kind, RunErrorKind::InvalidInput);
        assert!(error.detail.contains("in one go"), "{}", error.detail);
    };
    refused(in_one_go(2));
    let mut too_early = in_one_go(1);
    too_early.start.leg = LegIndex(0);
    refused(too_early);
}

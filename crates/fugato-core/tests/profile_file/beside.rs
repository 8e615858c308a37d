//! What neighbours of other models cost, as a profile has it.

use super::{Change, profile};
use fugato_core::profile::{Beside, Interference, ModelProfile, Profile};

/// The profile with what one neighbour costs, and what follows from it.
fn measured() -> Profile {
    let mut profile = profile();
    let model = &mut profile.models[0];
    model.beside = vec![Beside {
        model: "vgg19".to_owned(),
        hash: "def".to_owned(),
        batch: 1,
        share: 1,
        neighbour_batch: 1,
        neighbours: 1,
        alone_s: 0.004,
        beside_s: 0.005,
        repeats: 9,
    }];
    model.interference = Some(Interference {
        sensitivity: 0.5,
        demand: 0.0,
    });
    profile
}

fn beside(profile: &mut Profile) -> &mut Beside {
    &mut profile.models[0].beside[0]
}

fn concluded(profile: &mut Profile) -> &mut Interference {
    profile.models[0]
        .interference
        .as_mut()
        .expect("it is there")
}

#[test]
fn it_is_written_and_read_and_older_files_have_none() {
    let measured = measured();
    assert_eq!(measured.check(), Ok(()));
    let text = serde_json::to_string(&measured).expect("it serialises");
    let read: Profile = serde_json::from_str(&text).expect("it parses");
    assert_eq!(read, measured);
    let older = serde_json::to_string(&profile()).expect("it serialises");
    assert!(!older.contains("beside") && !older.contains("interference"));
    let read: Profile = serde_json::from_str(&older).expect("it parses");
    let ModelProfile {
        beside,
        interference,
        ..
    } = &read.models[0];
    assert_eq!((beside.len(), *interference), (0, None));
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let cases: [(Change, &str, &str); 14] = [
        (
            |profile| beside(profile).model.clear(),
            "beside.model",
            "empty, expected that of the neighbour",
        ),
        (
            |profile| beside(profile).hash.clear(),
            "beside.hash",
            "empty, expected that of the neighbour",
        ),
        (
            |profile| beside(profile).batch = 0,
            "beside.batch",
            "0, expected at least 1",
        ),
        (
            |profile| beside(profile).neighbour_batch = 0,
            "beside.neighbour_batch",
            "0, expected at least 1",
        ),
        (
            |profile| beside(profile).repeats = 0,
            "beside.repeats",
            "0, expected at least 1",
        ),
        (
            |profile| beside(profile).share = 0,
            "beside.share",
            "0, expected 1 to 2 slices",
        ),
        (
            |profile| beside(profile).share = 3,
            "beside.share",
            "3, expected 1 to 2 slices",
        ),
        (
            |profile| beside(profile).neighbours = 0,
            "beside.neighbours",
            "0, expected 1 to the other 1 slices",
        ),
        (
            |profile| beside(profile).neighbours = 2,
            "beside.neighbours",
            "2, expected 1 to the other 1 slices",
        ),
        (
            |profile| beside(profile).alone_s = 0.0,
            "beside.alone_s",
            "0, expected a positive number of seconds, at most a day",
        ),
        (
            |profile| beside(profile).beside_s = f64::NAN,
            "beside.beside_s",
            "NaN, expected a positive number of seconds, at most a day",
        ),
        (
            |profile| concluded(profile).sensitivity = f64::NAN,
            "interference.sensitivity",
            "NaN, expected a number of at least 0",
        ),
        (
            |profile| concluded(profile).demand = -0.1,
            "interference.demand",
            "-0.1, expected a number of at least 0",
        ),
        (
            |profile| concluded(profile).demand = f64::INFINITY,
            "interference.demand",
            "inf, expected a number of at least 0",
        ),
    ];
    for (change, field, found) in cases {
        let mut bad = measured();
        change(&mut bad);
        let error = bad.check().expect_err(field);
        let expected = format!("profile's {field} of model `resnet50` is {found}");
        assert_eq!(error.to_string(), expected);
    }
}

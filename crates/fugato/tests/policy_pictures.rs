//! The pictures of docs/concepts/policies.md are what the policies do: they are drawn from a
//! simulation of one small scenario, and this test compares. FUGATO_BLESS=1 draws them anew.

use fugato::plots::space_time;
use fugato::timeline::Scene;
use fugato_core::device::{DeviceSpec, LaneClass};
use fugato_core::profile::{Division, Profile, v100_dstack};
use fugato_core::sched::{PolicySpec, SchedulerConfig};
use fugato_core::sim::{PolicyReport, Scenario, SimOptions};
use fugato_core::workload::{ArrivalProcess, ModelLoad, Workload};
use fugato_core::{DeviceId, ModelId, Nanos, Share, Timestamp};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Name, objective in milliseconds, requests per second: twice the objectives of D-STACK's
/// table, so that the policies of the whole device have a chance.
const MODELS: [(&str, u64, f64); 3] = [
    ("alexnet", 50, 320.0),
    ("resnet50", 100, 160.0),
    ("vgg19", 200, 80.0),
];

/// The part that is drawn, in milliseconds: two objectives of VGG-19, after a second in which
/// rates and batches have settled.
const WINDOW: std::ops::Range<u64> = 1_000..1_400;

/// Policies that decide anew between two legs.
const IN_LEGS: [&str; 2] = ["edf-legs", "fugato"];

#[test]
fn the_pictures_of_the_policies_are_what_they_do() {
    let lanes = [LaneClass::Normal; 4];
    let (slices, tenth) = (Share(80), Share(8));
    let device = DeviceSpec::subsets(DeviceId(0), "V100", slices, tenth, &lanes, &lanes);
    let loads = MODELS.map(|(name, slo, rate)| {
        let arrivals = ArrivalProcess::Poisson { rate };
        ModelLoad::new(name, Nanos::from_millis(slo), arrivals)
    });
    let millis = Nanos::from_millis;
    let workload = Workload::new(millis(1_000), millis(1_000), None, loads.into());
    let options = SimOptions {
        timeline: 10_000,
        ..SimOptions::default()
    };
    let workload = workload.expect("valid");
    let devices = [device];
    let whole = v100_dstack();
    // Legs of a millisecond or two would be too narrow to be seen.
    let cut = whole.divided(Division {
        leg_max: millis(5),
        seed: 1,
    });
    let scenario = |profile: &Profile| {
        Scenario::new(profile, workload.clone(), devices[0].clone(), options).expect("valid")
    };
    let (whole, cut) = (scenario(&whole), scenario(&cut));
    let names: BTreeMap<ModelId, String> = (0..)
        .zip(MODELS)
        .map(|(id, (name, ..))| (ModelId(id), name.to_owned()))
        .collect();
    let mut outdated = Vec::new();
    for policy in PolicySpec::NAMES {
        let config = SchedulerConfig {
            policy: PolicySpec::named(policy).expect("a known name"),
            ..SchedulerConfig::default()
        };
        let scenario = if IN_LEGS.contains(&policy) {
            &cut
        } else {
            &whole
        };
        let simulated = scenario.run(config, 1);
        let report = PolicyReport::new(policy, scenario.workload(), &simulated.tally);
        let attainment = 100.0 * report.attainment.expect("offered");
        let used = 100.0 * report.utilisation;
        let timeline = simulated.timeline.expect("asked for");
        let lost = timeline.lost();
        let legs = timeline.into_legs();
        let what = format!(
            "v100-dstack. Over one second: {attainment:.0} % of the requests in time, {used:.0} % of \
             the device used (held, up to the knees)"
        );
        let scene = Scene {
            simulated: true,
            what: &what,
            devices: &devices,
            models: &names,
            legs: &legs,
            lost,
        };
        let [from, to] = [WINDOW.start, WINDOW.end].map(|ms| Timestamp::from_nanos(ms * 1_000_000));
        let chart = space_time(&scene, policy, Some(from..to));
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/images/policies");
        let path = folder.join(format!("{policy}.svg"));
        if std::env::var_os("FUGATO_BLESS").is_some() {
            fs::create_dir_all(&folder).expect("the folder can be made");
            fs::write(&path, &chart.svg).expect("the picture can be written");
        }
        if fs::read_to_string(&path).unwrap_or_default() != chart.svg {
            outdated.push(policy);
        }
    }
    assert!(
        outdated.is_empty(),
        "docs/images/policies is not what these policies do: {outdated:?}; draw it anew with \
         FUGATO_BLESS=1 cargo test -p fugato --test policy_pictures, and look at it"
    );
}

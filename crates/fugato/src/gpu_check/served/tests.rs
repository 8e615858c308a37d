//! The parts themselves, over the CPU, and over a CPU that answers wrongly.

mod faults_tried;
mod plans_timed;
mod zoo_models;

use super::stage::{Host, Place, Stage, item, named};
use super::{beside, knees, memory, models, plans, policies, server, switch, zoo};
use crate::config::DeviceKind;
use crate::gpu_check::Setup;
use crate::gpu_check::report::{Answer, Budget, Verdict};
use crate::runtime::{Surroundings, find};
use bytes::Bytes;
use fugato_core::capacity::LargestSettings;
use fugato_core::device::DeviceSpec;
use fugato_core::plan::CostModel;
use fugato_core::{ModelId, Nanos, PartitionId, Share};
use fugato_device::{
    AnyDevice, Device, DeviceMetrics, InputData, InputTensor, LeftBehind, LegWork, LoadError,
    LoadOptions, Loaded, Precision, RevokeLeg, StoredModel, TensorData,
};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use zoo_models::zoo_plan;

fn setup(folder: &Path) -> Setup {
    let library = find(None, &Surroundings::of_process());
    Setup {
        onnxruntime: library.expect("`make runtime` fetches it").path,
        libraries: Vec::new(),
        models: folder.join("models"),
        device: 0,
        out: folder.to_owned(),
    }
}

fn cpu(folder: &Path) -> (Stage<AnyDevice>, String) {
    Stage::open(&setup(folder), DeviceKind::Cpu).expect("the CPU is always there")
}

/// What came of a part, and what it kept on the way.
struct Ran {
    answer: Answer,
    kept: Vec<Answer>,
}

/// Runs a part that has so long.
fn within(time: Duration, part: impl FnOnce(&mut Budget<'_>) -> anyhow::Result<Answer>) -> Ran {
    let mut kept = Vec::new();
    let mut keep = |answer| {
        kept.push(answer);
        Ok(())
    };
    let answer = part(&mut Budget {
        until: Instant::now() + time,
        keep: &mut keep,
    });
    Ran {
        answer: answer.expect("the part comes to its end"),
        kept,
    }
}

/// Long enough for whatever a test does.
const LONG: Duration = Duration::from_secs(300);

/// What a [`Skewed`] device does to others' orders.
type Skew = Box<dyn Fn(&mut LegWork) + Send + Sync>;

/// A device that gets an order wrong on its way.
struct Skewed {
    device: Arc<AnyDevice>,
    skew: Skew,
    /// The first model that it refuses to load.
    refused: Option<ModelId>,
    /// What it says that no CPU does.
    claims: Claims,
    /// Models whose groups are to run at once.
    side_by_side: Mutex<BTreeSet<ModelId>>,
    /// Legs of those, and of others.
    counts: [AtomicU64; 2],
}

/// What a [`Skewed`] device says of how it runs legs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claims {
    /// Groups at once and other legs in graphs, as it is asked.
    All,
    /// Other legs operator by operator.
    NoCaptures,
    /// Groups at once when it loads a model, and then not.
    NoRuns,
}

impl Device for Skewed {
    fn spec(&self) -> &DeviceSpec {
        self.device.spec()
    }

    fn start(&self, mut work: LegWork) {
        (self.skew)(&mut work);
        let models = self.side_by_side.lock().expect("nobody panics");
        let is_in_turn = !models.contains(&work.start.model);
        self.counts[usize::from(is_in_turn)].fetch_add(1, Ordering::Relaxed);
        self.device.start(work);
    }

    fn revoke(&self, leg: &RevokeLeg) {
        self.device.revoke(leg);
    }

    fn let_go(&self, place: &LeftBehind) {
        self.device.let_go(place);
    }
}

impl Host for Skewed {
    fn load(
        &self,
        id: ModelId,
        stored: &StoredModel,
        options: &LoadOptions,
    ) -> Result<Loaded, LoadError> {
        let mut options = options.clone();
        if self.refused.is_some_and(|refused| id == refused) {
            options.slots = 0;
        }
        let loaded = self.device.load(id, stored, &options)?;
        let at_once = options.gpu.side_by_side && options.cuts.is_some();
        if at_once {
            self.side_by_side.lock().expect("nobody panics").insert(id);
        }
        Ok(Loaded {
            legs_at_once: if at_once { loaded.legs } else { 0 },
            ..loaded
        })
    }

    fn unload(&self, id: ModelId) -> bool {
        self.device.unload(id)
    }

    fn set_layered(&self, layered: bool) {
        self.device.set_layered(layered);
    }

    fn metrics(&self) -> DeviceMetrics {
        let count = |index: usize| self.counts[index].load(Ordering::Relaxed);
        DeviceMetrics {
            legs_at_once: if self.claims == Claims::NoRuns {
                0
            } else {
                count(0)
            },
            legs_captured: if self.claims == Claims::NoCaptures {
                0
            } else {
                count(1)
            },
            ..self.device.metrics()
        }
    }
}

fn skewed(
    folder: &Path,
    refused: Option<ModelId>,
    skew: impl Fn(&mut LegWork) + Send + Sync + 'static,
) -> Stage<Skewed> {
    cpu(folder).0.within(|device| Skewed {
        device,
        skew: Box::new(skew),
        refused,
        claims: Claims::All,
        side_by_side: Mutex::default(),
        counts: Default::default(),
    })
}

#[test]
fn what_the_time_did_not_suffice_for_is_unknown() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut stage, runtime) = cpu(folder.path());
    let (mut reference, _) = cpu(folder.path());
    let plan = zoo_plan(&["identity"]);
    let Ran { answer, kept } = within(Duration::ZERO, |budget| {
        zoo::run(&mut stage, &mut reference, &plan, budget)
    });
    assert_eq!(answer.verdict, Verdict::Unknown);
    assert!(answer.words.contains("0 of 1 models"), "{}", answer.words);
    assert!(kept.is_empty());
    let plan = knees_plan(&stage, folder.path(), runtime);
    let Ran { answer, .. } = within(Duration::ZERO, |budget| {
        knees::run(&mut stage, &plan, budget)
    });
    assert_eq!(answer.verdict, Verdict::Unknown, "{}", answer.words);
    assert!(!plan.out.exists());
}

#[test]
fn a_further_session_is_made_beside_the_weights_of_the_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut stage, _) = cpu(folder.path());
    let plan = memory::Plan {
        models: ["identity", "bert-tiny"]
            .map(|name| named(name).expect("in the zoo"))
            .to_vec(),
        sessions: 2,
    };
    let is_divided = stage.device.spec().partitions.len() > 1;
    let mut judged = |taken: u64| {
        let left = AtomicU64::new(100 << 30);
        let mut free = || Ok(left.fetch_sub(taken, Ordering::Relaxed));
        within(LONG, |budget| {
            memory::run(&mut stage, &plan, &mut free, budget)
        })
    };
    let Ran { answer, kept } = judged(200 << 20);
    assert_eq!(kept.len(), 2, "after each model");
    let expected = |verdict| match is_divided {
        true => verdict,
        false => Verdict::Unknown,
    };
    assert_eq!(answer.verdict, expected(Verdict::Holds), "{}", answer.words);
    for model in answer.facts["models"].as_array().expect("models") {
        let further = model["further"].as_array().expect("sessions");
        assert_eq!(further.len(), usize::from(is_divided), "{model}");
        assert_eq!(model["first"]["taken_bytes"], 200 << 20, "{model}");
    }
    let own = judged(300 << 20).answer;
    assert_eq!(own.verdict, expected(Verdict::Fails), "{}", own.words);
}

#[test]
fn models_that_were_measured_leave_the_device() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut stage, runtime) = cpu(folder.path());
    let plan = knees::Plan {
        first: 1,
        batches: vec![1],
        ..knees_plan(&stage, folder.path(), runtime)
    };
    for zoo in &plan.models {
        stage.prepare(zoo).expect("it can be prepared");
    }
    let Ran { answer, .. } = within(Duration::from_secs(8), |budget| {
        knees::run(&mut stage, &plan, budget)
    });
    let clocks = answer.facts["clocks"].as_array().expect("clocks");
    assert!(!clocks.is_empty(), "{}", answer.words);
    for clock in clocks {
        assert!(clock["by_host_us"].as_f64().is_some_and(|time| time > 0.0));
        assert!(clock["on_device_us"].is_null(), "a CPU has no events");
    }
    let left: Vec<u32> = (0..8)
        .filter(|&id| stage.device.unload(ModelId(id)))
        .collect();
    assert_eq!(left, [0; 0]);
}

fn knees_plan(stage: &Stage<AnyDevice>, folder: &Path, runtime: String) -> knees::Plan {
    let models = ["bert-tiny", "squeezenet1_1"].map(|name| named(name).expect("in the zoo"));
    knees::Plan {
        models: models.to_vec(),
        first: 2,
        batches: vec![1, 2],
        shares: knees::shares(stage.device.spec()),
        runtime,
        out: folder.join("profile.json"),
        legs: None,
    }
}

#[test]
fn policies_are_measured_and_simulated_on_the_profile_that_was_measured() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut stage, runtime) = cpu(folder.path());
    let plan = knees_plan(&stage, folder.path(), runtime);
    // So that all of the time is for measuring.
    for zoo in &plan.models {
        stage.prepare(zoo).expect("it can be prepared");
    }
    let Ran { answer, .. } = within(Duration::from_secs(20), |budget| {
        knees::run(&mut stage, &plan, budget)
    });
    assert_eq!(
        answer.facts["models"].as_array().map(Vec::len),
        Some(2),
        "{}",
        answer.words
    );
    let legs = knees::Plan {
        models: vec![named("squeezenet1_1").expect("in the zoo")],
        first: 1,
        batches: vec![1],
        out: folder.path().join("profile-legs.json"),
        legs: Some(knees::Legs {
            longest: Nanos::from_micros(500),
            from: plan.out.clone(),
        }),
        ..plan
    };
    let plan = knees_plan(&stage, folder.path(), legs.runtime.clone());
    let Ran { answer, .. } = within(LONG, |budget| knees::run(&mut stage, &legs, budget));
    let cut = &answer.facts["models"];
    assert!(
        cut.as_array()
            .is_some_and(|cut| cut.iter().any(|model| model["model"] == "squeezenet1_1")),
        "{}",
        answer.words
    );
    let of_legs = knees::read(&legs.out).expect("it can be read");
    let of_legs = of_legs.expect("it was written");
    of_legs.check().expect("a profile");

    let profile = knees::read(&plan.out).expect("it can be read");
    let mut profile = profile.expect("it was written");
    profile.check().expect("a profile for the simulator");
    for model in &mut profile.models {
        let measured = model.grid.iter().filter(|point| point.times().is_some());
        assert_eq!(measured.count(), model.grid.len(), "{}", model.name);
        assert!(model.knee.tolerance.is_some());
        // Beside other tests times vary so much that the simulator holds no load at all, and what
        // is told of pairs of runs most of all.
        (model.changeovers, model.interference) = (Vec::new(), None);
        for point in &mut model.grid {
            point.p95_s = point.median_s;
        }
    }

    profile.launch_s = None;

    let plan = policies::Plan {
        profile,
        mixes: vec![policies::MixPlan {
            name: "two".to_owned(),
            models: ["bert-tiny", "squeezenet1_1"].map(str::to_owned).to_vec(),
        }],
        policies: [policies::OURS, policies::BASELINE]
            .map(str::to_owned)
            .to_vec(),
        legs: None,
        first: 2,
        aims: policies::Aim::ALL.to_vec(),
        // Two probes of each: whether such a load is held depends on the machine.
        search: LargestSettings {
            start: 0.5,
            step: 2.0,
            tolerance: 1.0,
            least: 0.25,
            most: 1.0,
        },
        duration: Nanos::from_millis(400),
    };
    let Ran { answer, kept } = within(LONG, |budget| policies::run(&mut stage, &plan, budget));
    let mix = &answer.facts["mixes"][0];
    let tried = mix["policies"].as_array().expect("policies");
    assert_eq!(tried.len(), 2);
    for policy in tried {
        assert_eq!(policy["error"], serde_json::Value::Null, "{policy}");
        assert_eq!(policy["settled"], true, "{policy}");
        assert!(
            policy["simulated"].as_f64().is_some_and(|load| load > 0.0),
            "{policy}"
        );
        let probes = policy["probes"].as_array().expect("probes");
        assert!(!probes.is_empty());
        let requests = |probe: &serde_json::Value| {
            let models = probe["models"].as_array().expect("models");
            models
                .iter()
                .map(|model| model["requests"].as_u64())
                .sum::<Option<u64>>()
        };
        assert!(
            probes.iter().all(|probe| requests(probe) > Some(0)),
            "{policy}"
        );
    }
    assert!(mix["simulation_error"].is_null(), "{mix}");
    assert_eq!(kept.len(), 3, "after each policy, and after the simulation");
    // The one that chooses anew at each leg also has the model that has some in these.
    let plan = policies::Plan {
        legs: Some(of_legs),
        policies: vec![policies::OURS.to_owned()],
        first: 1,
        ..plan
    };
    let Ran { answer, .. } = within(LONG, |budget| policies::run(&mut stage, &plan, budget));
    let tried = answer.facts["mixes"][0]["policies"].as_array();
    let tried = tried.expect("policies");
    let ways: Vec<_> = tried.iter().map(|policy| &policy["in_legs"]).collect();
    assert_eq!(ways, [false, true], "{}", answer.words);
    for policy in tried {
        assert_eq!(policy["error"], serde_json::Value::Null, "{policy}");
        assert_eq!(policy["settled"], true, "{policy}");
    }
    // The device is idle, and hears others again.
    let zoo = named("identity").expect("in the zoo");
    let model = stage.load(zoo, &LoadOptions::default()).expect("it loads");
    let items = [item(zoo, 0).expect("an item")];
    let ran = stage.run(&model, Place::of(PartitionId(0)), &items);
    assert_eq!(ran.expect("it runs").outputs.len(), 1);
}

#[test]
fn a_profile_of_other_content_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut stage, runtime) = cpu(folder.path());
    let mut plan = knees_plan(&stage, folder.path(), runtime);
    plan.models.truncate(1);
    within(Duration::from_secs(4), |budget| {
        knees::run(&mut stage, &plan, budget)
    });
    let profile = knees::read(&plan.out).expect("it can be read");
    let mut profile = profile.expect("it was written");
    profile.models[0].hash = "another".to_owned();
    let mix = |model: &str| policies::MixPlan {
        name: model.to_owned(),
        models: vec![model.to_owned()],
    };
    let plan = policies::Plan {
        profile,
        mixes: vec![mix("bert-tiny"), mix("resnet18")],
        policies: vec![policies::OURS.to_owned()],
        legs: None,
        first: 1,
        aims: vec![policies::Aim::AsBaseline],
        search: LargestSettings::default(),
        duration: Nanos::from_millis(100),
    };
    let Ran { answer, .. } = within(LONG, |budget| policies::run(&mut stage, &plan, budget));
    assert_eq!(answer.verdict, Verdict::Fails);
    let words = &answer.words;
    assert!(
        words.contains("the profile is of another `bert-tiny`"),
        "{words}"
    );
    assert!(
        words.contains("`resnet18` is not in the profile"),
        "{words}"
    );
}

#[test]
fn idle_times_are_measured_in_one_partition_and_in_two() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut stage, _) = cpu(folder.path());
    let plan = switch::Plan {
        zoo: named("identity").expect("in the zoo"),
        legs: 7,
    };
    let Ran { answer, kept } = within(LONG, |budget| switch::run(&mut stage, &plan, budget));
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].verdict, Verdict::Unknown);
    let is_divided = stage.device.spec().partitions.len() > 1;
    let other = &answer.facts["idle_other_partition_us"];
    assert_eq!(other.is_number(), is_divided, "{}", answer.words);
    for key in ["idle_waiting_us", "idle_same_partition_us"] {
        assert!(answer.facts[key].is_number(), "{}", answer.facts);
    }
}

#[test]
fn a_model_is_timed_beside_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut stage, _) = cpu(folder.path());
    let other = |what, name, batch| beside::Other {
        what,
        zoo: named(name).expect("in the zoo"),
        batch,
    };
    let plan = beside::Plan {
        zoo: named("bert-tiny").expect("in the zoo"),
        neighbours: vec![
            other("memory", "identity", 1),
            other("compute", "bert-tiny", 4),
        ],
        legs: 3,
    };
    if stage.device.spec().partitions.len() < 3 {
        // On one core there is nobody beside.
        let mut keep = |_| Ok(());
        let mut budget = Budget {
            until: Instant::now() + LONG,
            keep: &mut keep,
        };
        beside::run(&mut stage, &plan, &mut budget).expect_err("a device of one partition");
        return;
    }
    let Ran { answer, kept } = within(LONG, |budget| beside::run(&mut stage, &plan, budget));
    assert_eq!(kept.len(), 2);
    let found = answer.facts["neighbours"].as_array().expect("neighbours");
    for beside in found {
        assert!(
            beside["p95_us"].as_f64().is_some_and(|time| time > 0.0),
            "{beside}"
        );
    }
    assert_eq!(found.len(), 2);
}

#[test]
fn requests_through_a_server_and_bare_runs_take_turns() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut stage, _) = cpu(folder.path());
    let zoo = named("identity").expect("in the zoo");
    let config = server::config(&setup(folder.path()), DeviceKind::Cpu, zoo);
    let plan = server::Plan {
        zoo,
        pairs: 210,
        config: config.expect("a configuration"),
    };
    let Ran { answer, kept } = within(LONG, |budget| server::run(&mut stage, &plan, budget));
    assert_eq!(answer.facts["pairs"], 210, "{}", answer.words);
    assert_eq!(kept.len(), 4, "every 50 pairs");
    assert_eq!(kept[2].verdict, Verdict::Unknown, "150 are too few");
    for key in ["served_us", "bare_us", "run_us"] {
        let median = answer.facts[key]["p50"].as_f64();
        assert!(
            median.is_some_and(|median| median > 0.0),
            "{}",
            answer.facts
        );
    }
    let added = answer.facts["added_us"].as_f64().expect("a time");
    let expected = Verdict::of(added < 100.0);
    assert_eq!(answer.verdict, expected, "{}", answer.words);
}

#[test]
fn sessions_with_weights_of_their_own_are_told_from_those_that_share_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let judged = |taken: u64| {
        let (mut stage, _) = cpu(folder.path());
        let plan = models::Plan {
            models: vec![named("bert-tiny").expect("in the zoo")],
            partitions: 1,
            max_batch: 2,
            large: 1,
        };
        let is_divided = stage.device.spec().partitions.len() > 1;
        let left = AtomicU64::new(100 << 30);
        let mut free = || Ok(left.fetch_sub(taken, Ordering::Relaxed));
        let part = |budget: &mut Budget<'_>| models::run(&mut stage, &plan, &mut free, budget);
        (within(LONG, part).answer, is_divided)
    };
    // The model has 17 MB of weights.
    let (answer, is_divided) = judged(1 << 20);
    assert_eq!(answer.verdict, Verdict::Holds, "{}", answer.words);
    let (own, _) = judged(16 << 20);
    let expected = Verdict::of(!is_divided);
    assert_eq!(own.verdict, expected, "{}", own.words);
    if is_divided {
        assert_eq!(own.facts["models"][0]["shares_weights"], false);
        assert_eq!(answer.facts["models"][0]["shares_weights"], true);
    }
}

#[test]
fn memory_is_asked_for_after_each_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut stage, _) = cpu(folder.path());
    let partitions = stage.device.spec().partitions.len().min(2);
    let plan = models::Plan {
        models: ["identity", "bert-tiny"]
            .map(|name| named(name).expect("in the zoo"))
            .to_vec(),
        partitions,
        max_batch: 2,
        large: u64::MAX,
    };
    let free = AtomicU64::new(100 << 30);
    let mut lavish = || Ok(free.fetch_sub(5 << 30, Ordering::Relaxed));
    let Ran { answer, kept } = within(LONG, |budget| {
        models::run(&mut stage, &plan, &mut lavish, budget)
    });
    assert_eq!(kept.len(), 2);
    assert_eq!(answer.verdict, Verdict::Fails, "{}", answer.words);
    assert_eq!(answer.facts["taken_bytes"], 10_u64 << 30);
    let (mut stage, _) = cpu(folder.path());
    let mut frugal = || Ok(1 << 30);
    let Ran { answer, .. } = within(LONG, |budget| {
        models::run(&mut stage, &plan, &mut frugal, budget)
    });
    assert_eq!(answer.verdict, Verdict::Holds, "{}", answer.words);
    let weights = answer.facts["weights_bytes"].as_u64();
    assert!(
        weights.is_some_and(|bytes| bytes > 1 << 20),
        "{}",
        answer.facts
    );
}

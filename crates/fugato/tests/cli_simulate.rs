//! `fugato simulate` as a user meets it.

use fugato_core::Nanos;
use fugato_core::profile::{Division, v100_dstack};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn simulate(args: &[&str], folder: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fugato"));
    command.arg("simulate").args(args).current_dir(folder);
    command.env_clear().env("HOME", folder);
    command.output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

fn json(args: &[&str], folder: &Path) -> Value {
    let output = simulate(&[args, &["--format", "json"]].concat(), folder);
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a scratch folder")
}

const SHORT: [&str; 6] = ["--duration", "500ms", "--warmup", "100ms", "--seed", "7"];

#[test]
fn one_seed_gives_one_report_with_every_policy_on_the_same_requests() {
    let folder = scratch();
    let args = [
        &["--workload", "c-4", "--policy", "fifo,edf,ideal"][..],
        &SHORT,
    ]
    .concat();
    let report = json(&args, folder.path());
    assert_eq!(report, json(&args, folder.path()));
    assert_eq!(report["schema"], "fugato.simulation/1");
    assert_eq!(report["seed"], 7);
    assert_eq!(report["synthetic"], true);
    let policies = report["policies"].as_array().expect("policies");
    let names: Vec<&Value> = policies.iter().map(|policy| &policy["policy"]).collect();
    assert_eq!(names, ["fifo", "edf", "ideal"]);
    assert_eq!(report["workload"], "c-4");
    assert_eq!(report["deadlines"], "enforce");
    for (field, value) in [
        ("scale", 1.0),
        ("slots", 2.0),
        ("instances", 1.0),
        ("launch_us", 20.0),
        ("boundary_us", 5.0),
        ("warmup_s", 0.1),
    ] {
        assert_eq!(report[field].as_f64(), Some(value), "{field}");
    }
    let load = &report["loads"][0];
    assert_eq!(load["name"], "mobilenet");
    assert!(load["slo_ms"].is_f64() && load["rate"].is_f64(), "{load}");
    for policy in policies {
        assert_eq!(policy["requests"], policies[0]["requests"]);
        assert_eq!(policy["models"].as_array().expect("models").len(), 4);
        let figures = ["goodput", "attainment", "utilisation", "occupancy", "jain"];
        assert!(
            figures.iter().all(|figure| policy[figure].is_f64()),
            "{policy}"
        );
    }
}

#[test]
fn tables_say_that_they_are_simulated_and_csv_has_a_line_per_model() {
    let folder = scratch();
    let args = [
        &["--workload", "arv", "--saturated", "--policy", "fifo"][..],
        &SHORT,
    ]
    .concat();
    let table = simulate(&args, folder.path());
    let table = text(&table.stdout);
    assert!(
        table.starts_with("simulated on a synthetic profile of v100"),
        "{table}"
    );
    let csv = simulate(&[&args[..], &["--format", "csv"]].concat(), folder.path());
    let csv = text(&csv.stdout);
    let columns: Vec<usize> = csv.lines().map(|line| line.split(',').count()).collect();
    assert_eq!(columns, [16; 5], "{csv}");
}

#[test]
fn models_run_in_batches_that_the_profile_has_times_of() {
    let folder = scratch();
    let run = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../bench/runs/2026-11-21-x86_64-2cpu-policies/raw");
    // Profiled for batches of 1 to 8 of models that take 32.
    let [profile, workload] = ["six-profile.json", "six-workload.toml"].map(|name| run.join(name));
    let asks_more = fs::read_to_string(&workload).expect("committed").replacen(
        "[[model]]",
        "[[model]]\nmax_batch_size = 16",
        1,
    );
    fs::write(folder.path().join("more.toml"), asks_more).expect("written");
    let simulated = |workload: &str| {
        let profile = profile.to_str().expect("UTF-8");
        let of = ["--profile", profile, "--workload", workload];
        simulate(
            &[&of[..], &["--policy", "edf"], &SHORT].concat(),
            folder.path(),
        )
    };
    let output = simulated(workload.to_str().expect("UTF-8"));
    let note = text(&output.stderr);
    assert!(output.status.success(), "{note}");
    assert!(note.contains("runs in batches of at most 8"), "{note}");
    let output = simulated("more.toml");
    let error = text(&output.stderr);
    assert!(!output.status.success());
    assert!(
        error.contains("hint: `max_batch_size = 8` in the workload"),
        "{error}"
    );
}

#[test]
fn what_a_load_needs_is_found_and_what_cannot_be_held_is_said() {
    let folder = scratch();
    let of = |mix: &'static str| [&["--workload", mix, "--policy", "edf"][..], &SHORT].concat();
    let output = simulate(&of("c-7"), folder.path());
    let note = text(&output.stderr);
    // 112.7 % by the paper's table.
    assert!(note.contains("need 1.13 devices"), "{note}");
    let short = of("c-2");
    let report = json(
        &[&short[..], &["--find-capacity", "--seeds", "2"]].concat(),
        folder.path(),
    );
    assert_eq!(report["schema"], "fugato.capacity/1");
    let held = report["policies"][0]["multiple"]["mean"]
        .as_f64()
        .expect("some load is held");
    assert!(held > 0.0 && held < 1.0, "{held}");
    assert!(report["policies"][0]["multiple"]["interval"].is_f64());
    let report = json(
        &[&short[..], &["--find-devices", "16", "--seeds", "2"]].concat(),
        folder.path(),
    );
    let devices = report["policies"][0]["devices"].as_u64();
    let seeds = report["policies"][0]["seeds"].as_array().expect("a list");
    let most = seeds.iter().map(|seed| seed.as_u64()).max().expect("some");
    assert_eq!((seeds.len(), most), (2, devices), "the most of all seeds");
    assert!(
        devices.is_some_and(|devices| (2..=16).contains(&devices)),
        "{report}"
    );
}

#[test]
fn a_load_that_nothing_holds_says_by_how_much_and_why() {
    let folder = scratch();
    let workload = "duration = \"500ms\"\nwarmup = \"100ms\"\nseed = 7\n\n[[model]]\n\
                    name = \"alexnet\"\nslo = \"1ms\"\n\
                    arrivals = { kind = \"poisson\", rate = 4000.0 }\n";
    fs::write(folder.path().join("tight.toml"), workload).expect("writable");
    let of = |more: &[&'static str]| {
        let given = ["--workload", "tight.toml", "--profile", "v100-dstack"];
        [&given[..], &["--policy", "dstack"], more].concat()
    };
    let why = "note: `alexnet` cannot be in time: its fastest run on the device takes ";
    let capacity = of(&["--find-capacity", "--seeds", "2"]);
    let devices = of(&["--find-devices", "4", "--seeds", "2"]);
    for (args, what) in [
        (
            &capacity,
            "dstack does not hold 0.0010x the workload, the smallest multiple tried: ",
        ),
        (
            &devices,
            "dstack does not hold the workload on 4 devices, the most tried: ",
        ),
    ] {
        let output = simulate(args, folder.path());
        let (found, note) = (text(&output.stdout), text(&output.stderr));
        assert!(found.contains(what), "{found}");
        assert!(found.contains("0.00 % of all requests in time"), "{found}");
        assert!(found.contains("; least `alexnet` 0.00 %"), "{found}");
        assert!(note.contains(why), "{note}");
        assert!(note.contains(" ms (median), its SLO is 1.000 ms"), "{note}");
        let report = json(args, folder.path());
        let missed = &report["policies"][0]["missed"];
        assert_eq!(missed["attainment"], 0.0, "{report}");
        assert_eq!(missed["worst"]["name"], "alexnet", "{report}");
        let notes = report["notes"].as_array().expect("a list");
        let mut notes = notes.iter().filter_map(Value::as_str);
        assert!(notes.any(|said| said.starts_with("`alexnet` cannot be in time")));
    }
    let report = json(&of(&[]), folder.path());
    let said = report["notes"][0].as_str().expect("a note");
    assert!(said.starts_with("`alexnet` cannot be in time"), "{said}");
    // What is held says nothing of it.
    let held = [&["--workload", "c-2", "--policy", "edf"][..], &SHORT].concat();
    let held = [
        &held[..],
        &["--scale", "0.2", "--find-capacity", "--seeds", "1"],
    ]
    .concat();
    let report = json(&held, folder.path());
    assert_eq!(report["policies"][0]["missed"], Value::Null);
}

#[test]
fn what_of_a_mix_is_our_choice_is_said() {
    let folder = scratch();
    let args = [&["--workload", "C-7", "--policy", "fifo"][..], &SHORT].concat();
    let note = "mix c-7: all of the table but ResNeXt-50, which is our choice";
    let output = simulate(&args, folder.path());
    let said = text(&output.stderr);
    assert!(said.contains(&format!("note: {note}")), "{said}");
    let report = json(&args, folder.path());
    let notes = report["notes"].as_array().expect("a list");
    let mut notes = notes.iter().filter_map(Value::as_str);
    assert!(notes.next().is_some_and(|first| first.starts_with(note)));
    assert!(notes.any(|said| said.contains("misses are expected")));
}

#[test]
fn what_cannot_be_simulated_is_refused_by_name() {
    let folder = scratch();
    let unknown = "duration = \"1s\"\n[[model]]\nname = \"nobody\"\nslo = \"9ms\"\n\
                   arrivals = { kind = \"poisson\", rate = 1.0 }\n";
    fs::write(folder.path().join("load.toml"), unknown).expect("written");
    let file = ["--profile", "v100-dstack", "--workload", "load.toml"];
    let wrong = unknown.replace("\"9ms\"", "\"9 parsecs\"");
    fs::write(folder.path().join("wrong.toml"), wrong).expect("written");
    let cases: [(&[&str], &str); 12] = [
        (
            &file,
            "model `nobody` of the workload is not in the profile",
        ),
        (&["--workload", "load.toml"], "needs a profile"),
        (
            &["--workload", "c-9", "--profile", "convnet"],
            "`c-9` is no built-in mix",
        ),
        (
            &["--workload", "none.toml"],
            "`none.toml` is no built-in mix (c-2, c-3, c-4, c-7, arv, convnet) and no file",
        ),
        (
            &["--workload", "wrong.toml"],
            "error: workload `wrong.toml` is not valid",
        ),
        (
            &["--workload", "c-2", "--attainment", "0.9"],
            "`--attainment` needs `--find-capacity`",
        ),
        (
            &["--workload", "c-2", "--policy", "fifo"],
            "policy `fifo` is there twice",
        ),
        (
            &["--workload", "c-2", "--policy", "dstack:margin=99"],
            "`margin` of the policy is 99, expected 0 to 79",
        ),
        (&["--workload", "c-2", "--devices", "0"], "`--devices` is 0"),
        (
            &["--workload", "c-2", "--slices", "300"],
            "`--slices` is 300",
        ),
        (
            &["--workload", "c-2", "--legs", "100us"],
            "`--legs` is 100.0 us, expected at least 500.0 us",
        ),
        (
            &["--workload", "c-2", "--profile", "none.json"],
            "cannot read `none.json`",
        ),
    ];
    for (args, message) in cases {
        let output = simulate(&[args, &["--policy", "fifo"]].concat(), folder.path());
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let error = text(&output.stderr);
        assert!(error.contains(message), "{args:?} said {error}");
    }
    let output = simulate(&["--workload", "c-2", "--policy", "lifo"], folder.path());
    let error = text(&output.stderr);
    assert!(
        error.contains("policy is `lifo`, expected one of fifo, edf") && error.contains("ideal"),
        "{error}"
    );
    let output = simulate(
        &["--workload", "c-2", "--policy", "dstack:speed=work"],
        folder.path(),
    );
    assert!(text(&output.stderr).contains("`speed`"));
}

#[test]
fn what_ran_is_written_as_traces_pictures_and_a_page() {
    let folder = scratch();
    let args = [
        &["--workload", "c-2", "--policy", "edf,dstack:dynamic=false"][..],
        &["--timeline", "ran.json", "--plots", "pictures"],
        &["--report", "page.html", "--devices", "2"],
        &SHORT,
    ]
    .concat();
    let output = simulate(&args, folder.path());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).expect(name);
    for policy in ["edf", "dstack-dynamic-false"] {
        let trace = read(&format!("ran-{policy}.json"));
        let trace: Value = serde_json::from_str(&trace).expect("JSON");
        let events = trace["traceEvents"].as_array().expect("events");
        let ran: BTreeSet<(u64, &str)> = events
            .iter()
            .filter(|event| event["ph"] == "X")
            .filter_map(|event| Some((event["pid"].as_u64()?, event["name"].as_str()?)))
            .map(|(device, name)| (device, name.split(' ').next().unwrap_or(name)))
            .collect();
        let devices: BTreeSet<u64> = ran.iter().map(|(device, _)| *device).collect();
        let models: BTreeSet<&str> = ran.iter().map(|(_, model)| *model).collect();
        assert_eq!(
            (ran.len(), devices.len()),
            (2, 2),
            "a model on each: {ran:?}"
        );
        assert_eq!(models, BTreeSet::from(["alexnet", "mobilenet"]));
        assert!(read(&format!("pictures/space-time-{policy}.svg")).contains("<svg "));
    }
    let mut pictures: Vec<_> = fs::read_dir(folder.path().join("pictures"))
        .expect("a folder")
        .map(|file| file.expect("a file").file_name())
        .collect();
    pictures.sort();
    assert_eq!(pictures.len(), 4, "{pictures:?}");
    let page = read("page.html");
    assert!(page.contains("dstack:dynamic=false") && page.contains("imulated"));
    for words in [
        "c-2: mobilenet",
        "up to 2 tasks of a model",
        "20 us to launch",
        "dropped",
    ] {
        assert!(page.contains(words), "{words}");
    }
    let goodput = read("pictures/goodput.svg");
    assert!(goodput.contains("Goodput against load"), "{goodput}");
}

#[test]
fn models_are_cut_into_assumed_legs() {
    let folder = scratch();
    let cut = ["--workload", "arv", "--policy", "edf-legs", "--legs", "4ms"];
    let args = [&cut[..], &["--timeline", "ran.json"], &SHORT].concat();
    let output = simulate(&args, folder.path());
    let error = text(&output.stderr);
    assert!(output.status.success(), "{error}");
    assert!(
        error.contains("legs are an assumption, not a plan: alexnet 3, resnet50"),
        "{error}"
    );
    let trace = fs::read_to_string(folder.path().join("ran.json")).expect("written");
    let trace: Value = serde_json::from_str(&trace).expect("JSON");
    let events = trace["traceEvents"].as_array().expect("events");
    let longest = events
        .iter()
        .filter(|event| event["ph"] == "X")
        .filter_map(|event| event["dur"].as_f64())
        .fold(0.0, f64::max);
    assert!((500.0..=4_000.0).contains(&longest), "{longest} us");
}

#[test]
fn models_with_legs_run_whole_where_that_is_asked() {
    let folder = scratch();
    let path = folder.path().join("cut.json");
    let profile = v100_dstack().divided(Division {
        leg_max: Nanos::from_millis(2),
        seed: 1,
    });
    let file = serde_json::to_string(&profile).expect("it serialises");
    fs::write(&path, file).expect("written");
    let path = path.to_str().expect("UTF-8");
    let report = |flags: &[&str]| {
        let cut = ["--workload", "arv", "--policy", "edf-legs"];
        let report = json(&[&cut[..], flags, &SHORT].concat(), folder.path());
        report["policies"][0].clone()
    };
    let never_cut = report(&[]);
    assert_eq!(report(&["--profile", path, "--legs", "none"]), never_cut);
    assert_ne!(report(&["--profile", path]), never_cut);
}

/// A profile of two cores with legs that were measured, and a workload of one of its models.
fn lone_vgg19(folder: &Path) -> [String; 2] {
    let run = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../bench/runs/2026-11-22-x86_64-2cpu-batching-3/raw/batching-profile.json");
    let workload = folder.join("lone.toml");
    let text = "duration = \"9s\"\n[[model]]\nname = \"vgg19\"\nslo = \"5s\"\n\
                arrivals = { kind = \"poisson\", rate = 1.0 }\n";
    fs::write(&workload, text).expect("written");
    [run, workload].map(|path| path.to_str().expect("UTF-8").to_owned())
}

#[test]
fn a_lone_model_of_a_cpu_runs_in_one_go_and_its_trace_says_so() {
    let folder = scratch();
    let [profile, workload] = lone_vgg19(folder.path());
    let names = |policy: &str| {
        let args = [
            "--profile",
            &profile,
            "--workload",
            &workload,
            "--seed",
            "7",
        ];
        let args = [&args[..], &["--policy", policy, "--timeline", "ran.json"]].concat();
        let output = simulate(&args, folder.path());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let trace = fs::read_to_string(folder.path().join("ran.json")).expect("written");
        let trace: Value = serde_json::from_str(&trace).expect("JSON");
        let events = trace["traceEvents"].as_array().expect("events");
        let ran = events.iter().filter(|event| event["ph"] == "X");
        let names = ran.filter_map(|event| Some(event["name"].as_str()?.to_owned()));
        names.collect::<BTreeSet<_>>()
    };
    assert!(names("fugato").contains("vgg19 in one go"));
    let cut = BTreeSet::from(["vgg19".to_owned()]);
    assert_eq!(names("fugato:unsplit=false"), cut);
}

#[test]
fn the_largest_batch_of_all_models_is_a_flag() {
    let folder = scratch();
    let items = |flags: &[&str]| {
        let mix = [
            "--workload",
            "c-2",
            "--policy",
            "fugato",
            "--timeline",
            "it.json",
        ];
        let output = simulate(&[&mix[..], flags, &SHORT].concat(), folder.path());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let trace = fs::read_to_string(folder.path().join("it.json")).expect("written");
        let trace: Value = serde_json::from_str(&trace).expect("JSON");
        let events = trace["traceEvents"].as_array().expect("events");
        let batches = events
            .iter()
            .filter_map(|event| event["args"]["batch"].as_u64());
        batches.max().expect("something ran")
    };
    assert!(items(&[]) > 2);
    assert_eq!(items(&["--max-batch-size", "2"]), 2);
    assert_eq!(items(&["--max-batch-size", "1"]), 1);
    let args = [
        "--workload",
        "c-2",
        "--policy",
        "edf",
        "--max-batch-size",
        "0",
    ];
    let output = simulate(&args, folder.path());
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--max-batch-size"));
}

#[test]
fn ideal_on_several_devices_is_refused_before_the_work() {
    let folder = scratch();
    let args = [
        "--workload",
        "c-2",
        "--policy",
        "edf,ideal",
        "--find-devices",
        "4",
    ];
    let output = simulate(&[&args[..], &SHORT].concat(), folder.path());
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(
        error.contains("`ideal` has one device, and 4 were asked for"),
        "{error}"
    );
}

#[test]
fn a_trace_of_nothing_is_refused() {
    let folder = scratch();
    let args = ["--workload", "c-2", "--policy", "ideal", "--timeline", "it"];
    let output = simulate(&args, folder.path());
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("nothing to write"));
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    let folder = scratch();
    for flag in ["--timeline", "--plots", "--report"] {
        fs::write(folder.path().join("taken"), "").expect("written");
        let args = [
            &["--workload", "c-2", "--policy", "edf", flag, "taken/it"][..],
            &SHORT,
        ]
        .concat();
        let output = simulate(&args, folder.path());
        assert_eq!(output.status.code(), Some(2), "{flag}");
        let error = text(&output.stderr);
        assert!(error.contains("taken/it"), "{flag} said {error}");
        assert!(output.stdout.is_empty(), "{flag} is tried before the run");
    }
    let args = [
        "--workload",
        "c-2",
        "--policy",
        "edf,fifo",
        "--timeline",
        "ran.json",
    ];
    fs::create_dir(folder.path().join("ran-fifo.json")).expect("made");
    let output = simulate(&[&args[..], &SHORT].concat(), folder.path());
    assert!(text(&output.stderr).contains("ran-fifo.json"));
    assert!(
        !folder.path().join("ran-edf.json").exists(),
        "tried, and not left"
    );
}

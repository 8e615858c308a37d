//! What the sessions of a cut model add to the memory of the model in one piece. Alone in
//! its process, since it reads what the whole process holds.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{Bench, Rig, dense, random_rows, request};
use fugato_core::{ModelId, OperatorIndex};
use fugato_device::{Cuts, LoadOptions};

/// Width of the model's two layers, which have 16 MiB of weights each.
const WIDTH: i64 = 2048;

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kibibytes << 10
}

#[test]
fn parts_share_the_weights_of_the_model_in_one_piece() {
    let bench = Bench::new();
    let stored = bench.prepare(&dense(WIDTH));
    let rig = Rig::new();
    rig.load(1, &stored, 1);
    let work = || vec![request(1, vec![random_rows(1, 1, WIDTH as u64)])];
    let expected = rig.run(1, work()).unwrap();
    let count = stored.graph().unwrap().graph().operators().len();
    assert!(count > 1);
    let legs = u16::try_from(count).unwrap();
    let before = resident();
    for id in 2..6 {
        let each = (0..count).map(|place| vec![OperatorIndex::at(place)]);
        let options = LoadOptions {
            cuts: Some(Cuts::sequential(each)),
            ..LoadOptions::default()
        };
        let loaded = rig.device.load(ModelId(id), &stored, &options).unwrap();
        assert_eq!(loaded.legs, legs);
        assert_eq!(rig.run_legs(id, legs, work()).unwrap(), expected);
    }
    let added = resident().saturating_sub(before);
    // Four times over, and yet not the weights of one layer.
    assert!(added < 12 << 20, "parts added {added} bytes");
}

//! Recordings of real runs, replayed.

use crate::requests::{IDENTITY, ONE_FLOAT};
use crate::server::{Server, run};
use std::time::{Duration, Instant};

#[test]
fn a_recording_of_a_real_run_replays_to_the_same_hash() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let recording = folder.path().join("run.jsonl");
    let path = recording.to_str().expect("the path is text");
    for policy in ["fifo", "edf", "uncontrolled", "dstack"] {
        let server = Server::start(&["--record", path, "--policy", policy]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut connection = server.connect();
                    for _ in 0..50 {
                        connection.send(IDENTITY, &[], ONE_FLOAT.as_bytes());
                        assert_eq!(connection.receive().0, 200);
                    }
                });
            }
        });
        server.signal("TERM");
        assert_eq!(server.wait(), Some(0));
        let replayed = run(&["replay", path]);
        let text = String::from_utf8_lossy(&replayed.stdout).into_owned();
        assert_eq!(replayed.status.code(), Some(0), "{policy}: {text}");
        assert!(text.contains("the same"), "{policy}: {text}");
        // A changed recording must not pass.
        let lines = std::fs::read_to_string(&recording).expect("the recording is there");
        let changed: Vec<&str> = lines
            .lines()
            .filter(|line| !line.contains("leg_finished"))
            .take(40)
            .collect();
        let footer = lines.lines().last().expect("the recording has a footer");
        std::fs::write(&recording, format!("{}\n{footer}\n", changed.join("\n")))
            .expect("it can be written");
        let replayed = run(&["replay", path]);
        assert_ne!(
            replayed.status.code(),
            Some(0),
            "{policy}: a changed recording passed"
        );
    }
}

#[test]
fn the_recording_of_a_killed_server_replays_to_where_it_was_cut_off() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let recording = folder.path().join("run.jsonl");
    let path = recording.to_str().expect("the path is text");
    let server = Server::start(&["--record", path]);
    for _ in 0..3 {
        assert_eq!(server.post(IDENTITY, ONE_FLOAT).0, 200);
    }
    let read = || std::fs::read_to_string(&recording).expect("the recording can be read");
    let patience = Instant::now() + Duration::from_secs(60);
    while read().matches("leg_finished").count() < 3 {
        assert!(
            Instant::now() < patience,
            "what was served is not in the file"
        );
    }
    server.signal("KILL");
    assert_eq!(server.wait(), None);
    let whole = read();
    for length in [whole.len(), whole.len() - 20] {
        std::fs::write(&recording, &whole[..length]).expect("it can be written");
        let replayed = run(&["replay", path]);
        let text = String::from_utf8_lossy(&replayed.stdout).into_owned();
        let said = String::from_utf8_lossy(&replayed.stderr).into_owned();
        assert_eq!(replayed.status.code(), Some(0), "{text}{said}");
        assert!(text.contains("cut off"), "{text}");
    }
    // A report of a leg that nobody started.
    let line = |part| whole.lines().find(|line| line.contains(part));
    let lines = ["header", "leg_finished"].map(|part| line(part).expect("it is there"));
    std::fs::write(&recording, format!("{}\n", lines.join("\n"))).expect("it can be written");
    let replayed = run(&["replay", path]);
    let said = String::from_utf8_lossy(&replayed.stderr).into_owned();
    assert_eq!(replayed.status.code(), Some(2), "{said}");
    assert!(said.contains("line 2 of recording"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

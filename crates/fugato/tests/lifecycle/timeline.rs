//! The timeline of a real server, over HTTP and in its file.

use super::model::Repository;
use super::server::Server;
use serde_json::{Value, json};
use std::path::Path;

/// The legs of a trace: name of the model and time in microseconds.
fn legs(trace: &Value) -> Vec<(&str, f64)> {
    let events = trace["traceEvents"].as_array().expect("a list of events");
    let spans = events.iter().filter(|event| event["ph"] == "X");
    let leg = |event: &'_ Value| event["dur"].as_f64().expect("a length");
    spans
        .map(|event| (event["name"].as_str().expect("a name"), leg(event)))
        .collect()
}

fn read(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).expect("the file is there");
    serde_json::from_str(&text).expect("it is whole at any time")
}

#[tokio::test]
async fn what_ran_is_shown_and_kept() {
    let repository = Repository::new();
    repository.put_adder("a", 1, 1.0);
    repository.put_worker("b", 3, 1.0);
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("trace.json");
    let file = path.to_str().expect("UTF-8");
    let server = Server::start(&repository, &["--timeline", file]).await;
    assert!(read(&path)["traceEvents"].is_array(), "from the start");
    let mut client = server.client().await;
    for model in ["a", "b", "a"] {
        client.ask(model, "").await.expect("it is served");
    }
    let (status, _, trace) = server.http("/v2/timeline?seconds=3600", None).await;
    assert_eq!(status, 200, "{trace}");
    assert_eq!(trace["otherData"]["kind"], json!("measured"));
    assert_eq!(trace["otherData"]["legs_lost"], json!(0));
    let shown = legs(&trace);
    for model in ["a/1", "b/3"] {
        // Those that warmed it up are among them.
        let found = shown.iter().filter(|(name, _)| *name == model).count();
        assert!(found >= 2, "{model}: {shown:?}");
    }
    assert!(shown.iter().all(|(_, time)| *time > 0.0), "{shown:?}");
    for (query, parts) in [
        ("seconds=0", ["`seconds`", "`0`", "1 to 3600"]),
        ("seconds=-1", ["`seconds`", "`-1`", "1 to 3600"]),
        ("seconds=", ["`seconds`", "``", "1 to 3600"]),
        ("second=1", ["/v2/timeline", "`second`", "`seconds`"]),
    ] {
        let path = format!("/v2/timeline?{query}");
        let (status, label, error) = server.http(&path, None).await;
        assert_eq!(
            (status, &*label),
            (400, "invalid_value"),
            "{query}: {error}"
        );
        let text = error["error"].as_str().expect("a text");
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }
    // As Ctrl-C does.
    server.interrupt();
    assert_eq!(server.wait().await, Some(0));
    let kept = read(&path);
    assert!(legs(&kept).len() >= shown.len(), "{kept}");
    let files = std::fs::read_dir(folder.path()).expect("the folder is there");
    assert_eq!(files.count(), 1, "nothing else is left");
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_said_at_the_start() {
    let repository = Repository::new();
    let output = Server::refused(&repository, &["--timeline", "/no/such/folder/trace.json"]);
    assert!(output.contains("/no/such/folder/trace.json"), "{output}");
}

#[tokio::test]
async fn only_the_last_legs_are_kept_in_the_share_that_is_set() {
    let repository = Repository::new();
    repository.put_adder("a", 1, 1.0);
    let folder = tempfile::tempdir().expect("a folder can be made");
    let toml = folder.path().join("fugato.toml");
    let text = "[telemetry]\ntimeline_legs = 3\n[scheduler]\npolicy = \"uncontrolled\"\n\
                [policy.uncontrolled]\nshare = 1\n";
    std::fs::write(&toml, text).expect("a file");
    let toml = toml.to_str().expect("UTF-8");
    let server = Server::start(&repository, &["--config", toml]).await;
    let mut client = server.client().await;
    for _ in 0..20 {
        client.ask("a", "").await.expect("it is served");
    }
    let (_, _, trace) = server.http("/v2/timeline", None).await;
    let events = trace["traceEvents"].as_array().expect("a list");
    let mut tasks: Vec<&Value> = events.iter().map(|event| &event["args"]["task"]).collect();
    tasks.retain(|task| task.is_u64());
    tasks.dedup();
    assert_eq!(tasks.len(), 3, "{trace}");
    let shares = events
        .iter()
        .filter_map(|event| event["args"]["share"].as_u64());
    assert!(shares.into_iter().all(|share| share == 1), "{trace}");
    let lost = trace["otherData"]["legs_lost"].as_u64();
    assert!(lost >= Some(17), "{lost:?}");
    assert_eq!(server.stop().await, Some(0));
}

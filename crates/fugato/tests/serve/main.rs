//! The server as its users run it: the binary, real models, real sockets, signals.

mod collector;
mod fixtures;
mod plans;
mod profiles;
mod recordings;
mod requests;
mod server;
mod stopping;

use collector::Collector;
use fixtures::fixtures;
use requests::{IDENTITY, ONE_FLOAT, RESNET, images};
use server::{Connection, Server, run};

#[test]
fn broken_models_are_not_ready_and_the_others_serve() {
    let server = Server::start(&[]);
    let (status, body) = server.post(IDENTITY, ONE_FLOAT);
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("2.5"), "{body}");
    for name in ["broken", "empty"] {
        let (status, body) = server.post(&format!("/v2/models/{name}/infer"), ONE_FLOAT);
        assert_eq!(status, 503, "{body}");
        assert!(body.contains(name) && body.contains("not ready"), "{body}");
        let root = fixtures().to_str().expect("the path is text");
        assert!(!body.contains(root) && !body.contains(".cc:"), "{body}");
    }
    let (status, body) = server.post("/v2/models/nothing/infer", ONE_FLOAT);
    assert_eq!((status, body.contains("nothing")), (404, true), "{body}");
    let (status, body) = server.post("/v2/models/identity/versions/9/infer", ONE_FLOAT);
    assert_eq!((status, body.contains('9')), (404, true), "{body}");
    let (status, body) = server.post("/v2/repository/index", "");
    assert_eq!(status, 200);
    assert!(
        body.contains("UNAVAILABLE") && body.contains("READY"),
        "{body}"
    );
    let root = fixtures().to_str().expect("the path is text");
    assert!(
        body.contains("`model.onnx`") && !body.contains(root),
        "{body}"
    );
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));
}

#[test]
fn rows_of_different_clients_are_never_mixed() {
    let server = Server::start(&[]);
    let mut clients: Vec<Connection> = (0..16).map(|_| server.connect()).collect();
    for _ in 0..20 {
        for client in &mut clients {
            client.send("/v2/models/mixing/infer", &[], ONE_FLOAT.as_bytes());
        }
        for client in &mut clients {
            let (status, body) = client.receive();
            assert_eq!(status, 200, "{body}");
            let reply: serde_json::Value = serde_json::from_str(&body).expect("it is JSON");
            assert_eq!(reply["outputs"][0]["data"][0].as_f64(), Some(1.0), "{body}");
        }
    }
    // Rows of one client are mixed as the model says.
    let two = r#"{"inputs":[{"name":"input","shape":[2,1],"datatype":"FP32","data":[0,0]}]}"#;
    let (status, body) = server.post("/v2/models/mixing/infer", two);
    assert_eq!((status, body.contains("0.5")), (200, true), "{body}");
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));
}

#[test]
fn an_owner_vouches_for_one_model_or_for_all() {
    let largest = |server: &Server, model: &str| {
        let mut connection = server.connect();
        connection.get(&format!("/v2/models/{model}/config"));
        let (status, body) = connection.receive();
        assert_eq!(status, 200, "{body}");
        let config: serde_json::Value = serde_json::from_str(&body).expect("it is JSON");
        config["max_batch_size"].as_i64().expect("it is a number")
    };
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("fugato.toml");
    for (text, expected) in [
        ("", [0, 0]),
        ("[model.vouched]\nmax_batch_size = 4\n", [0, 4]),
        ("[defaults]\nassume_batchable = true\n", [32, 32]),
    ] {
        std::fs::write(&path, text).expect("a file can be written");
        let server = Server::start(&["--config", path.to_str().expect("the path is text")]);
        let found = ["mixing", "vouched"].map(|name| largest(&server, name));
        assert_eq!(found, expected, "with {text:?}");
        server.signal("TERM");
        assert_eq!(server.wait(), Some(0));
    }
}

#[test]
fn a_section_for_a_model_that_is_not_there_is_refused() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("fugato.toml");
    let file_text = file.to_str().expect("the path is text");
    std::fs::write(&file, "[model.resnet-18]\nslo = \"50ms\"\n").expect("it can be written");
    let models = fixtures().join("models");
    let models = models.to_str().expect("the path is text");
    let ports = [
        "--http-port",
        "0",
        "--grpc-port",
        "0",
        "--metrics-port",
        "0",
    ];
    for (subcommand, code) in [("serve", 2), ("doctor", 1)] {
        let arguments = [
            subcommand,
            "--model-repository",
            models,
            "--config",
            file_text,
        ];
        let output = run(&[&arguments[..], &ports].concat());
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert_eq!(output.status.code(), Some(code), "{subcommand}: {said}");
        for part in ["[model.resnet-18]", file_text, "`resnet18`"] {
            assert!(said.contains(part), "{subcommand}: no {part} in: {said}");
        }
    }
}

#[test]
fn what_cannot_start_says_why() {
    let models = fixtures().join("models");
    let models = models.to_str().expect("the path is text");
    let cases: [(&[&str], &str); 5] = [
        (
            &["--model-repository", models, "--policy", "fastest"],
            "fastest",
        ),
        (&["--model-repository", "nowhere-at-all"], "nowhere-at-all"),
        (
            &[
                "--model-repository",
                models,
                "--onnxruntime",
                "nowhere-at-all.so",
            ],
            "nowhere-at-all.so",
        ),
        (&["--no-such-flag"], "--no-such-flag"),
        (&[], "--model-repository"),
    ];
    for (arguments, named) in cases {
        let ports = [
            "--http-port",
            "0",
            "--grpc-port",
            "0",
            "--metrics-port",
            "0",
        ];
        let output = run(&[&["serve"], arguments, &ports].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(named), "{arguments:?}: {said}");
    }
}

#[test]
fn a_request_is_explained_by_its_id() {
    let server = Server::start(&[]);
    let explain = |model: &str, id: &str| -> (u16, serde_json::Value) {
        let mut connection = server.connect();
        connection.get(&format!("/v2/models/{model}/explain/{id}"));
        let (status, body) = connection.receive();
        (
            status,
            serde_json::from_str(&body).expect("an explanation is JSON"),
        )
    };
    let named = ONE_FLOAT.replacen('{', r#"{"id":"good","#, 1);
    assert_eq!(server.post(IDENTITY, &named).0, 200);
    let (status, good) = explain("identity", "good");
    assert_eq!(status, 200, "{good}");
    assert_eq!(good["state"], "ended", "{good}");
    assert_eq!(good["outcome"], "ok", "{good}");
    let leg = &good["legs"][0];
    let at = |value: &serde_json::Value| value.as_i64().expect("a time in microseconds");
    let (issued, started) = (at(&leg["issued_us"]), at(&leg["started_us"]));
    let (ended, replied) = (at(&leg["ended_us"]), at(&good["ended_us"]));
    assert!(
        0 <= issued && issued <= started && started <= ended && ended <= replied,
        "{good}"
    );

    // The model takes tens of milliseconds, as its warm-up has shown.
    let (json_length, mut body) = images(1);
    let slo = r#"{"id":"bad","parameters":{"slo_us":1000},"#;
    body.splice(..1, slo.bytes());
    let json_length = json_length.parse::<usize>().expect("a length") - 1 + slo.len();
    let mut connection = server.connect();
    let header = ("inference-header-content-length", &*json_length.to_string());
    connection.send(RESNET, &[header], &body);
    let (status, text) = connection.receive();
    assert!(status == 503 || status == 504, "{status}: {text}");
    let (_, bad) = explain("resnet18", "bad");
    assert_ne!(bad["outcome"], "ok", "{bad}");
    assert!(
        text.contains(bad["reason"].as_str().expect("a reason")),
        "{bad}"
    );
    let kind = bad["constraint"]["kind"].as_str().expect("a constraint");
    assert!(["deadline", "expired"].contains(&kind), "{bad}");
    assert!(at(&bad["constraint"]["by_us"]) > 0, "{bad}");

    let (status, unknown) = explain("identity", "bad");
    assert_eq!(status, 404, "it was a request to another model: {unknown}");
    assert_eq!(explain("nothing", "good").0, 404);
}

#[test]
fn a_clients_trace_goes_on_through_the_legs() {
    let collector = Collector::start();
    let folder = tempfile::tempdir().expect("a folder can be made");
    let settings = folder.path().join("fugato.toml");
    let text = format!(
        "[telemetry]\ntrace = true\ntrace_rate = 1000000\notlp_endpoint = \"{}\"\n",
        collector.url
    );
    std::fs::write(&settings, text).expect("a file can be written");
    let server = Server::start(&["--config", settings.to_str().expect("UTF-8")]);
    let mut connection = server.connect();
    let traced = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let body = ONE_FLOAT.replacen('{', r#"{"id":"seen","#, 1);
    connection.send(IDENTITY, &[("traceparent", traced)], body.as_bytes());
    assert_eq!(connection.receive().0, 200);
    // The last spans are sent when the server stops.
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));

    let mut spans: Vec<_> = collector.spans.try_iter().collect();
    let trace_id = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes();
    // A run to warm a model up may be traced, too; it has a trace of its own.
    spans.retain(|span| span.trace_id == trace_id);
    let find = |name: &str| {
        let found = spans.iter().find(|span| span.name == name);
        found.unwrap_or_else(|| panic!("no span `{name}`: {spans:#?}"))
    };
    let (request, queue, leg) = (find("infer"), find("queue"), find("leg 0"));
    assert_eq!(spans.len(), 3, "{spans:#?}");
    let client = 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes();
    assert_eq!(request.parent_span_id, client);
    for child in [queue, leg] {
        assert_eq!(child.parent_span_id, request.span_id, "{child:#?}");
    }
    let times = [
        request.start_time_unix_nano,
        queue.start_time_unix_nano,
        queue.end_time_unix_nano,
        leg.start_time_unix_nano,
        leg.end_time_unix_nano,
        request.end_time_unix_nano,
    ];
    assert!(times.is_sorted(), "{times:?}");
    let names: Vec<&str> = leg
        .attributes
        .iter()
        .map(|value| value.key.as_str())
        .collect();
    for name in ["fugato.lane", "fugato.partition", "fugato.batch_size"] {
        assert!(names.contains(&name), "{names:?}");
    }
}

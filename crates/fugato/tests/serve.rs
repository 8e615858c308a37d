//! The server as its users run it: the binary, real models, real sockets, signals.

#[path = "serve/collector.rs"]
mod collector;
#[path = "serve/plans.rs"]
mod plans;
#[path = "serve/profiles.rs"]
mod profiles;

use collector::Collector;
use fugato_onnx::proto::tensor_shape_proto::Dimension;
use fugato_onnx::proto::{AttributeProto, OperatorSetIdProto, ValueInfoProto};
use fugato_onnx::{
    DataType, ExternalPolicy, GraphProto, ModelProto, NodeProto, TensorProto, save_model,
};
use fugato_zoo::{Recipe, write_repository};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Models and store shared by the tests of this file, made once.
fn fixtures() -> &'static Path {
    static FIXTURES: OnceLock<PathBuf> = OnceLock::new();
    FIXTURES.get_or_init(|| {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("serve");
        let names = ["identity", "resnet18", "squeezenet1_1"];
        write_repository(&root.join("models"), &names, Recipe::seeded(1), &mut |_| {})
            .expect("the zoo can be written");
        for (name, bytes) in [("broken", &b"this is no model"[..]), ("empty", &b""[..])] {
            let folder = root.join("models").join(name).join("1");
            std::fs::create_dir_all(&folder).expect("a folder can be made");
            std::fs::write(folder.join("model.onnx"), bytes).expect("a file can be written");
        }
        for name in ["mixing", "vouched"] {
            let folder = root.join("models").join(name).join("1");
            std::fs::create_dir_all(&folder).expect("a folder can be made");
            let path = folder.join("model.onnx");
            save_model(&softmax_over_the_batch(), &path, ExternalPolicy::Never)
                .expect("a model can be written");
        }
        let folder = root.join("models").join("forked").join("1");
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        save_model(&forked(), &folder.join("model.onnx"), ExternalPolicy::Never)
            .expect("a model can be written");
        root
    })
}

/// Two like convolutions of one input, the second with a bias of ones; their outputs side by
/// side.
fn forked() -> ModelProto {
    let value = |name: &str, channels: i64| {
        let sizes = [channels, 4, 4].map(Dimension::size);
        let dims = std::iter::once(Dimension::symbol("batch")).chain(sizes);
        ValueInfoProto::tensor(name, DataType::Float, dims.collect())
    };
    let convolution = |name: &str| {
        let (filter, bias) = (format!("{name}_filter"), format!("{name}_bias"));
        NodeProto::new(name, "Conv", &["input", &filter, &bias], &[name])
    };
    let concat = NodeProto::new("concat", "Concat", &["one", "other"], &["output"]);
    let filter = |name: &str, step: f32| {
        let values: Vec<f32> = (0..32 * 32).map(|at| (at as f32 * step).sin()).collect();
        TensorProto::from_f32s(name, &[32, 32, 1, 1], &values)
    };
    ModelProto {
        ir_version: Some(9),
        opset_import: vec![OperatorSetIdProto {
            domain: Some(String::new()),
            version: Some(17),
        }],
        graph: Some(GraphProto {
            name: Some("graph".to_owned()),
            node: vec![
                convolution("one"),
                convolution("other"),
                concat.with([AttributeProto::int("axis", 1)]),
            ],
            input: vec![value("input", 32)],
            output: vec![value("output", 64)],
            initializer: vec![
                filter("one_filter", 0.7),
                filter("other_filter", 1.3),
                TensorProto::from_f32s("one_bias", &[32], &[0.0; 32]),
                TensorProto::from_f32s("other_bias", &[32], &[1.0; 32]),
            ],
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    }
}

/// A model whose rows depend on each other, though its first dimensions share a name.
fn softmax_over_the_batch() -> ModelProto {
    let value = |name: &str| {
        let dims = vec![Dimension::symbol("batch"), Dimension::size(1)];
        ValueInfoProto::tensor(name, DataType::Float, dims)
    };
    let softmax = NodeProto::new("softmax", "Softmax", &["input"], &["output"]);
    ModelProto {
        ir_version: Some(9),
        opset_import: vec![OperatorSetIdProto {
            domain: Some(String::new()),
            version: Some(17),
        }],
        graph: Some(GraphProto {
            name: Some("graph".to_owned()),
            node: vec![softmax.with([AttributeProto::int("axis", 0)])],
            input: vec![value("input")],
            output: vec![value("output")],
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    }
}

struct Server {
    child: Child,
    http: String,
    metrics: String,
    _folder: tempfile::TempDir,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let ready = folder.path().join("ready.json");
        let child = command(&ready)
            .args(arguments)
            .spawn()
            .expect("the binary runs");
        let mut server = Self {
            child,
            http: String::new(),
            metrics: String::new(),
            _folder: folder,
        };
        server.wait_until_ready(&ready);
        server
    }

    /// Waits for the ready file; a server that ended instead has said why.
    fn wait_until_ready(&mut self, ready: &Path) {
        let patience = Instant::now() + Duration::from_secs(120);
        loop {
            if let Ok(text) = std::fs::read_to_string(ready) {
                let json: serde_json::Value =
                    serde_json::from_str(&text).expect("the ready file is JSON");
                self.http = json["http"].as_str().expect("HTTP is served").to_owned();
                self.metrics = json["metrics"]
                    .as_str()
                    .expect("metrics are served")
                    .to_owned();
                return;
            }
            if let Some(status) = self.child.try_wait().expect("the child can be asked") {
                panic!("the server ended before it was ready: {status}");
            }
            assert!(
                Instant::now() < patience,
                "the server is not ready after 120 s"
            );
            std::thread::yield_now();
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill")
            .args(["-s", name, &pid])
            .status()
            .expect("kill runs");
        assert!(sent.success());
    }

    /// Waits for the end; gives the exit code.
    fn wait(mut self) -> Option<i32> {
        self.child
            .wait()
            .expect("the child can be waited for")
            .code()
    }

    fn connect(&self) -> Connection {
        Connection::to(&self.http)
    }

    fn post(&self, path: &str, body: &str) -> (u16, String) {
        let mut connection = self.connect();
        connection.send(path, &[], body.as_bytes());
        connection.receive()
    }

    /// The value of one metric, by the beginning of its line.
    fn metric(&self, line: &str) -> f64 {
        let mut connection = Connection::to(&self.metrics);
        connection.get("/metrics");
        let (_, text) = connection.receive();
        let found = text.lines().find_map(|known| known.strip_prefix(line));
        found.map_or(0.0, |value| {
            value.trim().parse().expect("a metric is a number")
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Where a test failed; otherwise it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(ready: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fugato"));
    command
        .arg("serve")
        .arg("--model-repository")
        .arg(fixtures().join("models"));
    command.arg("--model-store").arg(fixtures().join("store"));
    command.args([
        "--http-port",
        "0",
        "--grpc-port",
        "0",
        "--metrics-port",
        "0",
    ]);
    command.arg("--ready-file").arg(ready).stdin(Stdio::null());
    command
}

/// A bare HTTP/1.1 connection: what it sends is what the test says.
struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    fn to(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .expect("a timeout can be set");
        Self {
            stream: BufReader::new(stream),
        }
    }

    fn send(&mut self, path: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut head = format!(
            "POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let stream = self.stream.get_mut();
        stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(body))
            .expect("the server reads");
    }

    fn get(&mut self, path: &str) {
        let head = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
        self.stream
            .get_mut()
            .write_all(head.as_bytes())
            .expect("the server reads");
    }

    /// The status and body of one reply.
    fn receive(&mut self) -> (u16, String) {
        let mut status = String::new();
        self.stream
            .read_line(&mut status)
            .expect("the server answers");
        let code = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let code = code.unwrap_or_else(|| panic!("no status line: {status:?}"));
        let mut length = 0;
        loop {
            let mut header = String::new();
            self.stream
                .read_line(&mut header)
                .expect("the head is complete");
            let header = header.trim().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length is a number");
            }
        }
        let mut body = vec![0; length];
        self.stream
            .read_exact(&mut body)
            .expect("the body is complete");
        (code, String::from_utf8_lossy(&body).into_owned())
    }
}

/// Bytes of the tensor in a batch of 8 images.
const IMAGES_BYTES: f64 = (8 * 3 * 224 * 224 * 4) as f64;

/// A batch of images for `resnet18`, slow enough to be caught in flight.
fn images(items: usize) -> (String, Vec<u8>) {
    let bytes = items * 3 * 224 * 224 * 4;
    let json = format!(
        r#"{{"inputs":[{{"name":"input","shape":[{items},3,224,224],"datatype":"FP32","parameters":{{"binary_data_size":{bytes}}}}}]}}"#
    );
    let length = json.len().to_string();
    let mut body = json.into_bytes();
    body.resize(body.len() + bytes, 0);
    (length, body)
}

const RESNET: &str = "/v2/models/resnet18/infer";
const IDENTITY: &str = "/v2/models/identity/infer";
const ONE_FLOAT: &str =
    r#"{"inputs":[{"name":"input","shape":[1,1],"datatype":"FP32","data":[2.5]}]}"#;

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

/// Six slow requests that the server has accepted.
fn six_in_flight(server: &Server) -> Vec<Connection> {
    let (json_length, body) = images(8);
    let mut connections: Vec<Connection> = (0..6).map(|_| server.connect()).collect();
    for connection in &mut connections {
        connection.send(
            RESNET,
            &[("inference-header-content-length", &json_length)],
            &body,
        );
    }
    let model = r#"model="resnet18",version="1""#;
    let patience = Instant::now() + Duration::from_secs(60);
    let accepted = || {
        let held = server.metric(&format!("fugato_request_held_bytes{{{model}}}"));
        held / IMAGES_BYTES
            + server.metric(&format!(r#"fugato_requests_total{{{model},outcome="ok"}}"#))
    };
    while accepted() < 6.0 {
        assert!(
            Instant::now() < patience,
            "{} of 6 requests are accepted",
            accepted()
        );
    }
    connections
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
fn sigterm_answers_what_was_accepted_and_takes_nothing_new() {
    let server = Server::start(&[]);
    let mut connections = six_in_flight(&server);
    server.signal("TERM");
    for connection in &mut connections[1..] {
        let (status, reply) = connection.receive();
        assert_eq!(status, 200, "an accepted request was lost: {reply:.200}");
    }
    assert_eq!(server.wait(), Some(0));
}

#[test]
fn a_repeated_signal_loses_nothing() {
    // As `timeout -s TERM` sends it: to the process, then to its group; and as a terminal
    // and a supervisor both pass on one key press.
    for repeated in ["TERM", "INT"] {
        let server = Server::start(&[]);
        let mut connections = six_in_flight(&server);
        server.signal("TERM");
        server.signal(repeated);
        for connection in &mut connections {
            let (status, reply) = connection.receive();
            assert_eq!(status, 200, "an accepted request was lost: {reply:.200}");
        }
        assert_eq!(server.wait(), Some(0), "TERM, then {repeated}");
    }
}

#[test]
fn a_person_who_insists_does_not_wait_for_the_drain() {
    let mut server = Server::start(&[]);
    // A request that never arrives in full holds the drain.
    let mut connection = server.connect();
    let head = format!("POST {IDENTITY} HTTP/1.1\r\nhost: test\r\ncontent-length: 9\r\n\r\n{{");
    connection
        .stream
        .get_mut()
        .write_all(head.as_bytes())
        .expect("the server reads");
    server.post(IDENTITY, ONE_FLOAT);
    server.signal("INT");
    let patience = Instant::now() + Duration::from_secs(60);
    let ended = loop {
        if let Some(status) = server.child.try_wait().expect("the child can be asked") {
            break status;
        }
        assert!(Instant::now() < patience, "SIGINT is ignored for 60 s");
        server.signal("INT");
    };
    assert_eq!(ended.code(), Some(130));
}

#[test]
fn a_client_that_goes_away_frees_its_place() {
    let server = Server::start(&[]);
    let (json_length, body) = images(8);
    let headers = [("inference-header-content-length", json_length.as_str())];
    for _ in 0..6 {
        let mut connection = server.connect();
        connection.send(RESNET, &headers, &body);
        drop(connection);
    }
    // What is left in the end holds nothing, and the next request is served.
    let mut connection = server.connect();
    connection.send(RESNET, &headers, &body);
    assert_eq!(connection.receive().0, 200);
    let model = r#"{model="resnet18",version="1"}"#;
    let patience = Instant::now() + Duration::from_secs(30);
    while server.metric(&format!("fugato_request_held_bytes{model}")) > 0.0 {
        assert!(
            Instant::now() < patience,
            "bytes of clients that went away are held"
        );
    }
    let ended =
        server.metric(r#"fugato_requests_total{model="resnet18",version="1",outcome="ok"}"#);
    assert!(
        ended < 7.0,
        "all {ended} requests were run to the end for nobody"
    );
    server.signal("INT");
    assert_eq!(server.wait(), Some(0));
}

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

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fugato"))
        .args(arguments)
        .output()
        .expect("the binary runs")
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

//! The binary: run once, or as a server that is asked over real sockets.

use crate::fixtures::fixtures;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub(crate) fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fugato"))
        .args(arguments)
        .output()
        .expect("the binary runs")
}

pub(crate) struct Server {
    pub(crate) child: Child,
    http: String,
    metrics: String,
    _folder: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start(arguments: &[&str]) -> Self {
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

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill")
            .args(["-s", name, &pid])
            .status()
            .expect("kill runs");
        assert!(sent.success());
    }

    /// Waits for the end; gives the exit code.
    pub(crate) fn wait(mut self) -> Option<i32> {
        self.child
            .wait()
            .expect("the child can be waited for")
            .code()
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::to(&self.http)
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> (u16, String) {
        let mut connection = self.connect();
        connection.send(path, &[], body.as_bytes());
        connection.receive()
    }

    /// The value of one metric, by the beginning of its line.
    pub(crate) fn metric(&self, line: &str) -> f64 {
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

pub(crate) fn command(ready: &Path) -> Command {
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
pub(crate) struct Connection {
    pub(crate) stream: BufReader<TcpStream>,
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

    pub(crate) fn send(&mut self, path: &str, headers: &[(&str, &str)], body: &[u8]) {
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

    pub(crate) fn get(&mut self, path: &str) {
        let head = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
        self.stream
            .get_mut()
            .write_all(head.as_bytes())
            .expect("the server reads");
    }

    /// The status and body of one reply.
    pub(crate) fn receive(&mut self) -> (u16, String) {
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

//! A server process, and clients of it.

use super::model::Repository;
use fugato::server::proto::grpc_inference_service_client::GrpcInferenceServiceClient;
use fugato::server::proto::model_infer_request::InferInputTensor;
use fugato::server::proto::model_repository_parameter::ParameterChoice;
use fugato::server::proto::{
    ModelInferRequest, ModelRepositoryParameter, RepositoryIndexRequest,
    RepositoryModelLoadRequest, RepositoryModelUnloadRequest,
};
use serde_json::Value;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Status;
use tonic::transport::Channel;

/// What tests wait for takes milliseconds; this long only where something is wrong.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Server {
    child: Child,
    /// Of gRPC, HTTP and the metrics.
    addresses: [String; 3],
    folder: tempfile::TempDir,
}

/// The name of the ready file.
const READY: &str = "ready.json";

/// A command that serves `repository` on free ports and keeps its files in `folder`.
pub(crate) fn command(repository: &Repository, folder: &Path) -> Command {
    // A release binary where one is given, for measurements.
    let binary = std::env::var_os("FUGATO_TEST_BINARY");
    let mut command = Command::new(binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_fugato").into()));
    command.arg("serve");
    command.arg("--model-repository").arg(repository.path());
    command.arg("--model-store").arg(folder.join("store"));
    for port in ["--http-port", "--grpc-port", "--metrics-port"] {
        command.args([port, "0"]);
    }
    // What is measured in idle gaps takes memory of its own, at its own times.
    command.env("FUGATO_PROFILE_ONLINE_SHARE", "0");
    command
}

impl Server {
    pub(crate) async fn start(repository: &Repository, arguments: &[&str]) -> Self {
        Self::start_with(repository, arguments, |_| {}).await
    }

    /// Starts a server by a command that is changed before.
    pub(crate) async fn start_with(
        repository: &Repository,
        arguments: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let mut command = command(repository, folder.path());
        command.arg("--ready-file").arg(folder.path().join(READY));
        command.args(arguments).stdin(Stdio::null());
        change(&mut command);
        let mut server = Self {
            child: command.spawn().expect("the binary runs"),
            addresses: Default::default(),
            folder,
        };
        server.wait_until_ready().await;
        server
    }

    /// What a server says that cannot start.
    pub(crate) fn refused(repository: &Repository, arguments: &[&str]) -> String {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let mut command = command(repository, folder.path());
        let output = command.args(arguments).stdin(Stdio::null()).output();
        let output = output.expect("the binary runs");
        assert!(!output.status.success(), "it serves");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Waits for the ready file.
    pub(crate) async fn wait_until_ready(&mut self) {
        let patience = Instant::now() + PATIENCE;
        loop {
            if let Ok(text) = std::fs::read_to_string(self.folder.path().join(READY)) {
                let json: Value = serde_json::from_str(&text).expect("the ready file is JSON");
                let at = |port: &str| json[port].as_str().expect("it is served").to_owned();
                self.addresses = ["grpc", "http", "metrics"].map(at);
                return;
            }
            if let Some(status) = self.child.try_wait().expect("the child can be asked") {
                panic!("the server ended before it was ready: {status}");
            }
            assert!(Instant::now() < patience, "the server is not ready");
            tokio::task::yield_now().await;
        }
    }

    /// Of gRPC, HTTP and the metrics.
    pub(crate) fn addresses(&self) -> [String; 3] {
        self.addresses.clone()
    }

    /// Of HTTP.
    pub(crate) fn address(&self) -> &str {
        &self.addresses[1]
    }

    /// The status of what answers without a body.
    pub(crate) async fn status(&self, path: &str) -> u16 {
        let reply = ask(self.address(), path, None).await;
        let code = reply.split(' ').nth(1).and_then(|code| code.parse().ok());
        code.expect("a status")
    }

    /// The value of a metric without labels.
    pub(crate) async fn metric(&self, name: &str) -> String {
        let reply = ask(&self.addresses[2], "/metrics", None).await;
        let line = reply.lines().find_map(|line| line.strip_prefix(name));
        line.expect(&reply).trim().to_owned()
    }

    pub(crate) async fn client(&self) -> Client {
        let channel = Channel::from_shared(format!("http://{}", self.addresses[0]))
            .expect("an address")
            .connect()
            .await
            .expect("it listens");
        Client(GrpcInferenceServiceClient::new(channel))
    }

    /// Asks over HTTP, with a body or without; gives the status, the label of the error and
    /// the JSON of the reply.
    pub(crate) async fn http(&self, path: &str, body: Option<&str>) -> (u16, String, Value) {
        let text = ask(self.address(), path, body).await;
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        let label = head
            .lines()
            .find_map(|line| line.strip_prefix("fugato-error: "));
        let json = serde_json::from_str(body).expect(body);
        (
            status.expect("a status"),
            label.unwrap_or_default().to_owned(),
            json,
        )
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Bytes of memory that are the server's share: of all (Pss), and of what is of no file
    /// (its heap and stacks), which other processes that map the same library do not change.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let path = format!("/proc/{}/smaps_rollup", self.pid());
        let text = std::fs::read_to_string(path).expect("the server runs");
        let bytes = |name: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
            1024 * kib.and_then(|kib| kib.parse::<u64>().ok()).expect(name)
        };
        (bytes("Pss:"), bytes("Pss_Anon:"))
    }

    pub(crate) fn terminate(&self) {
        self.signal("TERM");
    }

    pub(crate) fn interrupt(&self) {
        self.signal("INT");
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args(["-s", name, &self.pid().to_string()])
            .status()
            .expect("kill runs");
        assert!(sent.success());
    }

    /// Stops the server; gives the exit code.
    pub(crate) async fn stop(self) -> Option<i32> {
        self.terminate();
        self.wait().await
    }

    /// Waits for the end; gives the exit code. Does not block, so that clients can let go
    /// of their connections.
    pub(crate) async fn wait(mut self) -> Option<i32> {
        loop {
            if let Some(ended) = self.child.try_wait().expect("the child can be asked") {
                return ended.code();
            }
            tokio::task::yield_now().await;
        }
    }
}

/// One HTTP request, as [`Server::http`] sends it; gives the whole reply.
async fn ask(address: &str, path: &str, body: Option<&str>) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let (method, body) = match body {
        Some(body) => ("POST", body),
        None => ("GET", ""),
    };
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
    let sent = stream.write_all(request.as_bytes()).await;
    sent.expect("the request can be sent");
    let mut text = String::new();
    let read = stream.read_to_string(&mut text).await;
    read.expect("the reply is text");
    text
}

impl Drop for Server {
    fn drop(&mut self) {
        // Where a test failed; otherwise it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One connection.
#[derive(Clone)]
pub(crate) struct Client(GrpcInferenceServiceClient<Channel>);

impl Client {
    /// Asks a model with one row of zeros of `row`; gives the bytes of its answer.
    pub(crate) async fn ask_zeros(&mut self, model: &str, row: &[i64]) -> Result<usize, Status> {
        let elements: i64 = row.iter().product();
        let bytes = 4 * usize::try_from(elements).expect("it is positive");
        let input = InferInputTensor {
            name: "input".to_owned(),
            datatype: "FP32".to_owned(),
            shape: [&[1], row].concat(),
            ..Default::default()
        };
        let request = ModelInferRequest {
            model_name: model.to_owned(),
            inputs: vec![input],
            raw_input_contents: vec![vec![0; bytes].into()],
            ..Default::default()
        };
        let reply = self.0.model_infer(request).await?.into_inner();
        Ok(reply
            .raw_output_contents
            .iter()
            .map(bytes::Bytes::len)
            .sum())
    }

    /// What the model adds to its input, by the answer to one request; and the version
    /// that answered.
    pub(crate) async fn ask(
        &mut self,
        model: &str,
        version: &str,
    ) -> Result<(f32, String), Status> {
        self.ask_as(model, version, "").await
    }

    /// As [`Self::ask`], with an id that the request can be explained by.
    pub(crate) async fn ask_as(
        &mut self,
        model: &str,
        version: &str,
        id: &str,
    ) -> Result<(f32, String), Status> {
        let input = InferInputTensor {
            name: "input".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![1, 1],
            ..Default::default()
        };
        let request = ModelInferRequest {
            model_name: model.to_owned(),
            model_version: version.to_owned(),
            id: id.to_owned(),
            inputs: vec![input],
            raw_input_contents: vec![0.0f32.to_le_bytes().to_vec().into()],
            ..Default::default()
        };
        let reply = self.0.model_infer(request).await?.into_inner();
        let raw = reply.raw_output_contents.first().expect("one output");
        let raw = raw.as_ref().try_into().expect("one float");
        Ok((f32::from_le_bytes(raw), reply.model_version))
    }

    pub(crate) async fn load(&mut self, model: &str) -> Result<(), Status> {
        self.load_with(model, &[]).await
    }

    /// Loads with `config` (text) and `file:` parameters (bytes).
    pub(crate) async fn load_with(
        &mut self,
        model: &str,
        parameters: &[(&str, &[u8])],
    ) -> Result<(), Status> {
        let choice = |name: &str, value: &[u8]| match name.starts_with("file:") {
            true => ParameterChoice::BytesParam(value.to_vec().into()),
            false => ParameterChoice::StringParam(
                String::from_utf8(value.to_vec()).expect("a configuration is text"),
            ),
        };
        let parameters = parameters.iter().map(|(name, value)| {
            let parameter = ModelRepositoryParameter {
                parameter_choice: Some(choice(name, value)),
            };
            ((*name).to_owned(), parameter)
        });
        let request = RepositoryModelLoadRequest {
            model_name: model.to_owned(),
            parameters: parameters.collect(),
            ..Default::default()
        };
        self.0.repository_model_load(request).await.map(drop)
    }

    pub(crate) async fn unload(&mut self, model: &str) -> Result<(), Status> {
        let request = RepositoryModelUnloadRequest {
            model_name: model.to_owned(),
            ..Default::default()
        };
        self.0.repository_model_unload(request).await.map(drop)
    }

    /// Model, version, state and reason of each line.
    pub(crate) async fn index(&mut self) -> Vec<[String; 4]> {
        let request = RepositoryIndexRequest::default();
        let reply = self.0.repository_index(request).await;
        let models = reply.expect("the index is there").into_inner().models;
        let line = |model: fugato::server::proto::repository_index_response::ModelIndex| {
            [model.name, model.version, model.state, model.reason]
        };
        models.into_iter().map(line).collect()
    }

    /// The states of the model's versions, as `1 READY`.
    pub(crate) async fn states(&mut self, model: &str) -> Vec<String> {
        let index = self.index().await.into_iter();
        let own = index.filter(|[name, ..]| name == model);
        own.map(|[_, version, state, _]| format!("{version} {state}"))
            .collect()
    }

    /// Waits until the model's versions are in these states.
    pub(crate) async fn wait_for(&mut self, model: &str, states: &[&str]) {
        let patience = Instant::now() + PATIENCE;
        loop {
            let found = self.states(model).await;
            if found == states {
                return;
            }
            let index = self.index().await;
            assert!(
                Instant::now() < patience,
                "waited for {states:?} of {model}, found {index:?}"
            );
        }
    }

    /// Waits until the model adds `k`.
    pub(crate) async fn wait_for_answer(&mut self, model: &str, k: f32) {
        let patience = Instant::now() + PATIENCE;
        loop {
            let found = self.ask(model, "").await.map(|(found, _)| found);
            if matches!(found, Ok(found) if found == k) {
                return;
            }
            assert!(
                Instant::now() < patience,
                "waited for {k} of {model}, got {found:?}"
            );
        }
    }
}

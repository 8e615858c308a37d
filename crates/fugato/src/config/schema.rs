//! Every setting, once: its section, type, default and reason.
//!
//! The `section!` macro makes of each list the raw form (all optional, read from one
//! source), the resolved form (all present) and the entries of [`SETTINGS`], which the
//! reference page, `fugato config show` and the check for unknown keys are made from.
//! **Invariant:** a setting's documentation says why its default is what it is.

mod choices;
mod setting;

pub use choices::{
    CudnnSearch, DeviceKind, LogFormat, ModelControlMode, ModelDevice, PlanLanes, Policy,
    Precision, Supervise,
};
pub use setting::Setting;
pub(super) use setting::{shown, variable};

use super::origin::{Layer, Origins};
use super::units::{ByteSize, Cores, Span};
use fugato_core::policy::OperatingPoint;
use serde::{Deserialize, Serialize};
use setting::{Kind, section};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

section! {
    /// The listening server.
    "server" RawServer => ServerConfig in SERVER {
        /// Address to listen on. Loopback, because to be reached from outside is a decision:
        /// any other address needs `tls_cert`, `tls_key` and `auth_token_file`, or `insecure`.
        host: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
        /// Port of HTTP/REST; 0 takes any free one. Triton's, so that clients need no change.
        http_port: u16 = 8000;
        /// Port of gRPC; 0 takes any free one. Triton's.
        grpc_port: u16 = 8001;
        /// Port of Prometheus metrics; 0 takes any free one. Triton's.
        metrics_port: u16 = 8002;
        /// Largest request body, HTTP or gRPC. The default holds a batch of 100 images of
        /// 3 x 224 x 224 floats and bounds what one client can make the server hold.
        max_body_bytes: ByteSize = ByteSize::mib(64);
        /// Most connections to one port; further clients wait in the listen queue. Under the
        /// usual limit of open files, far over what one server feeds.
        max_connections: u32 = 4096;
        /// Most bytes of requests and replies in the server at once, from being read to being
        /// sent. Sixteen of the largest messages; one that is alone always fits.
        max_held_bytes: ByteSize = ByteSize::mib(1024);
        /// Largest head of a request of either protocol: its URL and headers. A few times
        /// what tokens and traces take, and what HTTP/2 allows by default.
        max_header_bytes: ByteSize = ByteSize::kib(16);
        /// Longest time from the first byte of an HTTP/1 request to the end of its headers,
        /// and of the TLS handshake. A head is a packet or two; on a bad link each may be
        /// sent again a few times. Where all connections are taken, those that are idle for
        /// as long are closed.
        header_timeout: Span = Span::from_millis(10_000);
        /// Longest time that a client may send nothing of a body that it began, or take
        /// nothing of a reply. A lost packet is sent again within seconds; a client that is
        /// silent for this long is gone or means harm.
        stall_timeout: Span = Span::from_millis(30_000);
        /// Longest time that a connection may have no request in flight. Load balancers
        /// keep connections for up to 600 s and must be the ones that close them, or a
        /// request meets a closed connection.
        idle_timeout: Span = Span::from_millis(620_000);
        /// How long a gRPC client may be silent before it is asked for a sign of life, and
        /// how long it may then take to answer. A machine that is switched off says nothing;
        /// half a minute is well under the time that routers remember connections for.
        ping_interval: Span = Span::from_millis(30_000);
        /// Whether to serve on other than loopback addresses without TLS and tokens. Off,
        /// because anyone who reaches the port could then use the models and read all
        /// traffic; for networks that are closed by other means.
        insecure: bool = false;
        /// How long accepted requests may still run after SIGTERM before the process ends
        /// anyway. Below the 30 s after which Kubernetes kills a container.
        drain_timeout: Span = Span::from_millis(25_000);
        /// Whether a second process holds the listening sockets and starts a new server where
        /// one ends abnormally, so that clients wait instead of being refused. `auto` is on with
        /// a device whose faults only a new process heals, which the CPU is not.
        supervise: Supervise = Supervise::Auto;
        /// Who decides when models are loaded and unloaded. `none`, as in Triton: clients
        /// that could change what is served would be a surprise.
        model_control_mode: ModelControlMode = ModelControlMode::None;
        /// Mode `poll`: seconds between two looks at the repository. Triton's.
        repository_poll_secs: u32 = 15;
        /// Mode `explicit`: the models to load at the start; `*` is all of them. None, as in
        /// Triton.
        load_model: Vec<String> = Vec::new();
        /// Whether clients may register system shared memory and name it in requests. On, as in
        /// Triton; whoever reaches the server can then use any file of `shared_memory_dir` that
        /// its user can read and write.
        shared_memory: bool = true;
        /// Folder of shared memory: a key is the name of a file directly in it. Where Linux's
        /// `shm_open` puts its files.
        shared_memory_dir: PathBuf = "/dev/shm".into();
        /// Most regions registered at once. Each is an open file; the usual limit of those is
        /// 1,024, and connections need some too.
        shared_memory_regions_max: u32 = 512;
    }
    unset {
        /// Folder of models, laid out as `<name>/<version>/model.onnx`. No default:
        /// guessing a folder would serve the wrong models.
        model_repository: PathBuf = "none; `serve` needs it";
        /// File of the server's certificate and those between it and its authority, PEM. TLS
        /// is spoken on every port where it is given. Off, because a certificate names the
        /// machine it is for.
        tls_cert: PathBuf = "plain TCP";
        /// File of the private key of `tls_cert`, PEM.
        tls_key: PathBuf = "plain TCP";
        /// File of the tokens that clients must have, one a line, as `authorization: Bearer
        /// TOKEN`. A file, since a command line and an environment are seen by others. Off,
        /// because only its owner can choose a secret.
        auth_token_file: PathBuf = "everyone is let in";
        /// File to record the scheduler's inputs into, for `fugato replay`. Off, because a
        /// recording grows with every request.
        record: PathBuf = "not recorded";
        /// File to write once the server listens: JSON with the addresses of `http`,
        /// `grpc` and `metrics`. Off, because only scripts that use port 0 need it.
        ready_file: PathBuf = "not written";
    }
}

section! {
    /// The device that runs the models.
    "device" RawDevice => DeviceConfig in DEVICE {
        /// Which device. `auto`, so that a better one is used where there is one.
        kind: DeviceKind = DeviceKind::Auto;
        /// Logical processors to use. `auto` is all that the process may run on, which is
        /// what a container or `taskset` allowed.
        cores: Cores = Cores::Auto;
        /// In-order queues of each partition of the device, hence legs that may run there at
        /// once where a policy oversubscribes it. As many instances as a person gives one
        /// device of a few cores; one that is used costs a thread.
        lanes: u16 = 8;
        /// Niceness of the threads that run models, beyond the server's own (which is 0 unless it
        /// was started otherwise), up to 19 in all. Fifteen steps are a weight of about 1 to 30, so
        /// that the server answers at once when all cores are busy.
        niceness: i32 = 15;
        /// Niceness of the threads that run urgent legs, likewise. Fifteen steps above other legs
        /// are a weight of about 30 to 1. The server's threads weigh as much, and with Linux 6.12
        /// and later run at once all the same when they wake up, because they ask for shorter slices.
        /// Policy `fugato` uses them.
        niceness_urgent: i32 = 0;
        /// How long a thread of a model that runs on several cores waits for the others by
        /// spinning before it sleeps, while its leg runs; 0s for not at all. 20 us catch most
        /// waits between operators (a quarter of SqueezeNet's time on two cores) and cost
        /// nothing measurable where something else wants the core.
        spin: Span = Span::from_micros(20);
        /// Number of the NVIDIA device, among those that the process sees. The first.
        gpu: u32 = 0;
        /// An NVIDIA device that has not ended a leg after this time is taken to hang: the
        /// server ends, for a supervisor to start another. No leg of a model that is worth
        /// serving takes half a minute. First runs make plans and compile: they have four times
        /// as long.
        gpu_hang_after: Span = Span::from_millis(30_000);
        /// A leg may take longer than that where it has been seen to: so many times the longest
        /// run of its model, batch and partition. Twenty, since neighbours slow a leg down by
        /// less.
        gpu_hang_times: u32 = 20;
        /// NVIDIA device: whether groups that a plan has at once run side by side, on streams of
        /// their own that are captured into one graph. `auto` is on where `fugato gpu-check` has
        /// found on this device, with this driver and ONNX Runtime, that it answers right and
        /// pays; elsewhere off, since nothing promises that. Each group takes a session's
        /// memory. `cuda_graphs` has to be on too.
        plan_lanes: PlanLanes = PlanLanes::Auto;
        /// NVIDIA device: whether models with shorter objectives run on streams of a greater
        /// priority, whose kernels go first where legs share multiprocessors, as under
        /// `uncontrolled`. The device's priorities are divided among objectives from 1 ms to
        /// 128 ms, as many for each time that one is twice as long; a model without one is last.
        /// On, as whoever shares a GPU so would have it.
        stream_priorities: bool = true;
    }
    unset {
        /// Folder with the libraries of CUDA and cuDNN, looked in before other places.
        gpu_libraries: PathBuf = "the system's loader, then the `nvidia` packages of Python";
    }
}

section! {
    /// The scheduler.
    "scheduler" RawScheduler => SchedulerConfig in SCHEDULER {
        /// The policy. `edf` keeps deadlines without a profile of the models.
        policy: Policy = Policy::Edf;
        /// Whether to refuse at once a request that cannot meet its deadline. On, because
        /// work that will be late delays work that would not.
        admission: bool = true;
        /// Quantile of the predicted time that admission counts with. A high one, since an
        /// accepted request is a promise; 0.95 refuses little for the tail it avoids.
        admission_quantile: f64 = 0.95;
        /// How long before the predicted end of a leg the next one is committed to its
        /// lane. About the time of a report, a decision and a wake-up: shorter leaves the
        /// lane idle in between, longer closes batches early.
        commit_lead: Span = Span::from_micros(300);
        /// Whether the scheduler's thread asks for real-time priority, which it gets where the
        /// process has CAP_SYS_NICE. On: it works for microseconds at a time, everything waits
        /// for it, and without it a decision waits a slice of whatever else runs there.
        real_time: bool = true;
        /// Most requests waiting, of all models together. Sixteen queues of the default
        /// length; past it one model's flood would take the memory of all.
        queue_count_max: u64 = 16_384;
        /// Most bytes of inputs held, of all models together. Eight full queues of the
        /// default size.
        queue_bytes_max: ByteSize = ByteSize::mib(2048);
    }
    unset {}
}

section! {
    /// Policy `temporal`.
    "policy.temporal" RawTemporal => TemporalConfig in TEMPORAL {}
    unset {
        /// How long the turns of all models take together. The largest objective of the models by
        /// default, so that each has its turn within it; shorter serves short objectives better
        /// where runs are short.
        cycle: Span = "the largest objective";
    }
}

section! {
    /// Policy `uncontrolled`. How many instances a model has and how long it waits for a batch
    /// is in `[defaults]`, in `[model.NAME]` or in its `config.pbtxt`.
    "policy.uncontrolled" RawUncontrolled => UncontrolledConfig in UNCONTROLLED {
        /// Most legs at once on one device, of all models. Twice the lanes that the device has
        /// by default: its own limit counts first, and this one where legs have shares.
        lanes: u16 = 16;
    }
    unset {
        /// Slices of the device that a leg uses: threads of an instance, on a CPU, each leg
        /// where the fewest others are. One of the shares that the device's partitions have.
        /// The whole device by default, as sessions have a thread for each core.
        share: u16 = "the whole device";
    }
}

section! {
    /// Policy `clipper`. How long a model waits for a fuller batch is its
    /// `max_queue_delay_microseconds`.
    "policy.clipper" RawClipper => ClipperConfig in CLIPPER {
        /// Part of its model's objective that a batch may take, in percent. Half, as a request
        /// that just missed a batch waits for a whole one; all of it is Clipper's own rule.
        target_percent: u8 = 50;
    }
    unset {}
}

section! {
    /// Policy `gslice`.
    "policy.gslice" RawGslice => GsliceConfig in GSLICE {
        /// Most legs at once on one device, of all models. Each model runs one at a time, so
        /// this counts where more models than it are served.
        lanes: u16 = 16;
        /// Part of its model's objective that a batch may take, in percent. Half, as a request
        /// that just missed a batch waits for a whole one.
        target_percent: u8 = 50;
    }
    unset {}
}

section! {
    /// Policy `dstack`.
    "policy.dstack" RawDstack => DstackConfig in DSTACK {
        /// What the batch and the share of a model are chosen by: `efficacy` (throughput over
        /// latency and share), `work` (least slice-seconds per item), `knee` (smallest share of
        /// nearly the best latency) or `published` (as a publication states, where the profile
        /// has it). Efficacy, as D-STACK; `work` holds the larger load.
        point: OperatingPoint = OperatingPoint::Efficacy;
        /// Most slices above the chosen share, as far as the device has such partitions. None,
        /// as shares are whole partitions already.
        margin: u16 = 0;
        /// Whether models run between their planned runs. Without it the policy is its static
        /// stage, to compare with.
        dynamic: bool = true;
    }
    unset {}
}

section! {
    /// Policy `fugato`: which of its parts are on. Those that are on helped by 3 % or more somewhere,
    /// simulated or on a device; each can be turned off to compare.
    "policy.fugato" RawFugato => FugatoConfig in FUGATO {
        /// Whether shares are chosen anew at each leg, and a request that cannot wait for a task to end
        /// goes in between two of its legs. Without it a task runs to its end in the share that it
        /// began in.
        preempt: bool = true;
        /// Whether a leg gets no more than its own knee, so that others may have the rest; no task runs
        /// in one go then. Off: it gained less than 3 % on assumed legs.
        leg_shares: bool = false;
        /// Whether slices that nobody needs go to whoever gains most by them.
        widen: bool = true;
        /// Whether batches wait for the model's dequeue interval.
        dequeue: bool = true;
        /// Whether that interval is the one of least work at the rate of arrivals, in place of the
        /// objective over the slots (or slices, where fewer) + 1. Off: it gains on some loads and loses on others.
        work_interval: bool = false;
        /// Whether batches grow no larger than the one that holds the most, by what is known of
        /// latencies: where an item of a larger batch is no cheaper, large ones make others wait.
        best_batch: bool = true;
        /// Whether tasks that are too late, and requests that would make a batch dear, are given
        /// up.
        give_up: bool = true;
        /// Whether urgent work begins over what runs, which the device then suspends (on a CPU, by
        /// niceness), where waiting for the end of a leg would cost a thirtieth of its time to spare.
        niceness: bool = true;
        /// Whether a task of a model that is cut runs in one go where it is the only task and no
        /// other model was asked for within a second.
        unsplit: bool = true;
        /// Whether a model of which a leg takes more than half of another's objective leaves that
        /// one the slices that it needs while it is asked for, where the device cannot suspend
        /// the leg.
        leave_room: bool = true;
    }
    unset {}
}

section! {
    /// What holds for every model whose own section `[model.NAME]` does not say otherwise.
    "defaults" RawModel => ModelConfig in MODEL_DEFAULTS {
        /// Worth of a reply in time relative to other models, above 0. Equal.
        /// Admission leaves every model its share of the device by it under overload.
        weight: f64 = 1.0;
        /// Most items in one batch. 32 is past the point where the models of the zoo gain
        /// by batching on a CPU; the bound keeps buffers small.
        max_batch_size: u32 = 32;
        /// Tasks of the model that may be in flight, each with its own buffers. Two let one
        /// be filled while the other runs.
        slots: u16 = 2;
        /// Most requests waiting. Beyond this a queue only adds delay; admission usually
        /// refuses earlier.
        queue_count_max: u32 = 1024;
        /// Most bytes of inputs waiting. Four bodies of the largest size.
        queue_bytes_max: ByteSize = ByteSize::mib(256);
        /// Whether the owner vouches that every first dimension that varies is the batch,
        /// where the model's own names leave that open or trying it says otherwise. Setting
        /// `max_batch_size` above 1 for one model vouches for that model. Off, because a
        /// wrong guess mixes requests.
        assume_batchable: bool = false;
        /// Policy `uncontrolled`: executions of the model that may run at once. One, as in
        /// Triton.
        instances: u16 = 1;
        /// Policy `uncontrolled`: batch sizes to wait for. None, as in Triton: whatever
        /// waits is run.
        preferred_batch_sizes: Vec<u32> = Vec::new();
        /// Longest time to wait for a fuller batch: under `uncontrolled` for a preferred size,
        /// under `temporal`, `clipper`, `nexus`, `gslice`, `max-throughput` and `max-min` for
        /// the one that they aim at; the other policies do not wait. Zero, as in Triton.
        max_queue_delay: Span = Span::default();
        /// Where the model runs: on the `server`'s device; with `auto` on the CPU where an NVIDIA
        /// device refuses the model for what it is (sizes that vary, strings, an operator that it
        /// lacks; not for want of memory); or on the `cpu`. The server's: a CPU may take a hundred
        /// times as long, which nobody should find out by waiting, so a model that is refused is
        /// not ready, with the reason.
        device: ModelDevice = ModelDevice::Server;
        /// Whether the model's floats of 32 bits are made ones of 16 as it is brought into the
        /// model store; its inputs and outputs stay. It is another model then, with profiles and
        /// plans of its own. As the file has it, since answers differ in the third digit; for
        /// NVIDIA devices, as the CPU computes in 32 bits all the same.
        precision: Precision = Precision::Fp32;
        /// NVIDIA device: whether products of 32-bit floats may be rounded to 10 bits, which its
        /// tensor cores compute faster. Off, since answers then differ from the CPU's in the
        /// third digit.
        tf32: bool = false;
        /// NVIDIA device: whether convolutions run with channels last. Off: it helps some models
        /// in half precision, and each session keeps weights of its own for it.
        nhwc: bool = false;
        /// NVIDIA device: how the way of each convolution is chosen. By quick rules, since
        /// thorough ones take longer whenever a batch comes for the first time.
        cudnn_search: CudnnSearch = CudnnSearch::Heuristic;
        /// NVIDIA device: whether runs are captured into graphs, by batch, which start all
        /// kernels of a run at once. On; a model that cannot be captured runs without.
        cuda_graphs: bool = true;
        /// Whether a task runs in one go although the model has legs, where no other model was asked
        /// for within a second and its plan is not faster for groups side by side; under `fugato` only while no other
        /// task runs or waits. For one more session of the model in each partition. On the CPU.
        unsplit: bool = true;
    }
    unset {
        /// Latency objective, from the first byte of a request to its reply. No default:
        /// only the owner of a model knows it.
        slo: Span = "none; only the request's own deadline counts";
        /// Plan of one model, as `fugato plan --out` writes it: the legs that its tasks run in,
        /// between which another model may come first.
        plan: PathBuf = "none; a task is one leg, unless `legs` is set";
        /// Longest time of a leg, one item on one core: the model is cut into legs between half of
        /// it and all of it, one after the other, as it is loaded. Its segments are timed then,
        /// which takes seconds, and known from the model store the next time. A single operator
        /// that takes longer stays whole; 0s cuts nothing; a `plan` comes first. Off, because
        /// legs cost a little and only some policies use them. On an NVIDIA device nothing is
        /// timed: the model's profile says how long its largest batch takes on the whole device,
        /// which is divided by what operators compute; without one a task is one leg. A profile
        /// with measured legs of this length says on any device how the model is cut.
        legs: Span = "none; a task is one leg";
    }
}

section! {
    /// The store of optimised models and their shared weights.
    "model_store" RawModelStore => ModelStoreConfig in MODEL_STORE {}
    unset {
        /// Folder of the store. In the user's cache, since all of it can be made again.
        dir: PathBuf = "`fugato/models` in the user's cache folder";
    }
}

section! {
    /// Latency profiles: what models need of the device, measured.
    "profile" RawProfile => ProfileConfig in PROFILE {
        /// Share of the device's time, 0 to 0.5, within which models that have no profile, or
        /// have drifted from it, are measured while nothing waits; 0 turns that off. A
        /// twentieth is hardly felt, and measures a model of a few milliseconds in a minute.
        online_share: f64 = 0.05;
    }
    unset {
        /// Profile of the models, as `fugato profile` writes it. It must be of this device (or of
        /// the CPU beside it, where a model may be there) and runtime; models that it
        /// lacks are measured while serving.
        file: PathBuf = "none; models are measured while serving";
        /// File that keeps what was measured while serving, for the next start. In the model
        /// store, since all of it can be made again; there too what is measured on the CPU beside
        /// an NVIDIA device.
        save: PathBuf = "`profile-DEVICE-SLICES.json` in the model store";
    }
}

section! {
    /// ONNX Runtime, the library that runs operators.
    "runtime" RawRuntime => RuntimeConfig in RUNTIME {}
    unset {
        /// The shared library of ONNX Runtime, or the folder it is in. Searched for by
        /// default, so that the binary works where `make runtime` put the library.
        onnxruntime: PathBuf = "searched for";
    }
}

section! {
    /// Log lines on standard error.
    "log" RawLog => LogConfig in LOG {
        /// How lines are written. `text`, since a person starts the server first.
        format: LogFormat = LogFormat::Text;
        /// Which lines: a level, or directives such as `info,fugato::driver=debug`. `info`
        /// says a few lines per start, load and stop, and none per request.
        level: String = "info".to_owned();
    }
    unset {}
}

section! {
    /// What is told about requests beside the metrics.
    "telemetry" RawTelemetry => TelemetryConfig in TELEMETRY {
        /// Ended requests with an id that `GET /v2/models/NAME/explain/ID` remembers; 0 turns
        /// it off. A few seconds' worth of a busy server, and about a megabyte.
        explanations: u32 = 4096;
        /// Legs that ended last which `GET /v2/timeline` and the file `timeline` show, 1 to
        /// 1048576. A minute of a thousand legs a second, in six megabytes; to keep one
        /// takes the scheduler's thread about 20 ns.
        timeline_legs: u32 = 65_536;
        /// Whether requests are traced from the start; clients can change it. Off, because
        /// every trace costs the collector more than it costs here.
        trace: bool = false;
        /// Of requests without a trace of their client, one in this many is traced while
        /// tracing is on. Triton's.
        trace_rate: u64 = 1000;
    }
    unset {
        /// File that keeps the timeline: what ran where and when, as a trace that Perfetto and
        /// `chrome://tracing` open. Written anew every five seconds or more, and at the end. Off,
        /// because it takes up to a fiftieth of a core; `GET /v2/timeline` needs none.
        timeline: PathBuf = "not written";
        /// URL of the OpenTelemetry collector that takes spans, by OTLP over gRPC
        /// (`http://127.0.0.1:4317`). None by default: then spans are lines of the log.
        otlp_endpoint: String = "none; spans go to the log";
    }
}

/// The sections, in the order they are shown, each with its settings.
pub const SETTINGS: [(&str, &[Setting]); 15] = [
    ("server", SERVER),
    ("device", DEVICE),
    ("scheduler", SCHEDULER),
    ("policy.temporal", TEMPORAL),
    ("policy.uncontrolled", UNCONTROLLED),
    ("policy.clipper", CLIPPER),
    ("policy.gslice", GSLICE),
    ("policy.dstack", DSTACK),
    ("policy.fugato", FUGATO),
    ("defaults", MODEL_DEFAULTS),
    ("model_store", MODEL_STORE),
    ("profile", PROFILE),
    ("runtime", RUNTIME),
    ("log", LOG),
    ("telemetry", TELEMETRY),
];

/// What one source says, before precedence is applied.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    /// `[server]`.
    pub server: RawServer,
    /// `[device]`.
    pub device: RawDevice,
    /// `[scheduler]`.
    pub scheduler: RawScheduler,
    /// `[policy.NAME]`, by name.
    pub policy: RawPolicies,
    /// `[defaults]`.
    pub defaults: RawModel,
    /// `[model.NAME]`, by name.
    pub model: BTreeMap<String, RawModel>,
    /// `[model_store]`.
    pub model_store: RawModelStore,
    /// `[profile]`.
    pub profile: RawProfile,
    /// `[runtime]`.
    pub runtime: RawRuntime,
    /// `[log]`.
    pub log: RawLog,
    /// `[telemetry]`.
    pub telemetry: RawTelemetry,
}

/// What one source says of the settings of policies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawPolicies {
    /// `[policy.temporal]`.
    pub temporal: RawTemporal,
    /// `[policy.uncontrolled]`.
    pub uncontrolled: RawUncontrolled,
    /// `[policy.clipper]`.
    pub clipper: RawClipper,
    /// `[policy.gslice]`.
    pub gslice: RawGslice,
    /// `[policy.dstack]`.
    pub dstack: RawDstack,
    /// `[policy.fugato]`.
    pub fugato: RawFugato,
}

/// The settings of all policies that have any.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoliciesConfig {
    /// `[policy.temporal]`.
    pub temporal: TemporalConfig,
    /// `[policy.uncontrolled]`.
    pub uncontrolled: UncontrolledConfig,
    /// `[policy.clipper]`.
    pub clipper: ClipperConfig,
    /// `[policy.gslice]`.
    pub gslice: GsliceConfig,
    /// `[policy.dstack]`.
    pub dstack: DstackConfig,
    /// `[policy.fugato]`.
    pub fugato: FugatoConfig,
}

//! What the parts of a server are told of the configuration.

use super::ServeError;
use crate::config::{ByteSize, Config};
use crate::server::{ServerOptions, Tls, Tokens};
use crate::shm::{SharedMemory, SharedMemoryOptions};
use crate::telemetry::TraceOptions;
use fugato_core::sched::{DeadlineMode, QueueLimits, SchedulerConfig};
use std::net::SocketAddr;

/// Decision records between two looks of the driver, which takes them all: a few for each
/// request that may arrive, and for each verdict.
const DECISIONS_MAX: u32 = 1 << 18;

/// What the server is told of the configuration.
///
/// # Errors
/// Where the certificate, its key or the tokens cannot be used.
pub(super) fn server_options(config: &Config) -> Result<ServerOptions, ServeError> {
    let server = &config.server;
    let at = |port| Some(SocketAddr::new(server.host, port));
    let bytes = |size: ByteSize| usize::try_from(size.0).unwrap_or(usize::MAX);
    let tls = match (&server.tls_cert, &server.tls_key) {
        (Some(certificate), Some(key)) => Some(Tls::read(certificate, key)?),
        // One without the other was refused with the configuration.
        _ => None,
    };
    let tokens = server.auth_token_file.as_deref().map(Tokens::read);
    Ok(ServerOptions {
        http: at(server.http_port),
        grpc: at(server.grpc_port),
        metrics: at(server.metrics_port),
        max_body_bytes: bytes(server.max_body_bytes),
        max_held_bytes: bytes(server.max_held_bytes),
        max_header_bytes: bytes(server.max_header_bytes),
        max_connections: usize::try_from(server.max_connections).unwrap_or(usize::MAX),
        header_timeout: server.header_timeout.duration(),
        stall_timeout: server.stall_timeout.duration(),
        idle_timeout: server.idle_timeout.duration(),
        ping_interval: server.ping_interval.duration(),
        drain_timeout: server.drain_timeout.duration(),
        tls,
        tokens: tokens.transpose()?,
    })
}

pub(super) fn trace_options(config: &Config) -> TraceOptions {
    TraceOptions {
        endpoint: config.telemetry.otlp_endpoint.clone(),
        on: config.telemetry.trace,
        rate: config.telemetry.trace_rate,
    }
}

pub(super) fn shared_memory(config: &Config) -> SharedMemory {
    let server = &config.server;
    if !server.shared_memory {
        return SharedMemory::off();
    }
    SharedMemory::new(SharedMemoryOptions {
        folder: server.shared_memory_dir.clone(),
        regions_max: usize::try_from(server.shared_memory_regions_max).unwrap_or(usize::MAX),
        input_bytes_max: server.max_body_bytes.0,
    })
}

pub(super) fn scheduler_config(config: &Config) -> SchedulerConfig {
    let deadlines = if config.scheduler.admission {
        DeadlineMode::Enforce
    } else {
        DeadlineMode::Observe
    };
    SchedulerConfig {
        policy: config.policy_spec(config.scheduler.policy),
        deadlines,
        commit_lead: config.scheduler.commit_lead.nanos(),
        limits: QueueLimits {
            requests: config.scheduler.queue_count_max,
            bytes: config.scheduler.queue_bytes_max.0,
        },
        admission_quantile: config.scheduler.admission_quantile,
        explanations: config.telemetry.explanations,
        profile_share: config.profile.online_share,
        decisions: DECISIONS_MAX,
        ..SchedulerConfig::default()
    }
}

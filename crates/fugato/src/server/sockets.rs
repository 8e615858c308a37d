//! The listening sockets: bound here, or handed over by whoever started the process.
//!
//! They are handed over as systemd does it: as the open files from 3 on, `LISTEN_FDS` of
//! them, in the order HTTP, gRPC, metrics. What connects to them waits in their queues
//! while no process accepts.

use super::{Addresses, BindError, ServerOptions};
use command_fds::{CommandFdExt as _, FdMapping};
use listenfd::ListenFd;
use socket2::SockRef;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;

/// The protocols in the order in which their sockets are handed over.
const PROTOCOLS: [&str; 3] = ["HTTP", "gRPC", "metrics"];

/// The first open file that is handed over: after input, output and errors.
const FIRST: i32 = 3;

/// The listening sockets of a server.
#[derive(Debug)]
pub struct Sockets {
    pub(super) http: Option<TcpListener>,
    pub(super) grpc: Option<TcpListener>,
    pub(super) metrics: Option<TcpListener>,
    addresses: Addresses,
}

/// Sockets that were handed over cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketsError {
    /// Another number than there are protocols.
    #[error(
        "{found} sockets were handed over (LISTEN_FDS), expected 3: HTTP, gRPC and metrics, \
         in this order"
    )]
    Count {
        /// How many there are.
        found: usize,
    },
    /// One is no TCP socket that listens.
    #[error("the socket handed over for {protocol} does not listen on TCP")]
    Unfit {
        /// `HTTP`, `gRPC` or `metrics`.
        protocol: &'static str,
        /// Why not, where the system says more.
        source: Option<io::Error>,
    },
}

impl Sockets {
    /// Takes the ports that `options` name.
    ///
    /// # Errors
    /// [`BindError`], naming the first address that could not be taken.
    ///
    /// # Panics
    /// Outside a runtime with I/O.
    pub async fn bind(options: &ServerOptions) -> Result<Self, BindError> {
        Self::bind_to([options.http, options.grpc, options.metrics]).await
    }

    /// Takes the addresses of HTTP, gRPC and metrics.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub async fn bind_to(addresses: [Option<SocketAddr>; 3]) -> Result<Self, BindError> {
        let [http, grpc, metrics] = addresses;
        let (http, http_at) = bind(PROTOCOLS[0], http).await?;
        let (grpc, grpc_at) = bind(PROTOCOLS[1], grpc).await?;
        let (metrics, metrics_at) = bind(PROTOCOLS[2], metrics).await?;
        let addresses = Addresses {
            http: http_at,
            grpc: grpc_at,
            metrics: metrics_at,
        };
        Ok(Self {
            http,
            grpc,
            metrics,
            addresses,
        })
    }

    /// The sockets that were handed to this process; `None` where there are none. They are
    /// taken out of the environment, so it must be called before any thread is started.
    ///
    /// # Errors
    /// [`SocketsError`]: too few, too many, or something else than sockets that listen.
    pub fn inherited() -> Result<Option<Self>, SocketsError> {
        let mut handed = ListenFd::from_env();
        match handed.len() {
            0 => return Ok(None),
            3 => {}
            found => return Err(SocketsError::Count { found }),
        }
        let mut take = |index: usize| {
            let protocol = PROTOCOLS[index];
            let unfit = |source| SocketsError::Unfit { protocol, source };
            let listener = handed.take_tcp_listener(index);
            let listener = listener.map_err(|error| unfit(Some(error)))?;
            let listener = listener.ok_or_else(|| unfit(None))?;
            let listens = SockRef::from(&listener).is_listener();
            if !listens.map_err(|error| unfit(Some(error)))? {
                return Err(unfit(None));
            }
            let prepared = listener.set_nonblocking(true);
            let at = prepared.and_then(|()| listener.local_addr());
            let at = at.map_err(|error| unfit(Some(error)))?;
            Ok((Some(listener), Some(at)))
        };
        let ((http, http_at), (grpc, grpc_at)) = (take(0)?, take(1)?);
        let (metrics, metrics_at) = take(2)?;
        let addresses = Addresses {
            http: http_at,
            grpc: grpc_at,
            metrics: metrics_at,
        };
        Ok(Some(Self {
            http,
            grpc,
            metrics,
            addresses,
        }))
    }

    /// Where they listen.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Makes `command` start a process that [inherits](Self::inherited) them, and keeps them.
    ///
    /// # Errors
    /// Where the system gives no more open files.
    pub fn hand_to(&self, command: &mut Command) -> io::Result<()> {
        let all = [&self.http, &self.grpc, &self.metrics];
        let mappings = (FIRST..).zip(all.into_iter().flatten());
        let mappings = mappings.map(|(child_fd, socket)| {
            let parent_fd = socket.try_clone()?.into();
            Ok(FdMapping {
                parent_fd,
                child_fd,
            })
        });
        let mappings: Vec<FdMapping> = mappings.collect::<io::Result<_>>()?;
        command.env("LISTEN_FDS", mappings.len().to_string());
        // Those of this process, where it was handed sockets itself; the number of another
        // process would tell the new one that the sockets are not for it.
        for stale in ["LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_FDS_FIRST_FD"] {
            command.env_remove(stale);
        }
        command
            .fd_mappings(mappings)
            .expect("each has a number of its own");
        Ok(())
    }
}

async fn bind(
    protocol: &'static str,
    address: Option<SocketAddr>,
) -> Result<(Option<TcpListener>, Option<SocketAddr>), BindError> {
    let Some(address) = address else {
        return Ok((None, None));
    };
    let failed = |source| BindError {
        protocol,
        address,
        source,
    };
    // The runtime's own way to bind has the longer queue.
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .and_then(tokio::net::TcpListener::into_std)
        .map_err(failed)?;
    let taken = listener.local_addr().map_err(failed)?;
    Ok((Some(listener), Some(taken)))
}

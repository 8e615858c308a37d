//! A server of this process that is asked without a protocol, for whoever measures what it adds.

use super::{Engine, Given, Running, ServeError, open_devices, os, stop};
use crate::config::Config;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task;

/// What a process ends with that a signal stopped while it had such a server.
const STOPPED: i32 = 130;

/// An engine with its driver and devices, whose models are loaded. It takes the sockets that its
/// configuration names and answers nobody there.
pub(crate) struct InProcess {
    running: Running,
}

impl InProcess {
    /// Opens the devices and loads the models that the configuration names.
    pub(crate) async fn start(config: Config) -> Result<Self, ServeError> {
        let running = Running::start(config, Given::default(), open_devices).await?;
        // The server's signals are caught by now, and nobody else waits for them.
        let mut terminate = signal(SignalKind::terminate()).map_err(os("listening for SIGTERM"))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(os("listening for SIGINT"))?;
        tokio::spawn(async move {
            stop(&mut terminate, &mut interrupt).await;
            std::process::exit(STOPPED);
        });
        let names = running.models.keys().cloned().collect();
        running.lifecycle.load_first(names).await;
        Ok(Self { running })
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.running.engine
    }

    /// Ends the driver, which answers what it has first.
    pub(crate) async fn end(self) {
        let Running {
            engine,
            mailbox,
            driver,
            ..
        } = self.running;
        engine.drain();
        mailbox.close();
        match task::spawn_blocking(move || driver.join()).await {
            Ok(Ok(_)) => {}
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(error) => tracing::error!(%error, "the driver's thread did not end"),
        }
    }
}

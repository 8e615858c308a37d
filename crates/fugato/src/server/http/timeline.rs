//! Fugato's own: what ran on the devices, as a trace.

use super::{App, Refusal, json_text};
use crate::api::InferenceService;
use crate::error::{Fault, InferError};
use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use fugato_core::Nanos;
use std::sync::Arc;

/// Seconds that are shown where nothing is said.
const SECONDS: u64 = 10;

/// The most seconds that can be asked for; legs are seldom kept for so long.
const SECONDS_MAX: u64 = 3_600;

/// The legs that ended last.
pub(super) async fn timeline<S: InferenceService>(
    State(app): State<App<S>>,
    uri: Uri,
) -> Result<Response, Refusal> {
    let last = Nanos::from_millis(1_000 * seconds(uri.query().unwrap_or_default())?);
    let service = Arc::clone(&app.service);
    // Always on a thread of its own: how much it is shows when it is there.
    let write = move || {
        let mut text = Vec::new();
        let written = service.timeline(last).write(&mut text);
        written.map(|()| text)
    };
    let text = app.large.run(usize::MAX, write).await?;
    let text = text.map_err(|error| InferError::internal("HTTP server", error.to_string()))?;
    Ok(json_text(text))
}

/// The value of `seconds` in a query.
fn seconds(query: &str) -> Result<u64, InferError> {
    let parts = query.split('&').filter(|part| !part.is_empty());
    let mut asked = SECONDS;
    for part in parts {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        if name != "seconds" {
            return Err(Fault::UnknownSetting {
                object: "`/v2/timeline`".to_owned(),
                name: name.to_owned(),
                expected: vec!["seconds".to_owned()],
            }
            .into());
        }
        let number = value.parse().ok();
        asked = number
            .filter(|n| (1..=SECONDS_MAX).contains(n))
            .ok_or_else(|| {
                InferError::from(Fault::Setting {
                    name: "seconds".to_owned(),
                    found: format!("`{value}`"),
                    expected: format!("a whole number from 1 to {SECONDS_MAX}"),
                })
            })?;
    }
    Ok(asked)
}

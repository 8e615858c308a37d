//! Reports of runs as a page: self-contained HTML, without scripts or outside requests.
//!
//! [`page`] shows one run in full, or compares several. Runs are what `bench --out` and
//! `simulate --format json` write. **Invariant:** simulated and measured figures never share
//! a table or a chart, and every simulated part says so.

mod bench;
mod compare;
mod html;
mod simulation;
#[cfg(test)]
mod tests;

use crate::bench::report::{REPORT_SCHEMA, Report};
use html::{Page, escape};
use serde::Deserialize;
use simulation::Simulation;

/// A run with the name that the page gives it.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    label: String,
    figures: Figures,
}

#[derive(Clone, Debug, PartialEq)]
enum Figures {
    Measured(Box<Report>),
    Simulated(Simulation),
}

/// Why a text is not a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// It is not JSON, or has no `schema`.
    #[error("run `{label}` is not JSON with a `schema`")]
    NoSchema {
        /// The run.
        label: String,
        /// The cause.
        source: serde_json::Error,
    },
    /// It is of a schema that no page is made of.
    #[error(
        "run `{label}` has schema `{found}`, expected `{REPORT_SCHEMA}` or `{}`\n\
         hint: `fugato bench --out` and `fugato simulate --format json` write these",
        simulation::SCHEMA
    )]
    Schema {
        /// The run.
        label: String,
        /// Its schema.
        found: String,
    },
    /// It is not of the schema that it names.
    #[error("run `{label}` is not of its schema `{schema}`")]
    Content {
        /// The run.
        label: String,
        /// Its schema.
        schema: String,
        /// The cause, with the line.
        source: serde_json::Error,
    },
}

impl Run {
    /// A run that was just measured.
    pub fn measured(label: impl Into<String>, report: Report) -> Self {
        Self {
            label: label.into(),
            figures: Figures::Measured(Box::new(report)),
        }
    }

    /// A run as its JSON.
    ///
    /// # Errors
    /// [`RunError`], naming the run by its label.
    pub fn from_json(label: impl Into<String>, text: &str) -> Result<Self, RunError> {
        #[derive(Deserialize)]
        struct Head {
            schema: String,
        }
        let label = label.into();
        let head: Head = match serde_json::from_str(text) {
            Ok(head) => head,
            Err(source) => return Err(RunError::NoSchema { label, source }),
        };
        let figures = match head.schema.as_str() {
            REPORT_SCHEMA => serde_json::from_str(text).map(Figures::Measured),
            simulation::SCHEMA => serde_json::from_str(text).map(Figures::Simulated),
            _ => {
                return Err(RunError::Schema {
                    label,
                    found: head.schema,
                });
            }
        };
        match figures {
            Ok(figures) => Ok(Self { label, figures }),
            Err(source) => Err(RunError::Content {
                label,
                schema: head.schema,
                source,
            }),
        }
    }
}

/// The page of one run, or of a comparison of several.
pub fn page(runs: &[Run]) -> String {
    let mut measured = Vec::new();
    let mut simulated = Vec::new();
    for run in runs {
        match &run.figures {
            Figures::Measured(report) => measured.push((run.label.as_str(), &**report)),
            Figures::Simulated(simulation) => simulated.push((run.label.as_str(), simulation)),
        }
    }
    let title = match runs {
        [run] => run.label.clone(),
        runs => format!("{} runs compared", runs.len()),
    };
    let mut page = Page::new(&title);
    if !measured.is_empty() {
        page.band("MEASURED", "on a live server, timed at the client");
        if measured.len() > 1 {
            compare::measured(&mut page, &measured);
        }
        for (label, report) in &measured {
            match measured.len() {
                1 => bench::section(&mut page, report),
                _ => page.folded(label, |page| bench::section(page, report)),
            }
        }
    }
    if !simulated.is_empty() {
        page.band(
            "SIMULATED",
            "computed from a profile; no device ran, and no figure here was measured",
        );
        if simulated.len() > 1 {
            compare::simulated(&mut page, &simulated);
        }
        for (label, simulation) in &simulated {
            match simulated.len() {
                1 => simulation::section(&mut page, simulation),
                _ => page.folded(label, |page| simulation::section(page, simulation)),
            }
        }
    }
    if runs.is_empty() {
        page.raw(&format!("<p>{}</p>", escape("No run was given.")));
    }
    page.finish()
}

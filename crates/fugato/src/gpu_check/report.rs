//! What a part found.

use super::Part;
use crate::provenance::Provenance;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
#[cfg(any(feature = "cuda", test))]
use std::time::{Duration, Instant};

/// The schema of a [`Report`].
pub const SCHEMA: &str = "fugato.gpu-check/1";

/// The answer to a part's question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Yes.
    Holds,
    /// No.
    Fails,
    /// It could not be tried to the end.
    Unknown,
}

impl Verdict {
    /// The answer of what was tried to its end.
    pub fn of(holds: bool) -> Self {
        match holds {
            true => Self::Holds,
            false => Self::Fails,
        }
    }
}

/// What a part answers.
#[cfg(any(feature = "cuda", test))]
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) verdict: Verdict,
    pub(super) words: String,
    pub(super) facts: serde_json::Value,
}

/// What a part of many measurements goes by: how long it may measure on, and where it puts
/// what it has found so far.
#[cfg(any(feature = "cuda", test))]
pub(super) struct Budget<'a> {
    pub(super) until: Instant,
    pub(super) keep: &'a mut dyn FnMut(Answer) -> anyhow::Result<()>,
}

#[cfg(any(feature = "cuda", test))]
impl Budget<'_> {
    pub(super) fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    pub(super) fn is_spent(&self) -> bool {
        self.left() == Duration::ZERO
    }

    /// Keeps what was found so far: it counts if the part is stopped or breaks off after it.
    pub(super) fn keep(&mut self, so_far: Answer) -> anyhow::Result<()> {
        (self.keep)(so_far)
    }
}

/// What a part found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// The part's name.
    pub part: String,
    /// What was asked.
    pub question: String,
    /// The answer.
    pub verdict: Verdict,
    /// Why, in a sentence or two.
    pub words: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Where and by what it was found; none in reports of versions that did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// What was measured.
    pub facts: serde_json::Value,
}

/// Where, by what and when a part was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The device, as people read it.
    pub device: String,
    /// The driver's own version, where the system tells it.
    pub driver: Option<String>,
    /// The newest CUDA version that the driver knows.
    pub cuda: Option<String>,
    /// ONNX Runtime; none where it did not come to be loaded.
    pub runtime: Option<String>,
    /// cuDNN and cuBLAS, where they can be asked.
    pub libraries: Option<String>,
    /// This program's version.
    pub fugato: String,
    /// The command, commit, machine and time.
    pub made: Provenance,
}

impl Origin {
    /// What is known before anything is loaded.
    pub fn of(device: impl Into<String>) -> Self {
        Self {
            device: device.into(),
            driver: None,
            cuda: None,
            runtime: None,
            libraries: None,
            fugato: env!("CARGO_PKG_VERSION").to_owned(),
            made: Provenance::of_this_process(),
        }
    }

    /// As lines of a page's table; what `loaded` knows of is told where this one does not know.
    fn lines(&self, loaded: Option<&Self>) -> String {
        let Self { device, made, .. } = self;
        let told = |of: fn(&Self) -> &Option<String>| {
            let found = of(self).as_deref();
            let found = found.or_else(|| of(loaded?).as_deref());
            found.unwrap_or("not said")
        };
        let begun = made.started();
        let rows: [(&str, &str); 9] = [
            ("driver", told(|origin| &origin.driver)),
            ("CUDA of the driver", told(|origin| &origin.cuda)),
            ("ONNX Runtime", told(|origin| &origin.runtime)),
            ("libraries", told(|origin| &origin.libraries)),
            ("Fugato", &self.fugato),
            ("commit", made.commit.as_deref().unwrap_or("not said")),
            ("machine", &made.machine),
            ("system", &made.system),
            ("begun", begun.as_str()),
        ];
        let mut text = format!(
            "{device}.\n\n| | |\n|---|---|\n| command | `{}` |\n",
            made.command.join(" ")
        );
        for (name, value) in rows {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "| {name} | {value} |");
        }
        text.push('\n');
        text
    }
}

impl Report {
    /// A report whose time is filled in by whoever measures it.
    pub fn new(part: Part, verdict: Verdict, words: impl Into<String>) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            part: part.name().to_owned(),
            question: part.question().to_owned(),
            verdict,
            words: words.into(),
            seconds: 0.0,
            origin: None,
            facts: serde_json::Value::Null,
        }
    }

    /// The report of an answer.
    #[cfg(feature = "cuda")]
    pub(super) fn of(part: Part, answer: Answer) -> Self {
        let Answer {
            verdict,
            words,
            facts,
        } = answer;
        Self {
            facts,
            ..Self::new(part, verdict, words)
        }
    }
}

/// The reports as a page in Markdown, fit to be kept, under where they were made.
pub fn summary(origin: &Origin, reports: &[Report]) -> String {
    let mut origins = reports.iter().filter_map(|report| report.origin.as_ref());
    let loaded = origins.find(|origin| origin.runtime.is_some());
    let mut text = format!(
        "# GPU check\n\n{}| part | asked | answer | seconds |\n|---|---|---|---|\n",
        origin.lines(loaded)
    );
    for report in reports {
        let answer = match report.verdict {
            Verdict::Holds => "yes",
            Verdict::Fails => "**no**",
            Verdict::Unknown => "**unknown**",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {answer}: {} | {:.1} |",
            report.part,
            report.question,
            // A cell is one line, and a bar would end it.
            report.words.replace(['\n', '|'], " "),
            report.seconds
        );
    }
    text
}

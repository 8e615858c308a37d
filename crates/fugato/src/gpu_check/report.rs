//! What a part found.

use super::Part;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

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
    /// What was measured.
    pub facts: serde_json::Value,
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
            facts: serde_json::Value::Null,
        }
    }
}

/// The reports as a page in Markdown.
pub fn summary(reports: &[Report]) -> String {
    let mut text =
        String::from("# GPU check\n\n| part | asked | answer | seconds |\n|---|---|---|---|\n");
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

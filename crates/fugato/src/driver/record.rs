//! Recordings of the scheduler's inputs on disk, and their replay.
//!
//! A recording is JSON lines: a header, one line per set of inputs that were handed in
//! together, and a footer with the number of actions and their hash where it ended in
//! order.

use fugato_core::Timestamp;
use fugato_core::driver::{
    InputVersionError, RecordedInputs, Recorder, RecordingFooter, RecordingHeader, Replay,
};
use fugato_core::sched::{INPUT_VERSION, Input, SchedulerConfig};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::JoinHandle;

/// Sets of inputs that may wait for the disk. When they do, the driver waits too: a
/// recording with a gap would be worth nothing.
const BACKLOG: usize = 65_536;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Header(RecordingHeader),
    Inputs(RecordedInputs),
    Footer(RecordingFooter),
}

/// Why a recording cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file cannot be opened, written or read.
    #[error("recording `{}` cannot be {action}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A line is no line of a recording.
    #[error("line {line} of recording `{}` cannot be read", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
    /// The lines are not in the order of a recording.
    #[error("line {line} of recording `{}` is a {found}, expected {expected}", path.display())]
    Order {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What it is.
        found: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// The recording is of another input version.
    #[error("recording `{}` cannot be replayed", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Why.
        source: InputVersionError,
    },
}

/// Writes a recording, on a thread of its own.
#[derive(Debug)]
pub struct FileRecorder {
    lines: SyncSender<Line>,
}

/// The writing end's thread; joined after the driver has ended.
#[derive(Debug)]
pub struct RecorderThread {
    thread: JoinHandle<Result<(), RecordingError>>,
    lines: SyncSender<Line>,
}

impl FileRecorder {
    /// Begins a recording at `path`, which is replaced where it exists.
    ///
    /// # Errors
    /// [`RecordingError::File`] where it cannot be made.
    pub fn create(
        path: &Path,
        config: &SchedulerConfig,
    ) -> Result<(Self, RecorderThread), RecordingError> {
        let fail = |source| RecordingError::File {
            path: path.to_owned(),
            action: "made",
            source,
        };
        let file = File::create(path).map_err(fail)?;
        let (lines, written) = mpsc::sync_channel(BACKLOG);
        let owned = path.to_owned();
        let header = RecordingHeader {
            input_version: INPUT_VERSION,
            program: format!("fugato {}", env!("CARGO_PKG_VERSION")),
            config: config.clone(),
        };
        let builder = std::thread::Builder::new().name("fugato-record".to_owned());
        let thread = builder
            .spawn(move || write_lines(file, &owned, &header, &written))
            .map_err(fail)?;
        Ok((
            Self {
                lines: lines.clone(),
            },
            RecorderThread { thread, lines },
        ))
    }
}

fn write_lines(
    file: File,
    path: &Path,
    header: &RecordingHeader,
    lines: &Receiver<Line>,
) -> Result<(), RecordingError> {
    let mut file = BufWriter::new(file);
    let mut write = |line: &Line| -> io::Result<()> {
        serde_json::to_writer(&mut file, line)?;
        file.write_all(b"\n")?;
        if matches!(line, Line::Footer(_)) {
            file.flush()
        } else {
            Ok(())
        }
    };
    let mut result = write(&Line::Header(header.clone()));
    // Lines are taken off to the end even after an error, so that the driver goes on.
    for line in lines {
        let last = matches!(line, Line::Footer(_));
        result = result.and_then(|()| write(&line));
        if last {
            break;
        }
    }
    result.map_err(|source| RecordingError::File {
        path: path.to_owned(),
        action: "written",
        source,
    })
}

impl RecorderThread {
    /// Writes the footer and closes the file.
    ///
    /// # Errors
    /// The first failure of the whole recording.
    pub fn finish(self, footer: RecordingFooter) -> Result<(), RecordingError> {
        // Where the thread is gone its result says why.
        let _ = self.lines.send(Line::Footer(footer));
        match self.thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Recorder for FileRecorder {
    fn record(&mut self, at: Timestamp, inputs: &[Input]) {
        let line = Line::Inputs(RecordedInputs {
            at,
            inputs: inputs.to_vec(),
        });
        if self.lines.send(line).is_err() {
            tracing::error!("the recording's thread has ended, inputs are lost");
        }
    }
}

/// What a replay found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Replayed {
    /// Inputs fed.
    pub inputs: u64,
    /// What the actions came to.
    pub footer: RecordingFooter,
    /// What the recording says they came to; `None` where it was cut off.
    pub recorded: Option<RecordingFooter>,
}

impl Replayed {
    /// Whether the replay gave what was recorded; a recording that was cut off cannot
    /// disagree.
    pub fn agrees(&self) -> bool {
        self.recorded.is_none_or(|recorded| recorded == self.footer)
    }
}

/// Feeds the recording at `path` to a new scheduler.
///
/// # Errors
/// [`RecordingError`] where it cannot be read as a recording of this program's version.
pub fn replay(path: &Path) -> Result<Replayed, RecordingError> {
    let fail = |source| RecordingError::File {
        path: path.to_owned(),
        action: "read",
        source,
    };
    let order = |line, found, expected| RecordingError::Order {
        path: path.to_owned(),
        line,
        found,
        expected,
    };
    let mut lines = BufReader::new(File::open(path).map_err(fail)?)
        .lines()
        .zip(1..);
    let mut next = || -> Result<Option<(Line, usize)>, RecordingError> {
        let Some((text, line)) = lines.next() else {
            return Ok(None);
        };
        let text = text.map_err(fail)?;
        let read = serde_json::from_str(&text);
        let read = read.map_err(|source| RecordingError::Line {
            path: path.to_owned(),
            line,
            source,
        })?;
        Ok(Some((read, line)))
    };
    let mut replay = match next()? {
        Some((Line::Header(header), _)) => {
            Replay::new(&header).map_err(|source| RecordingError::Version {
                path: path.to_owned(),
                source,
            })?
        }
        Some((Line::Inputs(_) | Line::Footer(_), line)) => {
            return Err(order(line, "set of inputs", "the header"));
        }
        None => return Err(order(1, "missing line", "the header")),
    };
    let mut inputs = 0;
    while let Some((read, line)) = next()? {
        match read {
            Line::Inputs(recorded) => {
                inputs += recorded.inputs.len() as u64;
                replay.feed(recorded);
            }
            Line::Footer(recorded) => {
                return Ok(Replayed {
                    inputs,
                    footer: replay.footer(),
                    recorded: Some(recorded),
                });
            }
            Line::Header(_) => return Err(order(line, "header", "a set of inputs or the footer")),
        }
    }
    Ok(Replayed {
        inputs,
        footer: replay.footer(),
        recorded: None,
    })
}

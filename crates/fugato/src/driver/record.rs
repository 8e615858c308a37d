//! Recordings of the scheduler's inputs on disk, and their replay.
//!
//! A recording is JSON lines: a header, one line per set of inputs that were handed in
//! together, and a footer with the number of actions and their hash where it ended in
//! order. The file is flushed whenever no line waits, so that what a killed process leaves
//! is all but its last moment, cut off perhaps within a line.

use fugato_core::Timestamp;
use fugato_core::driver::{
    InputVersionError, RecordedInputs, Recorder, RecordingFooter, RecordingHeader, Replay,
};
use fugato_core::sched::{INPUT_VERSION, Input, SchedulerConfig};
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError};
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
    /// The scheduler cannot take a line: no run of a server writes it there.
    #[error("line {line} of recording `{}` cannot be replayed: {message}", path.display())]
    Impossible {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The assertion that the line breaks.
        message: String,
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
    let mut result = write_line(&mut file, &Line::Header(header.clone()));
    let mut told = false;
    // Lines are taken off to the end even after an error, so that the driver goes on.
    loop {
        let line = match lines.try_recv() {
            Ok(line) => line,
            Err(TryRecvError::Empty) => {
                result = result.and_then(|()| file.flush());
                let Ok(line) = lines.recv() else { break };
                line
            }
            Err(TryRecvError::Disconnected) => break,
        };
        let last = matches!(line, Line::Footer(_));
        result = result.and_then(|()| write_line(&mut file, &line));
        if let Err(error) = &result
            && !told
        {
            told = true;
            tracing::error!(path = %path.display(), %error, "the recording cannot be written and ends here");
        }
        if last {
            break;
        }
    }
    let result = result.and_then(|()| file.flush());
    // What a failed write left in the buffer must not follow it into the file.
    drop(file.into_parts());
    result.map_err(|source| RecordingError::File {
        path: path.to_owned(),
        action: "written",
        source,
    })
}

fn write_line(file: &mut impl Write, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *file, line)?;
    file.write_all(b"\n")
}

impl RecorderThread {
    /// Writes the footer and closes the file.
    ///
    /// # Errors
    /// The first failure of the whole recording.
    pub fn finish(self, footer: RecordingFooter) -> Result<(), RecordingError> {
        // Where the thread is gone its result says why.
        let _ = self.lines.send(Line::Footer(footer));
        self.close()
    }

    /// Closes the file without a footer, as a recording that was cut off. To be called
    /// when the [`FileRecorder`] is gone, for whose last line it waits.
    ///
    /// # Errors
    /// The first failure of the whole recording.
    pub fn close(self) -> Result<(), RecordingError> {
        drop(self.lines);
        match self.thread.join() {
            Ok(result) => result,
            Err(panic) => panic::resume_unwind(panic),
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
/// A last line that is not complete is where the recording was cut off, and no error.
///
/// # Errors
/// [`RecordingError`] where it cannot be read as a recording of this program's version.
pub fn replay(path: &Path) -> Result<Replayed, RecordingError> {
    let mut lines = Lines::open(path)?;
    let mut replay = match lines.next()? {
        Some(Line::Header(header)) => {
            lines
                .guarded(|| Replay::new(&header))?
                .map_err(|source| RecordingError::Version {
                    path: path.to_owned(),
                    source,
                })?
        }
        Some(Line::Inputs(_) | Line::Footer(_)) => {
            return Err(lines.order("set of inputs", "the header"));
        }
        None => return Err(lines.order("missing line", "the header")),
    };
    let mut inputs = 0;
    let mut recorded = None;
    while let Some(line) = lines.next()? {
        match line {
            Line::Inputs(recorded) => {
                inputs += recorded.inputs.len() as u64;
                lines.guarded(|| replay.feed(recorded))?;
            }
            Line::Footer(footer) => {
                recorded = Some(footer);
                break;
            }
            Line::Header(_) => {
                return Err(lines.order("header", "a set of inputs or the footer"));
            }
        }
    }
    Ok(Replayed {
        inputs,
        footer: replay.footer(),
        recorded,
    })
}

/// The lines of a recording that is being read.
struct Lines<'a> {
    path: &'a Path,
    file: BufReader<File>,
    /// The line that was read last, from 1.
    line: usize,
}

impl<'a> Lines<'a> {
    fn open(path: &'a Path) -> Result<Self, RecordingError> {
        let file = File::open(path).map_err(|source| unreadable(path, source))?;
        Ok(Self {
            path,
            file: BufReader::new(file),
            line: 0,
        })
    }

    /// The next line; `None` at the end and where the recording was cut off.
    fn next(&mut self) -> Result<Option<Line>, RecordingError> {
        let mut text = Vec::new();
        let read = self.file.read_until(b'\n', &mut text);
        read.map_err(|source| unreadable(self.path, source))?;
        self.line += 1;
        if text.is_empty() {
            return Ok(None);
        }
        match serde_json::from_slice(&text) {
            Ok(line) => Ok(Some(line)),
            Err(error) if error.is_eof() && !text.ends_with(b"\n") => Ok(None),
            Err(source) => Err(RecordingError::Line {
                path: self.path.to_owned(),
                line: self.line,
                source,
            }),
        }
    }

    fn order(&self, found: &'static str, expected: &'static str) -> RecordingError {
        RecordingError::Order {
            path: self.path.to_owned(),
            line: self.line,
            found,
            expected,
        }
    }

    /// Does what the current line says to the scheduler, whose assertions hold for what a
    /// server tells it and not for whatever a file says.
    fn guarded<T>(&self, feed: impl FnOnce() -> T) -> Result<T, RecordingError> {
        // After a panic the replay is given up, so nobody sees it half changed.
        quietly(feed).map_err(|panic| RecordingError::Impossible {
            path: self.path.to_owned(),
            line: self.line,
            message: message_of(panic.as_ref()),
        })
    }
}

fn unreadable(path: &Path, source: io::Error) -> RecordingError {
    RecordingError::File {
        path: path.to_owned(),
        action: "read",
        source,
    }
}

thread_local! {
    /// Whether a panic of this thread is caught and reported by [`quietly`].
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Calls `work`; a panic is given back and not printed.
fn quietly<T>(work: impl FnOnce() -> T) -> Result<T, Box<dyn Any + Send>> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let printing = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !CAUGHT.get() {
                printing(panic);
            }
        }));
    });
    CAUGHT.set(true);
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    CAUGHT.set(false);
    result
}

/// The text that a panic was raised with.
fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fugato_core::DeviceId;

    /// A recording of `sets` sets of inputs; gives its text.
    fn recorded(path: &Path, sets: u32) -> Vec<u8> {
        let config = SchedulerConfig::default();
        let (mut recorder, thread) = FileRecorder::create(path, &config).unwrap();
        let header = RecordingHeader {
            input_version: INPUT_VERSION,
            program: String::new(),
            config,
        };
        let mut replay = Replay::new(&header).unwrap();
        for id in 0..sets {
            let spec = fugato_core::device::DeviceSpec::nested(
                DeviceId(u16::try_from(id).unwrap()),
                "gerät",
                fugato_core::Share(1),
                &[fugato_core::device::LaneClass::Normal],
                &[],
            );
            let inputs = [Input::DeviceAdded(spec)];
            recorder.record(Timestamp::ZERO, &inputs);
            replay.feed(RecordedInputs {
                at: Timestamp::ZERO,
                inputs: inputs.to_vec(),
            });
        }
        drop(recorder);
        thread.finish(replay.footer()).unwrap();
        std::fs::read(path).unwrap()
    }

    #[test]
    fn a_recording_cut_anywhere_is_cut_off_and_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let text = recorded(&path, 3);
        let whole = replay(&path).unwrap();
        assert_eq!((whole.inputs, whole.agrees()), (3, true));
        assert!(whole.recorded.is_some());
        let header = text.iter().position(|byte| *byte == b'\n').unwrap();
        // One byte less than all is a whole footer without its line's end.
        for length in header..text.len() - 1 {
            std::fs::write(&path, &text[..length]).unwrap();
            let cut = replay(&path).unwrap_or_else(|error| panic!("cut at {length}: {error}"));
            assert_eq!(cut.recorded, None, "cut at {length}");
            assert!(cut.agrees());
        }
        std::fs::write(&path, &text[..header / 2]).unwrap();
        let error = replay(&path).unwrap_err();
        assert!(
            matches!(error, RecordingError::Order { line: 1, .. }),
            "{error}"
        );
        // What is broken and not cut is an error still.
        let broken = [&text[..text.len() / 2], b"\n"].concat();
        std::fs::write(&path, broken).unwrap();
        assert!(matches!(replay(&path), Err(RecordingError::Line { .. })));
    }

    #[test]
    fn a_recording_that_is_closed_without_a_footer_has_all_its_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let (mut recorder, thread) =
            FileRecorder::create(&path, &SchedulerConfig::default()).unwrap();
        for _ in 0..1_000 {
            recorder.record(Timestamp::ZERO, &[]);
        }
        drop(recorder);
        thread.close().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 1_001);
        assert_eq!(replay(&path).unwrap().recorded, None);
    }

    #[test]
    fn a_disk_that_is_full_ends_the_recording_and_not_the_driver() {
        let (mut recorder, thread) =
            FileRecorder::create(Path::new("/dev/full"), &SchedulerConfig::default()).unwrap();
        for _ in 0..2 * BACKLOG {
            recorder.record(Timestamp::ZERO, &[]);
        }
        drop(recorder);
        let error = thread.close().unwrap_err();
        assert!(error.to_string().contains("/dev/full"), "{error}");
    }

    #[test]
    fn an_impossible_line_is_named_with_what_it_breaks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let mut text = recorded(&path, 1);
        let end = text.iter().rposition(|byte| *byte != b'\n').unwrap();
        text.truncate(text[..end].iter().rposition(|byte| *byte == b'\n').unwrap() + 1);
        let twice = text
            .split_inclusive(|byte| *byte == b'\n')
            .next_back()
            .unwrap();
        let twice = [&text[..], twice].concat();
        std::fs::write(&path, twice).unwrap();
        let error = replay(&path).unwrap_err();
        let RecordingError::Impossible { line, message, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(*line, 3, "{error}");
        assert!(!message.is_empty());
    }
}

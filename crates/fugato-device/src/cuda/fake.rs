//! A device that exists only in tests: streams, events and memory as the driver has them,
//! models that add bytes, and faults when asked for.
//!
//! Work that is enqueued is done at once, in the order that streams and events ask for, except
//! runs on slices that are [held](Fake::hold). Time passes only where work takes it.

mod asked;
mod capture;
mod handles;
mod memory;
mod model;

pub(super) use model::{FakeFacts, FakeModel, Spoils, graph, model};

use super::backend::{Backend, Fault, FaultKind, GraphId, How, Places, SessionOptions};
use super::graph::GraphNodes;
use super::priority::Priorities;
use crate::store::{CutModel, Cuts, LoadCause, ModelInfo, Part};
use capture::{Capture, FakeCaptured, FakeGraph};
use fugato_core::Nanos;
use fugato_core::device::AtomSet;
use handles::{FakeBinding, FakeSession, FakeTurn, Marks};
use memory::{Bound, FakeMemory, FakePinned, Taken};
use model::FakePart;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;

/// Long enough on any machine; what waits longer waits in vain.
const PATIENCE: Duration = Duration::from_secs(120);

/// A handle on the device, for the test and for the device over it.
#[derive(Clone)]
pub(super) struct Fake(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    now: u64,
    memory_left: usize,
    streams: Vec<(AtomSet, VecDeque<Op>)>,
    /// By stream.
    priority_of: Vec<i32>,
    /// What streams may have.
    priorities: Priorities,
    /// By session that was made: its name, and the priority of its stream.
    sessions: Vec<(String, i32)>,
    events: Vec<Marks>,
    held: AtomSet,
    faults: BTreeMap<&'static str, VecDeque<Planned>>,
    lost: bool,
    /// Whether a session is being made somewhere, which holds captures up.
    busy: bool,
    /// Who has the turn.
    turn: Option<ThreadId>,
    /// Bytes that others take, for good, for each of so many turns that somebody waits for.
    turns_take: (usize, usize),
    log: Vec<String>,
    capture: Option<Capture>,
    /// What captured graphs consist of besides.
    captures_hold: GraphNodes,
    /// Bytes that each of so many captures to come takes.
    captures_take: (usize, usize),
    /// Events that a capture saw, and that were not recorded since.
    seen_by_captures: BTreeSet<usize>,
    /// The host's time, and how much of it making or dropping a session takes.
    slow: Option<(Arc<AtomicU64>, Nanos)>,
    /// What is done as a session is made, or dropped.
    meanwhile: Option<Meanwhile>,
}

type Meanwhile = Arc<dyn Fn() + Send + Sync>;

enum Planned {
    Fault(Fault),
    Panic,
}

enum Op {
    Copy(Box<dyn FnOnce() + Send>, String),
    Run(Box<dyn FnOnce() + Send>, String, u64),
    /// An event, and which of its recordings.
    Record(usize, u64),
    Wait(usize, u64),
}

impl Fake {
    /// A device with so much memory.
    pub(super) fn new(memory: usize) -> Self {
        let state = State {
            memory_left: memory,
            ..State::default()
        };
        Self(Arc::new(Inner {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session is made or dropped, for which one must not have the turn.
    fn take_time(&self) {
        let state = self.lock();
        let (turn, meanwhile) = (state.turn, state.meanwhile.clone());
        if let Some((time, takes)) = &state.slow {
            time.fetch_add(takes.as_nanos(), Ordering::SeqCst);
        }
        drop(state);
        assert!(
            turn != Some(std::thread::current().id()) || std::thread::panicking(),
            "a session is made or dropped by whoever has the turn, and waits for it for ever"
        );
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
    }

    /// A kernel went wrong: from now on every call fails, and nothing ends well.
    pub(super) fn lose(&self) {
        self.lock().lost = true;
        self.0.changed.notify_all();
    }

    /// Lets no run on these slices begin.
    pub(super) fn hold(&self, atoms: AtomSet) {
        self.lock().held = atoms;
    }

    /// Lets all runs go on.
    pub(super) fn release(&self) {
        self.hold(AtomSet::EMPTY);
        self.pump(self.lock());
    }

    pub(super) fn memory_left(&self) -> usize {
        self.lock().memory_left
    }

    /// What the device has done so far: copies, runs, sessions made.
    pub(super) fn log(&self) -> Vec<String> {
        self.lock().log.clone()
    }

    /// Waits until so many lines of the log contain `text`.
    pub(super) fn until_logged(&self, text: &str, times: usize) {
        let is_there = |state: &State| {
            let lines = state.log.iter().filter(|line| line.contains(text));
            lines.count() >= times
        };
        let state = self.lock();
        let waited = self
            .0
            .changed
            .wait_timeout_while(state, PATIENCE, |state| !is_there(state));
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(
            is_there(&state),
            "{text} not {times} times in {:?}",
            state.log
        );
    }

    fn call(&self, name: &'static str) -> Result<MutexGuard<'_, State>, Fault> {
        let mut state = self.lock();
        let planned = state.faults.get_mut(name).and_then(VecDeque::pop_front);
        match planned {
            Some(Planned::Fault(fault)) => Err(fault),
            Some(Planned::Panic) => {
                drop(state);
                panic!("{name} was to panic");
            }
            None if state.lost => Err(lost()),
            None => Ok(state),
        }
    }

    fn take(&self, mut state: MutexGuard<'_, State>, bytes: usize) -> Result<Taken, Fault> {
        match state.memory_left.checked_sub(bytes) {
            Some(left) => state.memory_left = left,
            None => {
                return Err(Fault {
                    kind: FaultKind::OutOfMemory,
                    detail: format!("{bytes} bytes of {} left", state.memory_left),
                });
            }
        }
        let of = self.clone();
        Ok(Taken { bytes, of })
    }

    fn push(&self, mut state: MutexGuard<'_, State>, stream: usize, op: Op) {
        if let Op::Run(_, text, _) = &op {
            let text = format!("given: {text}");
            state.log.push(text);
        }
        state.streams[stream].1.push_back(op);
        self.pump(state);
    }

    /// Does what can be done.
    fn pump(&self, mut state: MutexGuard<'_, State>) {
        while let Some(stream) = (0..state.streams.len()).find(|&stream| state.can_go_on(stream)) {
            let Some(op) = state.streams[stream].1.pop_front() else {
                break;
            };
            match op {
                Op::Copy(copy, text) => {
                    copy();
                    state.log.push(text);
                }
                Op::Run(run, text, takes) => {
                    run();
                    state.now += takes;
                    state.log.push(format!("ran: {text}"));
                }
                Op::Record(event, mark) => {
                    let now = state.now;
                    let marks = &mut state.events[event];
                    (marks.reached, marks.at) = (mark, now);
                }
                Op::Wait(..) => {}
            }
        }
        drop(state);
        self.0.changed.notify_all();
    }

    /// Waits until a stream has nothing more to do.
    fn idle(&self, state: MutexGuard<'_, State>, stream: usize) -> Result<(), Fault> {
        self.until(state, |state| state.streams[stream].1.is_empty())
    }

    /// Waits until something is so. After too long the device is lost, so that a test that fails
    /// ends.
    fn until(
        &self,
        state: MutexGuard<'_, State>,
        is_so: impl Fn(&State) -> bool,
    ) -> Result<(), Fault> {
        let is_open = |state: &mut State| !is_so(state) && !state.lost;
        let waited = self.0.changed.wait_timeout_while(state, PATIENCE, is_open);
        let (mut state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        state.lost |= waited.timed_out();
        match state.lost {
            true => Err(lost()),
            false => Ok(()),
        }
    }
}

fn lost() -> Fault {
    Fault {
        kind: FaultKind::Lost,
        detail: "an illegal memory access was encountered".to_owned(),
    }
}

impl State {
    fn can_go_on(&self, stream: usize) -> bool {
        let (atoms, ops) = &self.streams[stream];
        match ops.front() {
            None => false,
            _ if self.lost => false,
            Some(Op::Run(..)) => !atoms.overlaps(self.held),
            Some(Op::Wait(event, mark)) => self.events[*event].reached >= *mark,
            Some(Op::Copy(..) | Op::Record(..)) => true,
        }
    }
}

impl Backend for Fake {
    const ALIGN: usize = 16;

    type Model = FakeModel;
    type Weights = Arc<Taken>;
    type Session = FakeSession;
    type Binding = FakeBinding;
    type Captured = FakeCaptured;
    type Graph = FakeGraph;
    type Stream = usize;
    type Event = usize;
    type Memory = FakeMemory;
    type Pinned = FakePinned;
    type Turn = FakeTurn;

    fn enter(&self) -> Result<(), Fault> {
        self.call("enter").map(drop)
    }

    fn priorities(&self) -> Result<Priorities, Fault> {
        Ok(self.call("priorities")?.priorities)
    }

    fn stream(&self, atoms: AtomSet, priority: i32) -> Result<Arc<usize>, Fault> {
        let mut state = self.call("stream")?;
        state.streams.push((atoms, VecDeque::new()));
        state.priority_of.push(priority);
        Ok(Arc::new(state.streams.len() - 1))
    }

    fn event(&self) -> Result<usize, Fault> {
        let mut state = self.call("event")?;
        state.events.push(Marks::default());
        Ok(state.events.len() - 1)
    }

    fn memory(&self, bytes: usize) -> Result<FakeMemory, Fault> {
        let taken = self.take(self.call("memory")?, bytes)?;
        Ok(FakeMemory {
            content: Arc::new(Mutex::new(vec![0xAA; bytes])),
            _taken: taken,
        })
    }

    fn pinned(&self, bytes: usize) -> Result<FakePinned, Fault> {
        drop(self.call("pinned")?);
        Ok(FakePinned {
            bytes: vec![0; bytes],
            landed: Arc::default(),
        })
    }

    fn upload(
        &self,
        from: &FakePinned,
        to: &FakeMemory,
        bytes: usize,
        on: &usize,
    ) -> Result<(), Fault> {
        let state = self.call("upload")?;
        let (from, to) = (from.bytes[..bytes].to_vec(), Arc::clone(&to.content));
        let copy = move || {
            let mut to = to.lock().unwrap_or_else(PoisonError::into_inner);
            to[..from.len()].copy_from_slice(&from);
        };
        self.push(
            state,
            *on,
            Op::Copy(Box::new(copy), format!("upload {bytes}")),
        );
        Ok(())
    }

    fn download(
        &self,
        from: &FakeMemory,
        to: &mut FakePinned,
        bytes: usize,
        on: &usize,
    ) -> Result<(), Fault> {
        let state = self.call("download")?;
        to.landed = Arc::default();
        let (from, to) = (Arc::clone(&from.content), Arc::clone(&to.landed));
        let copy = move || {
            let from = from.lock().unwrap_or_else(PoisonError::into_inner);
            // Once for each download, for which the place was made.
            let _ = to.set(from.clone());
        };
        self.push(
            state,
            *on,
            Op::Copy(Box::new(copy), format!("download {bytes}")),
        );
        Ok(())
    }

    fn record(&self, event: &usize, on: &usize) -> Result<(), Fault> {
        let mut state = self.call("record")?;
        if state.record_in_capture(*event, *on) {
            return Ok(());
        }
        state.seen_by_captures.remove(event);
        state.events[*event].recorded += 1;
        let mark = state.events[*event].recorded;
        self.push(state, *on, Op::Record(*event, mark));
        Ok(())
    }

    fn wait(&self, on: &usize, event: &usize) -> Result<(), Fault> {
        let mut state = self.call("wait")?;
        if state.wait_in_capture(*on, *event)? {
            return Ok(());
        }
        let mark = state.events[*event].recorded;
        self.push(state, *on, Op::Wait(*event, mark));
        Ok(())
    }

    fn finish(&self, event: &usize) -> Result<(), Fault> {
        let state = self.call("finish")?;
        self.until(state, |state| state.events[*event].time().is_some())
    }

    fn elapsed(&self, since: &usize, until: &usize) -> Result<Nanos, Fault> {
        let state = self.call("elapsed")?;
        match (state.events[*since].time(), state.events[*until].time()) {
            (Some(since), Some(until)) => Ok(Nanos::new(until.saturating_sub(since))),
            _ => Err(Fault::other("an event was not reached")),
        }
    }

    fn describe(model: &FakeModel) -> (&ModelInfo, &Path) {
        (&model.0.info, &model.0.path)
    }

    fn weights(&self, model: &FakeModel) -> Result<Arc<Taken>, Fault> {
        let bytes = usize::try_from(model.0.info.weight_bytes).unwrap_or(usize::MAX);
        Ok(Arc::new(self.take(self.call("weights")?, bytes)?))
    }

    fn operators(model: &FakeModel) -> Result<usize, LoadCause> {
        Ok(model.0.graph.graph().operators().len())
    }

    fn cut(model: &FakeModel, cuts: &Cuts) -> Result<CutModel, LoadCause> {
        let folder = model.0.folder.path().join("entry");
        cuts.write(&folder, Arc::clone(&model.0.graph))
    }

    fn session(
        &self,
        model: (&FakeModel, Option<&Part>),
        weights: &Arc<Arc<Taken>>,
        stream: &Arc<usize>,
        SessionOptions { graphs, .. }: SessionOptions,
    ) -> Result<FakeSession, Fault> {
        let part = FakePart::of(model);
        self.take_time();
        let mut state = self.call("session")?;
        if !part.can_load() {
            return Err(Fault::other(format!("{} has no kernel", part.name())));
        }
        if graphs && part.needs_host() {
            return Err(Fault::other("some of it runs on the host"));
        }
        if graphs && part.branches() {
            return Err(Fault::other("it has control flow"));
        }
        let with = if graphs { "with" } else { "without" };
        let line = format!("session: {} {with} graphs", part.name());
        state.log.push(line);
        let priority = state.priority_of[**stream];
        state.sessions.push((part.name(), priority));
        self.0.changed.notify_all();
        Ok(FakeSession {
            taken: Arc::new(self.take(state, part.model.0.session_bytes)?),
            _weights: Arc::clone(weights),
            part,
            stream: **stream,
            graphs,
            in_flight: Arc::default(),
        })
    }

    fn on_host(&self, session: &FakeSession) -> Result<BTreeMap<String, usize>, Fault> {
        drop(self.call("on_host")?);
        Ok(session.part.on_host())
    }

    fn bind(
        &self,
        session: &FakeSession,
        places: &Places<'_, FakeMemory>,
    ) -> Result<FakeBinding, Fault> {
        drop(self.call("bind")?);
        Ok(FakeBinding {
            part: session.part.clone(),
            stream: session.stream,
            graphs: session.graphs,
            // The batch comes first everywhere.
            rows: places.outputs[0].dims[0],
            inputs: places.inputs.iter().map(Bound::of).collect(),
            outputs: places.outputs.iter().map(Bound::of).collect(),
            captured: Vec::new(),
            in_flight: Arc::clone(&session.in_flight),
            session: Arc::clone(&session.taken),
        })
    }

    fn run(&self, binding: &mut FakeBinding, how: How) -> Result<(), Fault> {
        match how {
            How::Eager => self.enqueue_run(binding, "run", "eager"),
            How::Recorded => self.record_run(binding),
            How::Replay(graph) => {
                assert!(binding.captured.contains(&graph), "{graph:?} was captured");
                self.enqueue_run(binding, "replay", "replayed")
            }
        }
    }

    fn turn(&self) -> FakeTurn {
        let is_taken = |state: &mut State| state.busy || state.turn.is_some();
        let waited = self
            .0
            .changed
            .wait_timeout_while(self.lock(), PATIENCE, is_taken);
        let (mut state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!waited.timed_out(), "the turn is waited for in vain");
        let (turns, bytes) = state.turns_take;
        if turns > 0 {
            state.turns_take.0 -= 1;
            state.memory_left -= bytes;
        }
        state.turn = Some(std::thread::current().id());
        FakeTurn(self.clone())
    }

    fn try_turn(&self) -> Option<FakeTurn> {
        let mut state = self.lock();
        if state.busy || state.turn.is_some() {
            return None;
        }
        state.turn = Some(std::thread::current().id());
        Some(FakeTurn(self.clone()))
    }

    fn capture(
        &self,
        _turn: &FakeTurn,
        binding: &mut FakeBinding,
        graph: GraphId,
    ) -> Result<(), Fault> {
        assert!(binding.graphs, "the session was made for it");
        if binding.part.model.0.breaks_captures {
            return Err(Fault {
                kind: FaultKind::Capture,
                detail: "operation not permitted when stream is capturing".to_owned(),
            });
        }
        self.enqueue_run(binding, "capture", "captured")?;
        binding.captured.push(graph);
        Ok(())
    }

    fn capture_streams(
        &self,
        _turn: &FakeTurn,
        from: &usize,
        enqueue: &mut dyn FnMut() -> Result<(), Fault>,
    ) -> Result<FakeCaptured, Fault> {
        self.capture_from(*from, enqueue)
    }

    fn contents(&self, captured: &FakeCaptured, on: &usize) -> Result<GraphNodes, Fault> {
        self.contents_of(captured, *on)
    }

    fn memory_free(&self) -> Result<u64, Fault> {
        Ok(self.call("memory_free")?.memory_left as u64)
    }

    fn make_graph(&self, captured: FakeCaptured, _on: &usize) -> Result<FakeGraph, Fault> {
        self.graph_of(captured)
    }

    fn launch(&self, graph: &FakeGraph, on: &usize) -> Result<(), Fault> {
        self.launch_on(graph, *on)
    }

    fn write(&self, bytes: &[u8], (to, at): (&FakeMemory, usize), on: &usize) -> Result<(), Fault> {
        self.idle(self.call("write")?, *on)?;
        let mut content = to.content.lock().unwrap_or_else(PoisonError::into_inner);
        content[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn read(
        &self,
        (from, at): (&FakeMemory, usize),
        bytes: usize,
        on: &usize,
    ) -> Result<Vec<u8>, Fault> {
        self.idle(self.call("read")?, *on)?;
        let content = from.content.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(content[at..at + bytes].to_vec())
    }
}

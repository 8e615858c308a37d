//! Captures of several streams, and graphs that keep only the order that was captured: of runs
//! that wait for nothing, those that were given last come first.

use super::super::backend::{Fault, FaultKind};
use super::super::graph::GraphNodes;
use super::model::Spoils;
use super::{Bound, Fake, FakeBinding, Op, State, Taken};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Runs of a session that are on a device, and on which stream.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct InFlight {
    runs: usize,
    stream: usize,
    /// The rows that the session ran last by itself; none before it ran.
    rows: i64,
}

/// A run in a capture, and which must have ended before it.
struct Node {
    run: Box<dyn Fn() + Send + Sync>,
    text: String,
    takes: u64,
    after: BTreeSet<usize>,
    /// Whether a run of the graph keeps to that.
    ordered: bool,
    session: Weak<Taken>,
    in_flight: Arc<Mutex<InFlight>>,
}

/// A capture that is open.
#[derive(Default)]
pub(super) struct Capture {
    from: usize,
    nodes: Vec<Node>,
    /// By stream that takes part: what its next run comes after.
    tails: BTreeMap<usize, BTreeSet<usize>>,
    /// By event that was recorded in it: what it comes after.
    events: BTreeMap<usize, BTreeSet<usize>>,
}

pub(in super::super) struct FakeCaptured {
    from: usize,
    nodes: Vec<Node>,
    holds: GraphNodes,
}

pub(in super::super) struct FakeGraph(Arc<Vec<Node>>);

impl Drop for FakeGraph {
    fn drop(&mut self) {
        let mut sessions = self.0.iter().map(|node| &node.session);
        let all = sessions.all(|session| session.strong_count() > 0);
        assert!(
            all || std::thread::panicking(),
            "a graph goes before its sessions"
        );
    }
}

fn broken(detail: &str) -> Fault {
    Fault {
        kind: FaultKind::Capture,
        detail: detail.to_owned(),
    }
}

impl Capture {
    /// What has to be done before the end of `tail`, itself included.
    fn before(&self, tail: &BTreeSet<usize>) -> BTreeSet<usize> {
        let mut left: Vec<_> = tail.iter().copied().collect();
        let mut found = BTreeSet::new();
        while let Some(node) = left.pop() {
            if found.insert(node) {
                left.extend(&self.nodes[node].after);
            }
        }
        found
    }
}

impl State {
    /// Whether a stream takes part in a capture.
    pub(super) fn captures(&self, stream: usize) -> bool {
        let capture = self.capture.as_ref();
        capture.is_some_and(|capture| capture.tails.contains_key(&stream))
    }

    /// Records an event in a capture; says whether there is one on that stream.
    pub(super) fn record_in_capture(&mut self, event: usize, on: usize) -> bool {
        let Some(capture) = &mut self.capture else {
            return false;
        };
        let Some(tail) = capture.tails.get(&on) else {
            return false;
        };
        capture.events.insert(event, tail.clone());
        true
    }

    /// Has a stream wait in a capture, which it joins by that; says whether it does.
    pub(super) fn wait_in_capture(&mut self, on: usize, event: usize) -> Result<bool, Fault> {
        let Some(capture) = &mut self.capture else {
            return match self.seen_by_captures.contains(&event) {
                true => Err(broken("an event of a capture is used outside of it")),
                false => Ok(false),
            };
        };
        match (capture.events.get(&event), capture.tails.contains_key(&on)) {
            (Some(after), _) => {
                let after = after.clone();
                capture.tails.entry(on).or_default().extend(after);
                Ok(true)
            }
            (None, true) => Err(broken("a capture waits for work outside of it")),
            (None, false) => Ok(false),
        }
    }
}

/// What a run computes, again and again.
fn computation(binding: &FakeBinding, recorded: bool) -> impl Fn() + Send + Sync + use<> {
    let (inputs, outputs) = (binding.inputs.clone(), binding.outputs.clone());
    let part = binding.part.clone();
    let read = |input: &Bound| {
        let content = input.content()[input.range.clone()].to_vec();
        (input.name.clone(), content)
    };
    let spoils = part.model.0.spoils;
    let spoils = match recorded || matches!(spoils, Spoils::Part(_)) {
        true => spoils,
        false => Spoils::Nothing,
    };
    let frozen: Option<BTreeMap<_, _>> =
        (spoils == Spoils::Inputs).then(|| inputs.iter().map(read).collect());
    let (in_flight, rows) = (Arc::clone(&binding.in_flight), binding.rows);
    move || {
        let mut tensors = match &frozen {
            Some(frozen) => frozen.clone(),
            None => inputs.iter().map(read).collect(),
        };
        part.run(&mut tensors);
        let is_kept_back = match spoils {
            Spoils::Outputs => true,
            Spoils::Group(name) => part.name().ends_with(&format!(":{name}")),
            Spoils::OtherBatches => lock(&in_flight).rows != rows,
            Spoils::Nothing | Spoils::Inputs | Spoils::Order | Spoils::Part(_) => false,
        };
        let is_wrong = matches!(
            spoils,
            Spoils::Part(name) if part.name().ends_with(&format!(":{name}"))
        );
        if is_wrong {
            let given = tensors.values_mut().flatten();
            given.for_each(|byte| *byte = byte.wrapping_add(100));
        }
        for output in outputs.iter().filter(|_| !is_kept_back) {
            output.content()[output.range.clone()].copy_from_slice(&tensors[&output.name]);
        }
    }
}

impl Fake {
    /// Has captured graphs consist of this besides: kernels of another partition, say.
    pub(in super::super) fn captures_hold(&self, nodes: GraphNodes) {
        self.lock().captures_hold = nodes;
    }

    /// Has so many captures to come take so many bytes each, for good.
    pub(in super::super) fn captures_take(&self, captures: usize, bytes: usize) {
        self.lock().captures_take = (captures, bytes);
    }

    pub(super) fn enqueue_run(
        &self,
        binding: &FakeBinding,
        name: &'static str,
        how: &str,
    ) -> Result<(), Fault> {
        let state = self.call(name)?;
        if state.captures(binding.stream) {
            return Err(broken("a run waits for a stream that is captured"));
        }
        let mut in_flight = lock(&binding.in_flight);
        let runs = in_flight.runs;
        assert_eq!(runs, 0, "a session runs while a graph that it is in does");
        assert!(
            in_flight.rows > 0 || state.turn == Some(std::thread::current().id()),
            "the first run of a session takes the turn"
        );
        in_flight.rows = binding.rows;
        drop(in_flight);
        let text = format!("{} x{} {how}", binding.part.name(), binding.rows);
        let takes = binding.part.model.0.takes.as_nanos();
        let run = Box::new(computation(binding, false));
        self.push(state, binding.stream, Op::Run(run, text, takes));
        Ok(())
    }

    /// Takes a run into the capture of its stream.
    pub(super) fn record_run(&self, binding: &FakeBinding) -> Result<(), Fault> {
        assert!(binding.graphs, "the session was made for it");
        let mut state = self.call("recorded")?;
        let node = Node {
            run: Box::new(computation(binding, true)),
            text: format!("{} x{}", binding.part.name(), binding.rows),
            takes: binding.part.model.0.takes.as_nanos(),
            after: BTreeSet::new(),
            ordered: binding.part.model.0.spoils != Spoils::Order,
            session: Arc::downgrade(&binding.session),
            in_flight: Arc::clone(&binding.in_flight),
        };
        let capture = state.capture.as_mut();
        let capture = capture.expect("runs are recorded in captures");
        let number = capture.nodes.len();
        let tail = capture.tails.get_mut(&binding.stream);
        let tail = tail.expect("the run's stream is captured");
        let after = std::mem::replace(tail, BTreeSet::from([number]));
        capture.nodes.push(Node { after, ..node });
        Ok(())
    }

    pub(super) fn capture_from(
        &self,
        from: usize,
        enqueue: &mut dyn FnMut() -> Result<(), Fault>,
    ) -> Result<FakeCaptured, Fault> {
        let mut state = self.call("capture_streams")?;
        assert!(state.capture.is_none(), "captures go one at a time");
        assert!(
            state.streams[from].1.is_empty(),
            "what comes before has ended"
        );
        state.capture = Some(Capture {
            from,
            tails: BTreeMap::from([(from, BTreeSet::new())]),
            ..Capture::default()
        });
        drop(state);
        // Ended also where `enqueue` panics.
        let open = Open(self);
        let done = enqueue();
        let capture = open.end();
        done?;
        let capture = capture.expect("it was begun");
        let mut state = self.call("end_capture")?;
        let joined = capture.before(&capture.tails[&capture.from]);
        if joined.len() < capture.nodes.len() {
            return Err(broken("the capture has work that was not joined"));
        }
        let runs: Vec<_> = capture
            .nodes
            .iter()
            .map(|node| node.text.as_str())
            .collect();
        let line = format!("captured: {}", runs.join(", "));
        state.log.push(line);
        let (captures, bytes) = state.captures_take;
        if captures > 0 {
            state.captures_take.0 -= 1;
            state.memory_left -= bytes;
        }
        Ok(FakeCaptured {
            from,
            holds: GraphNodes {
                kernels: capture.nodes.len() + state.captures_hold.kernels,
                kernels_of_partition: capture.nodes.len(),
                ..state.captures_hold
            },
            nodes: capture.nodes,
        })
    }

    pub(super) fn contents_of(
        &self,
        captured: &FakeCaptured,
        on: usize,
    ) -> Result<GraphNodes, Fault> {
        let state = self.call("contents")?;
        let atoms = |stream: usize| state.streams[stream].0;
        assert_eq!(
            atoms(captured.from),
            atoms(on),
            "its own partition is asked about"
        );
        Ok(captured.holds)
    }

    pub(super) fn graph_of(&self, mut captured: FakeCaptured) -> Result<FakeGraph, Fault> {
        drop(self.call("make_graph")?);
        for node in captured.nodes.iter_mut().filter(|node| !node.ordered) {
            node.after.clear();
        }
        Ok(FakeGraph(Arc::new(captured.nodes)))
    }

    pub(super) fn launch_on(&self, graph: &FakeGraph, on: usize) -> Result<(), Fault> {
        let state = self.call("launch")?;
        let nodes = Arc::clone(&graph.0);
        for node in &*nodes {
            let mut in_flight = lock(&node.in_flight);
            assert!(
                in_flight.runs == 0 || in_flight.stream == on,
                "graphs of one session run one after the other"
            );
            (in_flight.runs, in_flight.stream) = (in_flight.runs + 1, on);
        }
        let runs: Vec<_> = nodes.iter().map(|node| node.text.as_str()).collect();
        let text = format!("at once: {}", runs.join(", "));
        let takes = longest(&nodes);
        let run = move || {
            let mut done = BTreeSet::new();
            while done.len() < nodes.len() {
                let mut left = (0..nodes.len()).rev();
                let next = left
                    .find(|number| !done.contains(number) && nodes[*number].after.is_subset(&done));
                let next = next.expect("what was captured has an order");
                (nodes[next].run)();
                lock(&nodes[next].in_flight).runs -= 1;
                done.insert(next);
            }
        };
        self.push(state, on, Op::Run(Box::new(run), text, takes));
        Ok(())
    }
}

fn lock(in_flight: &Mutex<InFlight>) -> MutexGuard<'_, InFlight> {
    in_flight.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time of the longest way through runs that stand in the order they were given.
fn longest(nodes: &[Node]) -> u64 {
    let mut ends: Vec<u64> = Vec::with_capacity(nodes.len());
    for node in nodes {
        let begun = node.after.iter().map(|&before| ends[before]).max();
        ends.push(begun.unwrap_or(0) + node.takes);
    }
    ends.into_iter().max().unwrap_or(0)
}

/// A capture that is open until this goes.
struct Open<'a>(&'a Fake);

impl Open<'_> {
    fn end(self) -> Option<Capture> {
        self.take()
    }

    fn take(&self) -> Option<Capture> {
        let mut state = self.0.lock();
        let capture = state.capture.take();
        let events = capture.iter().flat_map(|capture| capture.events.keys());
        let events: Vec<_> = events.copied().collect();
        state.seen_by_captures.extend(events);
        capture
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        drop(self.take());
    }
}

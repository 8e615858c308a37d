//! The timeline of a run, of the server or of the simulator, as a trace.
//!
//! [`write_trace`] writes the JSON form of the trace event format, which Perfetto
//! (`ui.perfetto.dev`) and `chrome://tracing` open: a process for each device, a thread for
//! each slice, and a leg on the thread of every slice it had.
//!
//! **Invariant:** events of one thread never overlap. Where legs share a slice at the same
//! time (oversubscription, or an urgent lane beside a suspended one), the slice gets further
//! threads.

use fugato_core::device::DeviceSpec;
use fugato_core::timeline::TimelineLeg;
use fugato_core::{DeviceId, LegIndex, ModelId, Nanos, Timestamp};
use serde::Serialize;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

/// Threads are numbered by device, slice and row; no device has more slices.
const SLICES: u64 = 1_000;

/// As [`SLICES`]; legs on one slice at once past it share the last row.
const ROWS: u16 = 999;

/// Colours of `chrome://tracing` for models; Perfetto colours by name itself.
const COLOURS: [&str; 10] = [
    "thread_state_runnable",
    "thread_state_iowait",
    "good",
    "terrible",
    "thread_state_running",
    "rail_load",
    "cq_build_passed",
    "bad",
    "rail_response",
    "grey",
];

/// What a timeline shows, and of what.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// Whether a simulator made it: a reader must see it.
    pub simulated: bool,
    /// What ran, for people: policy, workload, machine.
    pub what: &'a str,
    /// The devices.
    pub devices: &'a [DeviceSpec],
    /// Names of models; one that is not here is shown by its number.
    pub models: &'a BTreeMap<ModelId, String>,
    /// The legs, in any order.
    pub legs: &'a [TimelineLeg],
    /// Legs that ran and are not among `legs`.
    pub lost: u64,
}

impl<'a> Scene<'a> {
    /// The legs by their starts.
    pub(crate) fn in_order(&self) -> Vec<&'a TimelineLeg> {
        let mut legs: Vec<&TimelineLeg> = self.legs.iter().collect();
        legs.sort_by_key(|leg| (leg.started, leg.task, leg.leg));
        legs
    }

    /// The models that ran, by id, with their names.
    pub(crate) fn models_that_ran(&self) -> Vec<(ModelId, String)> {
        let ran: BTreeSet<ModelId> = self.legs.iter().map(|leg| leg.model).collect();
        let name = |id| self.models.get(&id).cloned();
        ran.into_iter()
            .map(|id| (id, name(id).unwrap_or_else(|| id.to_string())))
            .collect()
    }
}

/// What people read of a task that ran unsplit, in place of its leg.
const IN_ONE_GO: &str = "in one go";

/// What people read of a leg of a task.
pub(crate) fn leg_name(leg: LegIndex, unsplit: bool) -> String {
    match unsplit {
        true => IN_ONE_GO.to_owned(),
        false => leg.to_string(),
    }
}

/// Puts legs that have a slice at the same time into different rows of it.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    /// By device and atom, when each row falls free.
    free: BTreeMap<(DeviceId, u16), Vec<Timestamp>>,
}

impl Rows {
    /// The lowest row that is free on all slices of a leg, which then has it. Legs come in
    /// order of their starts.
    pub(crate) fn place(&mut self, leg: &TimelineLeg) -> u16 {
        let taken = |rows: &Self, row: u16| {
            leg.atoms.iter().any(|atom| {
                let free = rows.free.get(&(leg.device, atom));
                free.and_then(|free| free.get(usize::from(row)))
                    .is_some_and(|free| *free > leg.started)
            })
        };
        let row = (0..ROWS).find(|row| !taken(self, *row)).unwrap_or(ROWS);
        for atom in leg.atoms.iter() {
            let free = self.free.entry((leg.device, atom)).or_default();
            if free.len() <= usize::from(row) {
                free.resize(usize::from(row) + 1, Timestamp::ZERO);
            }
            free[usize::from(row)] = leg.ended;
        }
        row
    }
}

/// An event of the trace event format.
#[derive(Debug, Serialize)]
struct Event<'a, A> {
    ph: &'static str,
    pid: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tid: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    name: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cat: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cname: Option<&'static str>,
    args: A,
}

impl<'a, A> Event<'a, A> {
    /// An event that names a process or thread, or says where it stands among others.
    fn about(pid: u64, tid: Option<u64>, name: &'a str, args: A) -> Self {
        Self {
            ph: "M",
            pid,
            tid,
            ts: None,
            dur: None,
            name: Cow::Borrowed(name),
            cat: None,
            cname: None,
            args,
        }
    }
}

#[derive(Debug, Serialize)]
struct Name<'a> {
    name: &'a str,
}

#[derive(Debug, Serialize)]
struct SortIndex {
    sort_index: u64,
}

/// What a viewer shows of a leg that is clicked.
#[derive(Debug, Serialize)]
struct LegArgs<'a> {
    model: &'a str,
    batch: u32,
    task: u64,
    leg: u16,
    /// Whether it was the whole task in one go.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unsplit: bool,
    share: u16,
    partition: u16,
    lane: u16,
    actual_us: f64,
    predicted_us: Option<f64>,
    /// Actual over predicted.
    actual_over_predicted: Option<f64>,
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

fn process(device: DeviceId) -> u64 {
    u64::from(device.0) + 1
}

fn thread(device: DeviceId, atom: u16, row: u16) -> u64 {
    (process(device) * SLICES + u64::from(atom)) * (u64::from(ROWS) + 1) + u64::from(row)
}

/// Writes the trace. Times are microseconds since the driver's epoch. Memory is a few words
/// per leg, whatever the number of slices.
///
/// # Errors
/// Those of `out`.
pub fn write_trace(scene: &Scene<'_>, out: impl Write) -> io::Result<()> {
    let mut out = io::BufWriter::new(out);
    let what = if scene.simulated {
        "SIMULATED"
    } else {
        "measured"
    };
    write!(
        out,
        "{{\"displayTimeUnit\":\"ms\",\"otherData\":{},\n\"traceEvents\":[",
        serde_json::json!({"kind": what, "what": scene.what, "legs_lost": scene.lost})
    )?;
    let mut events = Events {
        out: &mut out,
        first: true,
    };
    for device in scene.devices {
        let kind = if scene.simulated { " (simulated)" } else { "" };
        let name = format!("{}: {}{kind}", device.id, device.name);
        let pid = process(device.id);
        events.put(&Event::about(
            pid,
            None,
            "process_name",
            Name { name: &name },
        ))?;
        let sort_index = SortIndex { sort_index: pid };
        events.put(&Event::about(pid, None, "process_sort_index", sort_index))?;
        for atom in 0..device.slices.0 {
            events.name_thread(device.id, atom, 0)?;
        }
    }
    let named = scene.models_that_ran();
    let mut rows = Rows::default();
    let mut rows_named = BTreeSet::new();
    for leg in scene.in_order() {
        let row = rows.place(leg);
        for atom in leg.atoms.iter() {
            if row > 0 && rows_named.insert((leg.device, atom, row)) {
                events.name_thread(leg.device, atom, row)?;
            }
            events.put(&event(leg, &named, (atom, row)))?;
        }
    }
    out.write_all(b"\n]}\n")?;
    out.flush()
}

fn event<'a>(
    leg: &TimelineLeg,
    named: &'a [(ModelId, String)],
    (atom, row): (u16, u16),
) -> Event<'a, LegArgs<'a>> {
    let index = named.binary_search_by_key(&leg.model, |(id, _)| *id);
    let (index, model) = match index {
        Ok(index) => (index, named[index].1.as_str()),
        Err(_) => unreachable!("every model that ran has been named"),
    };
    let predicted = leg.predicted.map(Nanos::as_nanos);
    let actual = leg.length().as_nanos();
    Event {
        ph: "X",
        pid: process(leg.device),
        tid: Some(thread(leg.device, atom, row)),
        ts: Some(micros(leg.started.as_nanos())),
        dur: Some(micros(actual)),
        name: match leg.unsplit {
            true => Cow::Owned(format!("{model} {IN_ONE_GO}")),
            false => Cow::Borrowed(model),
        },
        cat: Some("leg"),
        cname: Some(COLOURS[index % COLOURS.len()]),
        args: LegArgs {
            model,
            batch: leg.batch.0,
            task: leg.task.0,
            leg: leg.leg.0,
            unsplit: leg.unsplit,
            share: leg.share.0,
            partition: leg.partition.0,
            lane: leg.lane.0,
            actual_us: micros(actual),
            predicted_us: predicted.map(micros),
            actual_over_predicted: predicted
                .filter(|predicted| *predicted > 0)
                .map(|predicted| actual as f64 / predicted as f64),
        },
    }
}

/// Writes events with what stands between them.
struct Events<W> {
    out: W,
    first: bool,
}

impl<W: Write> Events<W> {
    fn put(&mut self, event: &impl Serialize) -> io::Result<()> {
        self.out
            .write_all(if self.first { b"\n" } else { b",\n" })?;
        self.first = false;
        serde_json::to_writer(&mut self.out, event)?;
        Ok(())
    }

    fn name_thread(&mut self, device: DeviceId, atom: u16, row: u16) -> io::Result<()> {
        let name = match row {
            0 => format!("slice {atom}"),
            row => format!("slice {atom}, beside ({row})"),
        };
        let (pid, tid) = (process(device), thread(device, atom, row));
        let name = Name { name: &name };
        self.put(&Event::about(pid, Some(tid), "thread_name", name))?;
        let sort_index = SortIndex { sort_index: tid };
        self.put(&Event::about(
            pid,
            Some(tid),
            "thread_sort_index",
            sort_index,
        ))
    }
}

#[cfg(test)]
pub(crate) mod tests;

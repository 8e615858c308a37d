//! A model loaded on the CPU: its sessions, slots and output pools, and how a leg of it
//! is run.

use super::output::{OutputPool, OutputShape, value_bytes};
use super::slot::{Column, GatherError, Slot};
use super::{Batches, LoadOptions, Place};
use crate::capi::{Binding, Options, OrtError, Session, Value};
use crate::clock::MonotonicClock;
use crate::device::{LegWork, RequestInputs, RunErrorKind, RunSplit, TaskOutputs};
use crate::shared::InputFault;
use crate::store::{LoadCause, StoredModel, fixed_first_dimension};
use crate::tensor::{InputTensor, OutputTensor, TensorData, TensorSpec};
use bytes::Bytes;
use fugato_core::device::{AtomSet, LaneClass};
use fugato_core::sched::Start;
use fugato_core::{
    BatchSize, DeviceId, LaneId, LegIndex, ModelId, Nanos, PartitionId, SlotIndex, TaskId,
    Timestamp,
};
use ort::ErrorCode;
use ort::sys::GraphOptimizationLevel;
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

/// Which session of a model: `None` is the one of a single thread, which lanes of any
/// single core share; the others have threads pinned to their atoms, in their class.
pub(super) type SessionKey = Option<(AtomSet, LaneClass)>;

type SessionCell = Arc<Mutex<Option<Arc<Session>>>>;

/// A model loaded on the CPU.
pub(super) struct LoadedModel {
    stored: StoredModel,
    batched: bool,
    max_batch: u32,
    spin: Nanos,
    inputs: Vec<Input>,
    outputs: Vec<Output>,
    slots: Vec<Mutex<Slot>>,
    sessions: Mutex<HashMap<SessionKey, SessionCell>>,
}

struct Input {
    spec: TensorSpec,
    name: CString,
    /// Bytes of a full batch, where the shape is known.
    full_bytes: usize,
}

struct Output {
    spec: TensorSpec,
    name: CString,
    /// `None`: the runtime allocates it, since only running tells its shape.
    pool: Option<Arc<OutputPool>>,
}

/// What a leg gave.
pub(super) struct Ran {
    pub(super) outputs: TaskOutputs,
    pub(super) split: RunSplit,
    pub(super) bytes_copied_in: u64,
    pub(super) bytes_copied_out: u64,
}

/// Why a leg failed.
pub(super) type Failed = (RunErrorKind, String);

impl LoadedModel {
    pub(super) fn new(
        stored: &StoredModel,
        options: &LoadOptions,
        spin: Nanos,
    ) -> Result<Self, LoadCause> {
        let info = stored.info();
        let batched = match options.max_batch {
            0 => return Err(LoadCause::Zero { what: "max_batch" }),
            max_batch => batched(stored, max_batch, options.batches)?,
        };
        if options.slots == 0 {
            return Err(LoadCause::Zero { what: "slots" });
        }
        let name = |spec: &TensorSpec| {
            CString::new(spec.name.as_str())
                .expect("the runtime gave it to us as a NUL-terminated string")
        };
        let inputs = info.inputs.iter().map(|spec| Input {
            full_bytes: full_bytes(spec, batched, options.max_batch),
            name: name(spec),
            spec: spec.clone(),
        });
        let is_input = |spec: &TensorSpec| info.inputs.iter().any(|input| input.name == spec.name);
        let outputs = info.outputs.iter().map(|spec| Output {
            // An output that is an input itself is handed over by the runtime as it is,
            // not written to a buffer.
            pool: (!is_input(spec))
                .then(|| pool(spec, batched, options))
                .flatten(),
            name: name(spec),
            spec: spec.clone(),
        });
        let slots = (0..options.slots).map(|_| {
            let mut slot = Slot::default();
            slot.inputs.resize_with(info.inputs.len(), Default::default);
            Mutex::new(slot)
        });
        Ok(Self {
            batched,
            max_batch: options.max_batch,
            spin,
            inputs: inputs.collect(),
            outputs: outputs.collect(),
            slots: slots.collect(),
            sessions: Mutex::default(),
            stored: stored.clone(),
        })
    }

    /// The session for `place`, made on this thread where there is none: its own threads
    /// inherit this thread's affinity and niceness.
    pub(super) fn session(&self, place: &Place) -> Result<Arc<Session>, OrtError> {
        let key = place.session_key();
        let cell = {
            let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(sessions.entry(key).or_default())
        };
        // Held while the session is made, so that it is made once.
        let mut cell = cell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = &*cell {
            return Ok(Arc::clone(session));
        }
        let options = session_options(place.threads(), self.spin)?;
        let session = Arc::new(self.stored.session(options)?);
        *cell = Some(Arc::clone(&session));
        self.stored.give_pages_back();
        Ok(session)
    }

    /// Runs a leg.
    pub(super) fn run(
        &self,
        work: &LegWork,
        place: &Place,
        clock: &MonotonicClock,
    ) -> Result<Ran, Failed> {
        self.check(work)?;
        let session = self.session(place).map_err(runtime_failure)?;
        let begun = clock.now();
        let slot = &mut *self.slot(work);
        let Slot { inputs, bindings } = slot;
        let binding = binding_for(bindings, place.session_key(), &session)?;
        let mut bytes_copied_in = 0;
        let mut faults = Vec::new();
        for (index, (input, buffer)) in self.inputs.iter().zip(inputs.iter_mut()).enumerate() {
            let column = Column {
                spec: &input.spec,
                index,
                requests: &work.requests,
                batched: self.batched,
                reserve: input.full_bytes,
            };
            let bind = |value: &Value| binding.input(&input.name, value);
            let gathered = buffer.gather(&column, bind).map_err(gather_failure)?;
            bytes_copied_in += gathered.bytes_copied;
            faults.extend(gathered.faults);
        }
        let gathered = clock.now();
        if let Some(all) = all_faulty(&faults, work.requests.len()) {
            return Ok(Ran {
                outputs: TaskOutputs { requests: all },
                split: RunSplit {
                    input: gathered - begun,
                    ..RunSplit::default()
                },
                bytes_copied_in,
                bytes_copied_out: 0,
            });
        }
        let rows = work.start.batch.0;
        let mut outputs = self.run_bound(binding, rows)?;
        let ran = clock.now();
        let bytes_copied_out = outputs.iter_mut().map(|output| match &mut output.data {
            // The runtime hands over an input that is an output too: the slot's memory,
            // which the next task overwrites.
            TensorData::Raw(bytes) if inputs.iter().any(|input| input.contains(bytes)) => {
                *bytes = Bytes::copy_from_slice(bytes);
                bytes.len() as u64
            }
            TensorData::Raw(_) => 0,
            TensorData::Strings(_) => output.data.byte_size() as u64,
        });
        let bytes_copied_out = bytes_copied_out.sum();
        let mut outputs = self.divide(work, outputs)?;
        // The first fault of a request is what its client sees.
        for (request, fault) in faults.into_iter().rev() {
            outputs.requests[request] = Err(fault);
        }
        Ok(Ran {
            outputs,
            split: RunSplit {
                input: gathered - begun,
                infer: ran - gathered,
                output: clock.now() - ran,
            },
            bytes_copied_in,
            bytes_copied_out,
        })
    }

    /// The buffers of a task, which no other task may be using.
    fn slot(&self, work: &LegWork) -> MutexGuard<'_, Slot> {
        let (slot, task) = (work.start.slot, work.start.task);
        match self.slots[usize::from(slot.0)].try_lock() {
            Ok(slot) => slot,
            // A leg that panicked left buffers that the next one writes anew.
            Err(TryLockError::Poisoned(slot)) => slot.into_inner(),
            Err(TryLockError::WouldBlock) => {
                panic!("{task} was given {slot}, which another task is using")
            }
        }
    }

    /// Runs the model once over zeros where its shapes are known, so that the first
    /// request does not pay for memory and pages. A model may refuse zeros; it is none
    /// the worse for it.
    pub(super) fn warm_up(&self, model: ModelId, place: &Place, clock: &MonotonicClock) {
        let zeros = self.inputs.iter().map(|input| {
            let dims = input.spec.shape.iter().enumerate();
            let dims = dims.map(|(axis, &dim)| match (axis, self.batched) {
                (0, true) => Some(1),
                _ => dim,
            });
            let shape = dims.collect::<Option<Vec<u64>>>()?;
            let elements = shape.iter().product::<u64>();
            let bytes = usize::try_from(elements).ok()? * input.spec.element.size()?;
            let data = TensorData::Raw(vec![0; bytes].into());
            Some(InputTensor {
                shape,
                data: data.into(),
            })
        });
        let Some(inputs) = zeros.collect::<Option<Arc<[_]>>>() else {
            return;
        };
        let work = LegWork {
            start: Start {
                device: DeviceId(0),
                task: TaskId(0),
                model,
                leg: LegIndex(0),
                partition: PartitionId(0),
                lane: LaneId(0),
                slot: SlotIndex(0),
                batch: BatchSize(1),
                not_before: Timestamp::ZERO,
                requests: Vec::new(),
            },
            requests: vec![RequestInputs { items: 1, inputs }],
        };
        if let Err((kind, detail)) = self.run(&work, place, clock) {
            tracing::debug!(%model, ?kind, detail, "a model refused to run over zeros");
        }
    }

    /// Refuses a leg that is not of this model's shape.
    fn check(&self, work: &LegWork) -> Result<(), Failed> {
        let invalid = |detail| Err((RunErrorKind::InvalidInput, detail));
        let (start, requests) = (&work.start, &work.requests);
        let items: u64 = requests
            .iter()
            .map(|request| u64::from(request.items))
            .sum();
        if start.leg.0 != 0 {
            return invalid(format!("the model's plan has one leg, not a {}", start.leg));
        }
        if usize::from(start.slot.0) >= self.slots.len() {
            let slots = self.slots.len();
            return invalid(format!("the model has {slots} slots, not a {}", start.slot));
        }
        if items != u64::from(start.batch.0) || items == 0 {
            let batch = start.batch;
            return invalid(format!("{items} items were given for a {batch}"));
        }
        if start.batch.0 > self.max_batch {
            let most = self.max_batch;
            return invalid(format!("{} is above the most, {most}", start.batch));
        }
        if !self.batched && requests.len() != 1 {
            return invalid("requests of this model cannot share a run".to_owned());
        }
        let inputs = self.inputs.len();
        match requests
            .iter()
            .find(|request| request.inputs.len() != inputs)
        {
            Some(request) => {
                let found = request.inputs.len();
                invalid(format!("a request has {found} inputs, expected {inputs}"))
            }
            None => Ok(()),
        }
    }

    /// Binds the outputs, runs, and gives the outputs of the whole batch.
    fn run_bound(&self, binding: &mut Binding, rows: u32) -> Result<Vec<OutputTensor>, Failed> {
        let mut buffers = Vec::with_capacity(self.outputs.len());
        for output in &self.outputs {
            let Some(pool) = &output.pool else {
                binding
                    .output_allocated(&output.name)
                    .map_err(runtime_failure)?;
                buffers.push(None);
                continue;
            };
            let mut buffer = pool.take().map_err(|error| {
                let detail = format!("memory for output `{}`: {error}", output.spec.name);
                (RunErrorKind::Runtime, detail)
            })?;
            let value = pool.value(&mut buffer, rows).map_err(runtime_failure)?;
            binding
                .output(&output.name, value)
                .map_err(runtime_failure)?;
            buffers.push(Some((pool, buffer)));
        }
        // SAFETY: every input and output was bound anew above: inputs to the slot's
        // buffers, which the caller holds locked, outputs to buffers that nobody else has
        // or to memory of the runtime's own.
        let ran = unsafe { binding.run() };
        let allocated = ran.and_then(|()| match buffers.iter().all(Option::is_some) {
            true => Ok(Vec::new()),
            false => binding.outputs(),
        });
        if self.outputs.iter().any(|output| output.pool.is_none()) || allocated.is_err() {
            // Or else the binding would hold on to the outputs until the slot's next run.
            binding.clear();
        }
        let mut allocated: Vec<_> = allocated
            .map_err(run_failure)?
            .into_iter()
            .map(Some)
            .collect();
        let outputs = self.outputs.iter().zip(buffers).enumerate();
        outputs
            .map(|(index, (output, buffer))| match buffer {
                Some((pool, buffer)) => Ok(OutputTensor {
                    shape: pool
                        .dims(rows)
                        .iter()
                        .map(|dim| dim.cast_unsigned())
                        .collect(),
                    data: TensorData::Raw(pool.lease(buffer, rows)),
                }),
                None => {
                    let value = allocated.get_mut(index).and_then(Option::take);
                    let value = value.expect("the runtime gives one value per bound output");
                    read_allocated(output, value)
                }
            })
            .collect()
    }

    /// Divides the outputs of the batch among the requests.
    fn divide(&self, work: &LegWork, outputs: Vec<OutputTensor>) -> Result<TaskOutputs, Failed> {
        if !self.batched {
            return Ok(TaskOutputs {
                requests: vec![Ok(outputs)],
            });
        }
        let batch = work.start.batch.0;
        for (output, declared) in outputs.iter().zip(&self.outputs) {
            if output.shape.first() != Some(&u64::from(batch)) {
                let (name, shape) = (&declared.spec.name, &output.shape);
                let detail = format!(
                    "output `{name}` has shape {shape:?}, expected {batch} rows; hint: the \
                     model does not keep its batch dimension, so serve it with max_batch 1"
                );
                return Err((RunErrorKind::OutputShape, detail));
            }
        }
        let mut first = 0;
        let requests = work.requests.iter().map(|request| {
            let rows = request.items;
            let part = outputs
                .iter()
                .map(|output| rows_of(output, first, rows, batch));
            let part = part.collect();
            first += rows;
            Ok(part)
        });
        Ok(TaskOutputs {
            requests: requests.collect(),
        })
    }
}

/// The first fault of each request, where every request has one: there is nothing to run.
fn all_faulty(
    faults: &[(usize, InputFault)],
    requests: usize,
) -> Option<Vec<Result<Vec<OutputTensor>, InputFault>>> {
    if faults.is_empty() {
        return None;
    }
    let first = |request| {
        let mut of = faults.iter().filter(|(number, _)| *number == request);
        of.next().map(|(_, fault)| Err(fault.clone()))
    };
    (0..requests).map(first).collect()
}

/// Rows `first .. first + rows` of an output of `batch` rows.
fn rows_of(output: &OutputTensor, first: u32, rows: u32, batch: u32) -> OutputTensor {
    let (first, rows, batch) = (first as usize, rows as usize, batch as usize);
    let mut shape = output.shape.clone();
    shape[0] = rows as u64;
    let data = match &output.data {
        TensorData::Raw(bytes) => {
            let row = bytes.len() / batch;
            TensorData::Raw(bytes.slice(first * row..(first + rows) * row))
        }
        TensorData::Strings(strings) => {
            let row = strings.len() / batch;
            TensorData::Strings(strings[first * row..(first + rows) * row].to_vec())
        }
    };
    OutputTensor { shape, data }
}

/// Whether requests of the model share runs under these options.
fn batched(stored: &StoredModel, max_batch: u32, batches: Batches) -> Result<bool, LoadCause> {
    use crate::store::Batching;
    let info = stored.info();
    let assume = batches == Batches::Vouched;
    match &info.batching {
        _ if batches == Batches::Never => match max_batch {
            1 => Ok(false),
            _ => Err(LoadCause::NotBatchable {
                max_batch,
                reason: "no first dimension is to be taken for a batch".to_owned(),
            }),
        },
        Batching::Batchable => Ok(true),
        Batching::Single { reason } if max_batch > 1 || assume => {
            let fixed = fixed_first_dimension(&info.inputs, &info.outputs);
            let reason = match (assume, fixed) {
                (true, None) => return Ok(true),
                (true, Some(fixed)) => fixed,
                (false, _) => reason.clone(),
            };
            Err(LoadCause::NotBatchable { max_batch, reason })
        }
        Batching::Single { .. } => Ok(false),
    }
}

/// Bytes of an input at the largest batch; 0 where its shape is not known.
fn full_bytes(spec: &TensorSpec, batched: bool, max_batch: u32) -> usize {
    let (batch, rest) = match batched {
        true => (u64::from(max_batch), &spec.shape[1..]),
        false => (1, &spec.shape[..]),
    };
    let size = spec.element.size().unwrap_or(0) as u64;
    let bytes = rest
        .iter()
        .try_fold(batch.checked_mul(size), |bytes, &dim| {
            Some(bytes.and_then(|bytes| bytes.checked_mul(dim?)))
        });
    let bytes = bytes.flatten().unwrap_or(0);
    usize::try_from(bytes).unwrap_or(0)
}

/// The pool of an output whose shape is known once the batch is.
fn pool(spec: &TensorSpec, batched: bool, options: &LoadOptions) -> Option<Arc<OutputPool>> {
    let row = spec.shape.get(usize::from(batched)..)?;
    let row_dims: Option<Vec<i64>> = row
        .iter()
        .map(|dim| dim.and_then(|dim| i64::try_from(dim).ok()))
        .collect();
    let shape = OutputShape {
        element: spec.element,
        row_dims: row_dims?,
        batched,
        max_batch: options.max_batch,
    };
    OutputPool::new(shape, usize::from(options.slots) + 1)
}

/// Settings of a session of the optimised graph.
fn session_options(threads: u16, spin: Nanos) -> Result<Options, OrtError> {
    let mut options = Options::new(threads, GraphOptimizationLevel::ORT_DISABLE_ALL)?;
    let spins = spin > Nanos::ZERO && threads > 1;
    let allowed = if spins { c"1" } else { c"0" };
    options.entry(c"session.intra_op.allow_spinning", allowed)?;
    if spins {
        let micros = (spin.as_nanos() / 1_000).max(1).to_string();
        let micros = CString::new(micros).map_err(|error| OrtError::new(error.to_string()))?;
        options.entry(c"session.intra_op.spin_duration_us", &micros)?;
    }
    options.entry(c"session.inter_op.allow_spinning", c"0")?;
    // Threads stop spinning when their run ends, so a lane without work burns no core.
    options.entry(c"session.force_spinning_stop", c"1")?;
    Ok(options)
}

fn binding_for<'b>(
    bindings: &'b mut Vec<(SessionKey, Binding)>,
    key: SessionKey,
    session: &Arc<Session>,
) -> Result<&'b mut Binding, Failed> {
    let place = match bindings.iter().position(|(known, _)| *known == key) {
        Some(place) => place,
        None => {
            bindings.push((key, Binding::new(session).map_err(runtime_failure)?));
            bindings.len() - 1
        }
    };
    Ok(&mut bindings[place].1)
}

/// Reads an output that the runtime allocated.
fn read_allocated(output: &Output, value: Value) -> Result<OutputTensor, Failed> {
    let shape = value.shape().map_err(runtime_failure)?;
    if shape.element != Some(output.spec.element) {
        let (name, found) = (&output.spec.name, shape.element);
        let detail = format!(
            "output `{name}` came as {found:?}, not {}",
            output.spec.element
        );
        return Err((RunErrorKind::Runtime, detail));
    }
    let dims = shape.dims.iter().map(|dim| dim.cast_unsigned()).collect();
    let data = match output.spec.element.size() {
        Some(_) => TensorData::Raw(value_bytes(value, shape).map_err(runtime_failure)?),
        None => TensorData::Strings(value.read_strings(&shape).map_err(runtime_failure)?),
    };
    Ok(OutputTensor { shape: dims, data })
}

fn gather_failure(error: GatherError) -> Failed {
    let kind = match &error {
        GatherError::Mismatch { .. } => RunErrorKind::InvalidInput,
        GatherError::Memory { .. } | GatherError::Runtime(_) => RunErrorKind::Runtime,
    };
    (kind, error.to_string())
}

fn runtime_failure(error: OrtError) -> Failed {
    (RunErrorKind::Runtime, error.message().to_owned())
}

/// Sorts an error that the runtime gave when running; the texts are those of 1.31.
fn run_failure(error: OrtError) -> Failed {
    let message = error.message();
    let says = |phrase| message.contains(phrase);
    let kind = if says("The output OrtValue provided for output") {
        RunErrorKind::OutputShape
    } else if says("Failed to allocate memory") || says("bad_alloc") {
        RunErrorKind::Runtime
    } else if error.code() == ErrorCode::InvalidArgument
        || says("Non-zero status code returned while running")
    {
        RunErrorKind::InvalidInput
    } else {
        RunErrorKind::Runtime
    };
    (kind, message.to_owned())
}

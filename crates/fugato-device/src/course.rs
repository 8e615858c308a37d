//! The way of a task through its model: which parts run in which leg, and where the
//! tensors between parts lie.
//!
//! A model that is not cut has one leg of one part, itself.

mod memory;

use crate::capi::onnx_of_number;
use crate::store::{CutModel, ModelGraph, ModelInfo, Part, Size};
use fugato_core::TensorIndex;
use memory::Span;
use ort::sys::ONNXTensorElementDataType as Onnx;
use std::collections::BTreeMap;
#[cfg(feature = "cuda")]
use std::ffi::CStr;
use std::ffi::CString;
#[cfg(feature = "cuda")]
use std::ops::Range;

/// What runs in which leg.
pub(crate) struct Course {
    pub(crate) parts: Vec<CoursePart>,
    /// `legs[leg][stage]`: the parts of a stage, by place in `parts`.
    pub(crate) legs: Vec<Vec<Vec<usize>>>,
    /// By leg: the parts of its groups, `at_once[leg][stage][group]`, by place in `parts`. They
    /// do together what the leg's one part does, groups of a stage side by side. Empty for a leg
    /// without groups at once.
    #[cfg(feature = "cuda")]
    pub(crate) at_once: Vec<Vec<Vec<usize>>>,
    /// The part that is the whole model, for tasks that run in one go; `None` where that was not
    /// asked for, and for a model of one leg.
    pub(crate) unsplit: Option<usize>,
    /// Tensors that one part leaves for another.
    pub(crate) kept: Vec<Kept>,
    /// Bytes of a slot for those that have a place there.
    pub(crate) memory_size: usize,
}

/// A part of the model, or all of it.
pub(crate) struct CoursePart {
    /// `None`: the whole model.
    pub(crate) file: Option<Part>,
    pub(crate) inputs: Vec<(CString, Source)>,
    pub(crate) outputs: Vec<(CString, Target)>,
}

/// Where a part finds what it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// In the slot's buffer of an input of the model.
    Input(usize),
    /// In an output of the model that is there already.
    Output(usize),
    /// Among the kept tensors.
    Kept(usize),
}

/// Where a part puts what it gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// It is an output of the model.
    Output(usize),
    /// Among the kept tensors.
    Kept(usize),
}

/// A tensor between parts.
pub(crate) struct Kept {
    /// Its place in the slot's memory; `None`: the runtime allocates it, since only
    /// running tells its shape.
    pub(crate) place: Option<KeptPlace>,
    /// The last stage that reads it, counted over all legs.
    pub(crate) last_stage: usize,
}

/// How the tensors between parts are laid into a slot's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placing {
    /// There is room for batches up to this; `None` where the model has no batch, and requests
    /// may have any first dimension.
    pub(crate) rows_max: Option<u32>,
    /// Where a tensor may begin, in bytes.
    pub(crate) align: usize,
    /// Whether an operator that adds one tensor to another may write over it.
    pub(crate) sums_in_place: bool,
}

/// A range of a slot's memory, and the tensor there.
pub(crate) struct KeptPlace {
    pub(crate) offset: usize,
    pub(crate) element: Onnx,
    row_bytes: usize,
    per_item: bool,
    /// -1 where the batch stands.
    dims: Vec<i64>,
}

impl KeptPlace {
    /// Bytes of the tensor at a batch of `rows`.
    pub(crate) fn byte_size(&self, rows: u32) -> usize {
        self.row_bytes * if self.per_item { rows as usize } else { 1 }
    }

    pub(crate) fn dims(&self, rows: u32) -> Vec<i64> {
        let dims = self.dims.iter();
        dims.map(|&dim| if dim < 0 { i64::from(rows) } else { dim })
            .collect()
    }
}

impl CoursePart {
    /// The whole model.
    fn whole(info: &ModelInfo) -> Self {
        let inputs = info.inputs.iter().map(|spec| c_name(&spec.name));
        let outputs = info.outputs.iter().map(|spec| c_name(&spec.name));
        Self {
            file: None,
            inputs: inputs.zip((0..).map(Source::Input)).collect(),
            outputs: outputs.zip((0..).map(Target::Output)).collect(),
        }
    }
}

impl Course {
    /// The same, and the whole model besides, for tasks that run in one go.
    pub(crate) fn or_unsplit(mut self, info: &ModelInfo) -> Self {
        if self.legs.len() > 1 {
            self.unsplit = Some(self.parts.len());
            self.parts.push(CoursePart::whole(info));
        }
        self
    }

    /// Whether all that a part reads and writes has its place in the slot.
    pub(crate) fn is_placed(&self, part: &CoursePart) -> bool {
        let has_place = |kept: usize| self.kept[kept].place.is_some();
        let mut inputs = part.inputs.iter();
        let mut outputs = part.outputs.iter();
        inputs.all(|&(_, source)| matches!(source, Source::Kept(kept) if has_place(kept)))
            && outputs.all(|&(_, target)| matches!(target, Target::Kept(kept) if has_place(kept)))
    }

    /// A tensor between legs that has no place.
    #[cfg(feature = "cuda")]
    pub(crate) fn unplaced(&self) -> Option<&CStr> {
        let parts = self.legs.iter().flatten().flatten();
        let mut outputs = parts.flat_map(|&part| &self.parts[part].outputs);
        let unplaced = outputs.find(
            |(_, target)| matches!(target, Target::Kept(kept) if self.kept[*kept].place.is_none()),
        );
        unplaced.map(|(name, _)| name.as_c_str())
    }

    /// One leg, the whole model.
    pub(crate) fn whole(info: &ModelInfo) -> Self {
        Self {
            parts: vec![CoursePart::whole(info)],
            legs: vec![vec![vec![0]]],
            #[cfg(feature = "cuda")]
            at_once: vec![Vec::new()],
            kept: Vec::new(),
            memory_size: 0,
            unsplit: None,
        }
    }

    /// The parts of a cut model, with places for the tensors between them.
    pub(crate) fn cut(model: CutModel, placing: Placing) -> Self {
        let graph = model.graph;
        let mut layout = Layout::new(&graph, placing);
        let (mut parts, mut legs) = (Vec::new(), Vec::new());
        for leg in model.legs {
            let mut stages = Vec::with_capacity(leg.len());
            for stage in leg {
                let first = parts.len();
                parts.extend(stage.into_iter().map(|part| layout.part(part)));
                layout.stage += 1;
                stages.push((first..parts.len()).collect());
            }
            legs.push(stages);
        }
        let (kept, memory_size) = layout.finish(&parts, &legs);
        Self {
            parts,
            #[cfg(feature = "cuda")]
            at_once: vec![Vec::new(); legs.len()],
            legs,
            kept,
            memory_size,
            unsplit: None,
        }
    }

    /// Legs of one part each, and besides the groups of those that have groups at once.
    /// `joined`: the legs' parts; `None` where the one leg is the whole model.
    ///
    /// A leg can be run either way, and more than once, over the same places: what it reads of
    /// legs before it and gives to legs after it is there from its first stage to its last.
    #[cfg(feature = "cuda")]
    pub(crate) fn side_by_side(
        info: &ModelInfo,
        joined: Option<CutModel>,
        groups: CutModel,
        placing: Placing,
    ) -> Self {
        let graph = groups.graph;
        let mut layout = Layout::new(&graph, placing);
        let (mut parts, mut legs, mut at_once) = (Vec::new(), Vec::new(), Vec::new());
        let mut joined = joined.into_iter().flat_map(|joined| joined.legs);
        // The stages of each, counted over all legs.
        let mut bounds = Vec::new();
        for leg in groups.legs {
            let (in_one, first_stage) = (joined.next(), layout.stage);
            let mut stages = Vec::with_capacity(leg.len());
            for stage in leg {
                let first = parts.len();
                parts.extend(stage.into_iter().map(|part| layout.part(part)));
                layout.stage += 1;
                stages.push((first..parts.len()).collect::<Vec<_>>());
            }
            bounds.push(first_stage..layout.stage);
            let is_at_once = stages.iter().any(|stage| stage.len() > 1);
            if !is_at_once && stages.len() == 1 {
                // It is the leg's one part already.
                legs.push(stages);
                at_once.push(Vec::new());
                continue;
            }
            at_once.push(if is_at_once { stages } else { Vec::new() });
            let first = parts.len();
            match in_one {
                None => parts.append(&mut Self::whole(info).parts),
                Some(stages) => {
                    let of_leg = stages.into_iter().flatten();
                    parts.extend(of_leg.map(|part| layout.placed(part)));
                }
            }
            legs.push(vec![(first..parts.len()).collect()]);
        }
        layout.keep_through(&bounds);
        let (kept, memory_size) = layout.finish(&parts, &legs);
        Self {
            parts,
            legs,
            at_once,
            kept,
            memory_size,
            unsplit: None,
        }
    }

    /// The first stage of a leg, counted over all legs.
    pub(crate) fn first_stage(&self, leg: usize) -> usize {
        self.legs[..leg].iter().map(Vec::len).sum()
    }
}

/// The tensors between parts, as they are met.
struct Layout<'a> {
    graph: &'a ModelGraph,
    placing: Placing,
    by_tensor: BTreeMap<TensorIndex, usize>,
    tensors: Vec<TensorIndex>,
    first_stage: Vec<usize>,
    last_stage: Vec<usize>,
    stage: usize,
}

impl<'a> Layout<'a> {
    fn new(graph: &'a ModelGraph, placing: Placing) -> Self {
        Self {
            graph,
            placing,
            by_tensor: BTreeMap::new(),
            tensors: Vec::new(),
            first_stage: Vec::new(),
            last_stage: Vec::new(),
            stage: 0,
        }
    }

    /// A part that runs in the stage that is next, and what it leaves for others.
    fn part(&mut self, part: Part) -> CoursePart {
        let graph = self.graph.graph();
        let is_port = |tensor| graph.inputs().contains(tensor) || graph.outputs().contains(tensor);
        for input in part.inputs.iter().filter(|input| !is_port(input)) {
            self.last_stage[self.by_tensor[input]] = self.stage;
        }
        for &output in &part.outputs {
            if !graph.outputs().contains(&output) {
                self.by_tensor.insert(output, self.tensors.len());
                self.tensors.push(output);
                self.first_stage.push(self.stage);
                self.last_stage.push(self.stage);
            }
        }
        self.placed(part)
    }

    /// A part, of whose tensors all are known.
    fn placed(&self, part: Part) -> CoursePart {
        let graph = self.graph.graph();
        let name = |tensor: TensorIndex| c_name(&graph.tensor(tensor).name);
        let position = |list: &[TensorIndex], tensor| list.iter().position(|&one| one == tensor);
        let inputs = part.inputs.iter().map(|&tensor| {
            let given = position(graph.inputs(), tensor).map(Source::Input);
            let given = given.or_else(|| position(graph.outputs(), tensor).map(Source::Output));
            let source = given.unwrap_or_else(|| Source::Kept(self.by_tensor[&tensor]));
            (name(tensor), source)
        });
        let inputs = inputs.collect();
        let outputs = part.outputs.iter().map(|&tensor| {
            let output = position(graph.outputs(), tensor).map(Target::Output);
            let target = output.unwrap_or_else(|| Target::Kept(self.by_tensor[&tensor]));
            (name(tensor), target)
        });
        let outputs = outputs.collect();
        CoursePart {
            file: Some(part),
            inputs,
            outputs,
        }
    }

    /// Has what passes from leg to leg be there for the whole of both. `bounds`: the stages of
    /// each leg.
    #[cfg(feature = "cuda")]
    fn keep_through(&mut self, bounds: &[Range<usize>]) {
        let leg_of = |stage: usize| bounds.iter().find(|leg| leg.contains(&stage));
        for (first, last) in self.first_stage.iter_mut().zip(&mut self.last_stage) {
            let (Some(from), Some(to)) = (leg_of(*first), leg_of(*last)) else {
                continue;
            };
            if from != to {
                (*first, *last) = (from.start, to.end - 1);
            }
        }
    }

    /// Places for the tensors whose sizes are known, and the memory they need together.
    fn finish(self, parts: &[CoursePart], legs: &[Vec<Vec<usize>>]) -> (Vec<Kept>, usize) {
        let sizes: Vec<_> = self
            .tensors
            .iter()
            .map(|&tensor| self.place(tensor))
            .collect();
        let spans = (0..sizes.len()).filter_map(|kept| {
            Some(Span {
                number: kept,
                size: sizes[kept]
                    .as_ref()?
                    .byte_size(self.placing.rows_max.unwrap_or(1)),
                first: self.first_stage[kept],
                last: self.last_stage[kept],
                over: match self.placing.sums_in_place {
                    true => self.over(kept, parts, legs, &sizes),
                    false => None,
                },
            })
        });
        let spans: Vec<_> = spans.collect();
        let (offsets, memory_size) = memory::plan(&spans, self.placing.align);
        let kept = sizes.into_iter().enumerate().map(|(kept, place)| Kept {
            place: place.map(|place| KeptPlace {
                offset: offsets[&kept],
                ..place
            }),
            last_stage: self.last_stage[kept],
        });
        (kept.collect(), memory_size)
    }

    fn place(&self, tensor: TensorIndex) -> Option<KeptPlace> {
        let Size {
            data_type,
            dims,
            row_bytes,
            per_item,
        } = self.graph.size(tensor)?;
        let row_bytes = usize::try_from(row_bytes).ok()?;
        let rows_max = match (per_item, self.placing.rows_max) {
            (true, rows_max) => usize::try_from(rows_max?).ok()?,
            (false, _) => 1,
        };
        // What has no elements has no memory either.
        (row_bytes.checked_mul(rows_max)? > 0).then_some(KeptPlace {
            offset: 0,
            element: onnx_of_number(data_type as i32)?,
            row_bytes,
            per_item,
            dims,
        })
    }

    /// The kept tensor that `kept` may be written over: one that its operator adds to it,
    /// and that nobody reads besides.
    fn over(
        &self,
        kept: usize,
        parts: &[CoursePart],
        legs: &[Vec<Vec<usize>>],
        sizes: &[Option<KeptPlace>],
    ) -> Option<usize> {
        let graph = self.graph.graph();
        let tensor = self.tensors[kept];
        let operator = graph.producer(tensor)?;
        let mut summands = graph.operator(operator).inputs.iter();
        let summand = *summands.find(|&&input| self.graph.is_summand(operator, input))?;
        let over = *self.by_tensor.get(&summand)?;
        let stage = self.first_stage[kept];
        let mut stages = legs.iter().flatten();
        let of_stage = stages.nth(stage)?.iter().map(|&part| &parts[part]);
        let readers = of_stage.filter(|part| {
            let mut sources = part.inputs.iter();
            sources.any(|(_, source)| *source == Source::Kept(over))
        });
        let readers: Vec<_> = readers.collect();
        let [reader] = readers[..] else { return None };
        let read_by = graph.consumers(summand).iter();
        let inside = reader.file.as_ref()?;
        let mut read_inside = read_by.filter(|&&reader| inside.operators.contains(&reader));
        let is_alone = read_inside.next() == Some(&operator) && read_inside.next().is_none();
        let is_last = self.last_stage[over] == stage;
        let bytes = |kept: usize| {
            let place = sizes[kept].as_ref()?;
            Some((place.row_bytes, place.per_item))
        };
        (is_alone && is_last && bytes(kept).is_some() && bytes(kept) == bytes(over)).then_some(over)
    }
}

fn c_name(name: &str) -> CString {
    CString::new(name).expect("the runtime gave it to us as a NUL-terminated string")
}

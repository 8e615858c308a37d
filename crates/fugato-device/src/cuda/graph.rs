//! Graphs: what was captured, looked at, joined and run.

use super::driver::{CudaError, check, end};
use super::gpu::{Gpu, Partition};
use super::stream::Stream;
use cudarc::driver::sys::{self, CUgraphNodeType as Kind};
use serde::Serialize;
use std::any::Any;
use std::mem::MaybeUninit;
use std::ptr::{NonNull, null, null_mut};
use std::sync::Arc;

/// Work of a device and the order that it needs, not yet made ready to run.
pub struct Graph {
    graph: NonNull<sys::CUgraph_st>,
    gpu: Arc<Gpu>,
    /// What its nodes read and write.
    keep: Vec<Arc<dyn Any + Send + Sync>>,
}

// SAFETY: a graph is tied to no thread; changing it takes `&mut`.
unsafe impl Send for Graph {}

/// What a graph consists of, with the graphs in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GraphNodes {
    /// Kernels.
    pub kernels: usize,
    /// Copies.
    pub copies: usize,
    /// Fills.
    pub fills: usize,
    /// Copies from or to host memory that the driver does not know: whoever had it may have
    /// given it back since.
    pub pageable: usize,
    /// Copies to host memory of any sort: whoever reads there does so only once.
    pub to_host: usize,
    /// Calls of the host, which may not be in a graph that serves.
    pub host: usize,
    /// Allocations, with which a graph can have one executable at a time.
    pub allocations: usize,
    /// Whatever else: empty nodes, events, graphs.
    pub others: usize,
    /// Kernels that run in the green context of the partition asked about.
    pub kernels_of_partition: usize,
}

impl Graph {
    /// Takes a graph over; `None` for none.
    pub(super) fn owned(graph: sys::CUgraph, gpu: Arc<Gpu>) -> Option<Self> {
        let keep = Vec::new();
        NonNull::new(graph).map(|graph| Self { graph, gpu, keep })
    }

    /// A graph without nodes.
    ///
    /// # Errors
    /// Where the driver fails.
    pub fn empty(gpu: &Arc<Gpu>) -> Result<Self, CudaError> {
        gpu.make_current()?;
        let mut graph = null_mut();
        // SAFETY: the context is current, and the place for the answer valid.
        check("cuGraphCreate", unsafe {
            sys::cuGraphCreate(&mut graph, 0)
        })?;
        Ok(Self::owned(graph, Arc::clone(gpu)).expect("a call that succeeded gives a graph"))
    }

    /// Holds `kept` for as long as the graph or what is made of it can run.
    #[must_use]
    pub fn keeping(mut self, kept: Arc<dyn Any + Send + Sync>) -> Self {
        self.keep.push(kept);
        self
    }

    /// Adds a copy of `child`, to run after the children numbered `after`, in the order they
    /// were added. Answers its number.
    ///
    /// # Errors
    /// Where the driver fails.
    ///
    /// # Panics
    /// Where there is no such child.
    pub fn add(&mut self, child: &Self, after: &[usize]) -> Result<usize, CudaError> {
        let children = self.children()?;
        let after: Vec<_> = after.iter().map(|&index| children[index]).collect();
        let mut node = null_mut();
        // SAFETY: both graphs are alive, and the nodes are of this one.
        check("cuGraphAddChildGraphNode", unsafe {
            sys::cuGraphAddChildGraphNode(
                &mut node,
                self.graph.as_ptr(),
                if after.is_empty() {
                    null()
                } else {
                    after.as_ptr()
                },
                after.len(),
                child.graph.as_ptr(),
            )
        })?;
        self.keep.extend(child.keep.iter().cloned());
        Ok(children.len())
    }

    fn children(&self) -> Result<Vec<sys::CUgraphNode>, CudaError> {
        let mut children = Vec::new();
        for node in nodes(self.graph.as_ptr())? {
            if kind(node)? == Kind::CU_GRAPH_NODE_TYPE_GRAPH {
                children.push(node);
            }
        }
        Ok(children)
    }

    /// Counts its nodes, and the kernels among them that run in `partition`.
    ///
    /// # Errors
    /// Where the driver fails.
    pub fn nodes(&self, partition: &Partition) -> Result<GraphNodes, CudaError> {
        let mut found = GraphNodes::default();
        visit(self.graph.as_ptr(), &mut |node, kind| {
            #[expect(
                clippy::wildcard_enum_match_arm,
                reason = "all others are counted as one"
            )]
            match kind {
                Kind::CU_GRAPH_NODE_TYPE_KERNEL => {
                    found.kernels += 1;
                    let is_here = kernel(node)?.ctx == partition.context();
                    found.kernels_of_partition += usize::from(is_here);
                }
                Kind::CU_GRAPH_NODE_TYPE_MEMCPY => {
                    found.copies += 1;
                    let (is_pageable, is_to_host) = host_side(node)?;
                    found.pageable += usize::from(is_pageable);
                    found.to_host += usize::from(is_to_host);
                }
                Kind::CU_GRAPH_NODE_TYPE_MEMSET => found.fills += 1,
                Kind::CU_GRAPH_NODE_TYPE_HOST => found.host += 1,
                Kind::CU_GRAPH_NODE_TYPE_MEM_ALLOC => found.allocations += 1,
                _ => found.others += 1,
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Has every kernel run in another partition. Answers how many there are.
    ///
    /// # Errors
    /// Where the driver does not do that.
    pub fn retarget(&mut self, partition: &Partition) -> Result<usize, CudaError> {
        let mut count = 0;
        visit(self.graph.as_ptr(), &mut |node, kind| {
            if kind != Kind::CU_GRAPH_NODE_TYPE_KERNEL {
                return Ok(());
            }
            let mut kernel = kernel(node)?;
            // A kernel may be named by a function, which belongs to a context, or without
            // one; the context that is asked for counts only for the latter.
            if !kernel.kern.is_null() {
                kernel.func = null_mut();
            }
            kernel.ctx = partition.context();
            count += 1;
            // SAFETY: the node is of a graph that is alive; its parameters are the driver's
            // own, copied by the call.
            check("cuGraphKernelNodeSetParams", unsafe {
                sys::cuGraphKernelNodeSetParams_v2(node, &kernel)
            })
        })?;
        Ok(count)
    }

    /// Makes it ready to run.
    ///
    /// # Errors
    /// Where the driver fails.
    pub fn instantiate(&self) -> Result<Executable, CudaError> {
        self.gpu.make_current()?;
        let mut executable = null_mut();
        // SAFETY: the graph is alive, and the place for the answer valid.
        check("cuGraphInstantiate", unsafe {
            sys::cuGraphInstantiateWithFlags(&mut executable, self.graph.as_ptr(), 0)
        })?;
        Ok(Executable {
            executable: NonNull::new(executable).expect("a call that succeeded gives one"),
            _keep: self.keep.clone(),
            _gpu: Arc::clone(&self.gpu),
        })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: owned, and destroyed only here.
        end("cuGraphDestroy", unsafe {
            sys::cuGraphDestroy(self.graph.as_ptr())
        });
    }
}

fn nodes(graph: sys::CUgraph) -> Result<Vec<sys::CUgraphNode>, CudaError> {
    let mut count = 0;
    // SAFETY: the graph is alive; the first call asks for the number, the second has as many
    // places.
    unsafe {
        check(
            "cuGraphGetNodes",
            sys::cuGraphGetNodes(graph, null_mut(), &mut count),
        )?;
        let mut nodes = vec![null_mut(); count];
        if count > 0 {
            check(
                "cuGraphGetNodes",
                sys::cuGraphGetNodes(graph, nodes.as_mut_ptr(), &mut count),
            )?;
        }
        nodes.truncate(count);
        Ok(nodes)
    }
}

fn kind(node: sys::CUgraphNode) -> Result<Kind, CudaError> {
    let mut kind = Kind::CU_GRAPH_NODE_TYPE_EMPTY;
    // SAFETY: the node is of a graph that is alive, and the place for the answer valid.
    check("cuGraphNodeGetType", unsafe {
        sys::cuGraphNodeGetType(node, &mut kind)
    })?;
    Ok(kind)
}

fn kernel(node: sys::CUgraphNode) -> Result<sys::CUDA_KERNEL_NODE_PARAMS, CudaError> {
    let mut parameters = MaybeUninit::zeroed();
    // SAFETY: the node is a kernel of a graph that is alive; zeroes are a valid value.
    unsafe {
        check(
            "cuGraphKernelNodeGetParams",
            sys::cuGraphKernelNodeGetParams_v2(node, parameters.as_mut_ptr()),
        )?;
        Ok(parameters.assume_init())
    }
}

/// Whether a copy is from or to host memory that the driver neither allocated nor registered, and
/// whether it is to host memory of any sort.
fn host_side(node: sys::CUgraphNode) -> Result<(bool, bool), CudaError> {
    const HOST: u32 = sys::CUmemorytype::CU_MEMORYTYPE_HOST as u32;
    const UNIFIED: u32 = sys::CUmemorytype::CU_MEMORYTYPE_UNIFIED as u32;
    let mut copy = MaybeUninit::<sys::CUDA_MEMCPY3D>::zeroed();
    let copy = copy.as_mut_ptr();
    // SAFETY: the node is a copy of a graph that is alive, and the place for the answer valid.
    check("cuGraphMemcpyNodeGetParams", unsafe {
        sys::cuGraphMemcpyNodeGetParams(node, copy)
    })?;
    // SAFETY: all of it is initialised, by zeroes or by the driver. What sort of memory it is
    // is read as a number, since not each number is a sort.
    let (from, to) = unsafe {
        let from = (&raw const (*copy).srcMemoryType).cast::<u32>().read();
        let to = (&raw const (*copy).dstMemoryType).cast::<u32>().read();
        let (source, target) = ((*copy).srcHost as u64, (*copy).dstHost as u64);
        (
            (from, source, (*copy).srcDevice),
            (to, target, (*copy).dstDevice),
        )
    };
    // What the driver does not know can only be the host's.
    let host = |(kind, host, device): (u32, u64, u64)| match kind {
        HOST => Some(sort(host)),
        UNIFIED => Some(sort(device)).filter(|sort| matches!(sort, None | Some(HOST))),
        _ => None,
    };
    let (from, to) = (host(from), host(to));
    Ok((from == Some(None) || to == Some(None), to.is_some()))
}

/// What sort of memory is at an address; `None` where the driver does not know it.
fn sort(address: sys::CUdeviceptr) -> Option<u32> {
    let mut kind = 0_u32;
    let attribute = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE;
    // SAFETY: the place for the answer is valid for this attribute; the address is only looked
    // up. The driver refuses one that it does not know.
    let asked = unsafe { sys::cuPointerGetAttribute((&raw mut kind).cast(), attribute, address) };
    (asked == sys::CUresult::CUDA_SUCCESS && kind != 0).then_some(kind)
}

/// Shows every node of a graph and of the graphs in it.
fn visit(
    graph: sys::CUgraph,
    look: &mut impl FnMut(sys::CUgraphNode, Kind) -> Result<(), CudaError>,
) -> Result<(), CudaError> {
    let mut left = vec![graph];
    while let Some(graph) = left.pop() {
        for node in nodes(graph)? {
            let kind = kind(node)?;
            look(node, kind)?;
            if kind == Kind::CU_GRAPH_NODE_TYPE_GRAPH {
                let mut child = null_mut();
                // SAFETY: the node is of a graph that is alive and holds the one in it.
                check("cuGraphChildGraphNodeGetGraph", unsafe {
                    sys::cuGraphChildGraphNodeGetGraph(node, &mut child)
                })?;
                left.push(child);
            }
        }
    }
    Ok(())
}

/// A graph that can be run. Runs of one never overlap.
pub struct Executable {
    executable: NonNull<sys::CUgraphExec_st>,
    _keep: Vec<Arc<dyn Any + Send + Sync>>,
    _gpu: Arc<Gpu>,
}

// SAFETY: an executable is tied to no thread.
unsafe impl Send for Executable {}

impl Executable {
    /// Moves what it needs to the device before the first run.
    ///
    /// # Errors
    /// Where the driver fails.
    pub fn upload(&self, stream: &Stream) -> Result<(), CudaError> {
        // SAFETY: both are alive.
        check("cuGraphUpload", unsafe {
            sys::cuGraphUpload(self.executable.as_ptr(), stream.handle())
        })
    }

    /// Enqueues a run. The stream gives the order; where the kernels run was settled when they
    /// were captured.
    ///
    /// # Errors
    /// Where the driver fails.
    pub fn launch(&self, stream: &Stream) -> Result<(), CudaError> {
        // SAFETY: both are alive, and the executable holds what its nodes use.
        check("cuGraphLaunch", unsafe {
            sys::cuGraphLaunch(self.executable.as_ptr(), stream.handle())
        })
    }
}

impl Drop for Executable {
    fn drop(&mut self) {
        // SAFETY: owned, and destroyed only here; the driver waits for runs.
        end("cuGraphExecDestroy", unsafe {
            sys::cuGraphExecDestroy(self.executable.as_ptr())
        });
    }
}

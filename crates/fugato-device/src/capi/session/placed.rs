//! Which provider runs which operator of a session, as the runtime has decided.

use super::super::{OrtError, check};
use super::{Binding, Options, Session};
use ort::sys::{OrtEpAssignedNode, OrtStatusPtr};
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};
use std::ptr::null;

/// The kinds of operators that each provider runs, by its name: with their domain, where that is
/// not ONNX's own, and how many there are.
pub(crate) type Placed = BTreeMap<String, BTreeMap<String, usize>>;

impl Options {
    /// Has the session know afterwards which provider runs what.
    pub(crate) fn note_places(&mut self) -> Result<(), OrtError> {
        self.entry(c"session.record_ep_graph_assignment_info", c"1")
    }
}

impl Binding {
    /// As [`Session::placed`], of the session that it is for.
    pub(crate) fn placed(&self) -> Result<Placed, OrtError> {
        self.session.placed()
    }
}

impl Session {
    /// Which provider runs what, for a session that [notes it](Options::note_places).
    pub(crate) fn placed(&self) -> Result<Placed, OrtError> {
        let api = ort::api();
        let mut placed = Placed::new();
        let (mut groups, mut count) = (null(), 0);
        // SAFETY: the session is alive, and so are the groups and operators, which it owns; the
        // places for answers are valid, and each list as long as the runtime says.
        unsafe {
            check((api.Session_GetEpGraphAssignmentInfo)(
                self.session.as_ptr(),
                &mut groups,
                &mut count,
            ))?;
            for &group in listed(groups, count) {
                let provider = text(|out| (api.EpAssignedSubgraph_GetEpName)(group, out))?;
                let (mut nodes, mut count) = (null(), 0);
                check((api.EpAssignedSubgraph_GetNodes)(
                    group, &mut nodes, &mut count,
                ))?;
                let kinds = placed.entry(provider).or_default();
                for &node in listed(nodes, count) {
                    *kinds.entry(kind(node)?).or_default() += 1;
                }
            }
        }
        Ok(placed)
    }
}

/// What sort of operator it is: `Conv`, or `com.microsoft.FusedConv`.
///
/// # Safety
/// The operator must be one of a session that is alive.
unsafe fn kind(node: *const OrtEpAssignedNode) -> Result<String, OrtError> {
    let api = ort::api();
    // SAFETY: this function's contract.
    let (kind, domain) = unsafe {
        (
            text(|out| (api.EpAssignedNode_GetOperatorType)(node, out))?,
            text(|out| (api.EpAssignedNode_GetDomain)(node, out))?,
        )
    };
    match domain.as_str() {
        "" | "ai.onnx" => Ok(kind),
        domain => Ok(format!("{domain}.{kind}")),
    }
}

/// A list of the runtime's.
///
/// # Safety
/// There must be so many entries, for as long as the answer is used.
unsafe fn listed<'a, T>(first: *const T, count: usize) -> &'a [T] {
    match first.is_null() {
        true => &[],
        // SAFETY: this function's contract.
        false => unsafe { std::slice::from_raw_parts(first, count) },
    }
}

/// A text that the runtime keeps.
///
/// # Safety
/// What `ask` puts in its place must be a text that ends with a zero, or null.
unsafe fn text(ask: impl FnOnce(*mut *const c_char) -> OrtStatusPtr) -> Result<String, OrtError> {
    let mut text = null();
    check(ask(&mut text))?;
    // SAFETY: this function's contract.
    let text = (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) });
    Ok(text.map_or_else(String::new, |text| text.to_string_lossy().into_owned()))
}

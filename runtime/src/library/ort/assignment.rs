//! Which provider each node of a session was given to, and whether that is right.
//!
//! The CUDA provider itself hands arithmetic on shapes to the CPU, where its results are needed to launch
//! kernels. So `session.disable_cpu_ep_fallback` would refuse every graph with dynamic axes; instead ONNX
//! Runtime is asked for the assignment (<https://onnxruntime.ai/docs/api/c/struct_ort_api.html>,
//! `Session_GetEpGraphAssignmentInfo`, since 1.24), and what is on the CPU must be of the operators that
//! shapes are computed with.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};

use ::ort::AsPointer as _;
use ::ort::session::Session;
use ::ort::sys::{OrtEpAssignedNode, OrtEpAssignedSubgraph, OrtStatusPtr};

/// The session option that has ONNX Runtime remember the assignment.
pub(super) const RECORD: &str = "session.record_ep_graph_assignment_info";

/// The CPU provider's name.
const CPU: &str = "CPUExecutionProvider";

/// Operators that shapes are computed with. None of them is where a network spends its time, and the CUDA
/// provider has kernels for all of them: it leaves them to the CPU when they work on a few integers.
const OF_SHAPES: [&str; 19] = [
    "Add",
    "Cast",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Div",
    "Gather",
    "Identity",
    "Max",
    "Min",
    "Mul",
    "Range",
    "Reshape",
    "Shape",
    "Size",
    "Slice",
    "Squeeze",
    "Sub",
    "Unsqueeze",
];

/// A node and the provider that it was given to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Assigned {
    pub(super) provider: String,
    pub(super) operator: String,
}

/// Checks that only operators on shapes run on the CPU.
///
/// # Errors
/// What else does, by operator.
pub(super) fn check(nodes: &[Assigned]) -> Result<(), String> {
    let mut strays: BTreeMap<&str, usize> = BTreeMap::new();
    for node in nodes.iter().filter(|node| node.provider == CPU) {
        if !OF_SHAPES.contains(&node.operator.as_str()) {
            *strays.entry(&node.operator).or_default() += 1;
        }
    }
    if strays.is_empty() {
        return Ok(());
    }
    let strays: Vec<_> = strays.iter().map(|(operator, count)| format!("{count} {operator}")).collect();
    Err(format!(
        "expected every node but arithmetic on shapes to run on the GPU, found on the CPU: {}; the provider has no kernel \
         for them in these types: use the runtime `ort`, or a bundle of another precision",
        strays.join(", ")
    ))
}

/// The nodes of a session that was made with [`RECORD`], before providers fused any.
pub(super) fn of(session: &Session) -> Result<Vec<Assigned>, ::ort::Error> {
    let api = ::ort::api();
    let mut nodes = Vec::new();
    // SAFETY: the session lives through this function, and ONNX Runtime documents that it owns the arrays,
    // the objects in them and their strings for as long as the session does; all are read here and copied.
    unsafe {
        let subgraphs =
            array(|data, count| (api.Session_GetEpGraphAssignmentInfo)(session.ptr(), data, count))?;
        for &subgraph in subgraphs as &[*const OrtEpAssignedSubgraph] {
            let provider = text(|out| (api.EpAssignedSubgraph_GetEpName)(subgraph, out))?;
            let members = array(|data, count| (api.EpAssignedSubgraph_GetNodes)(subgraph, data, count))?;
            for &node in members as &[*const OrtEpAssignedNode] {
                let operator = text(|out| (api.EpAssignedNode_GetOperatorType)(node, out))?;
                nodes.push(Assigned { provider: provider.clone(), operator });
            }
        }
    }
    Ok(nodes)
}

/// An array that ONNX Runtime returns by pointer and length.
///
/// # Safety
/// On success `get` must set a pointer to as many valid elements, or a length of 0; they must live for `'a`.
unsafe fn array<'a, T>(
    get: impl FnOnce(*mut *const *const T, *mut usize) -> OrtStatusPtr,
) -> Result<&'a [*const T], ::ort::Error> {
    let (mut data, mut count) = (std::ptr::null(), 0);
    // SAFETY: the status is the one that the call just returned.
    unsafe { ::ort::Error::result_from_status(get(&raw mut data, &raw mut count)) }?;
    if count == 0 || data.is_null() {
        return Ok(&[]);
    }
    // SAFETY: the caller vouches for the array.
    Ok(unsafe { std::slice::from_raw_parts(data, count) })
}

/// A string that ONNX Runtime returns by pointer.
///
/// # Safety
/// On success `get` must set a pointer to a string that ends in NUL.
unsafe fn text(get: impl FnOnce(*mut *const c_char) -> OrtStatusPtr) -> Result<String, ::ort::Error> {
    let mut data = std::ptr::null();
    // SAFETY: the status is the one that the call just returned.
    unsafe { ::ort::Error::result_from_status(get(&raw mut data)) }?;
    if data.is_null() {
        return Ok(String::new());
    }
    // SAFETY: the caller vouches for the string.
    Ok(unsafe { CStr::from_ptr(data) }.to_string_lossy().into_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use arrcoc_tests::require::can_run;

    use super::super::{OrtLibrary, Provider};
    use super::*;
    use crate::library::CpuOptions;

    fn on(provider: &str, operator: &str) -> Assigned {
        Assigned { provider: provider.into(), operator: operator.into() }
    }

    #[test]
    fn shapes_may_be_computed_on_the_cpu_and_nothing_else() {
        let gpu = "CUDAExecutionProvider";
        let mut nodes = vec![on(gpu, "MatMul"), on(gpu, "TopK"), on(CPU, "Shape"), on(CPU, "Gather")];
        assert_eq!(check(&nodes), Ok(()));
        nodes.extend([on(CPU, "MatMul"), on(CPU, "Softmax"), on(CPU, "MatMul")]);
        let text = check(&nodes).unwrap_err();
        assert!(text.contains("2 MatMul, 1 Softmax;"), "{text}");
    }
    /// On a session of the CPU provider everything is on the CPU, and the check must see it.
    #[test]
    fn a_network_on_the_cpu_is_found_out() {
        let runtime = OrtLibrary::open(1, Provider::Cpu(CpuOptions::default()));
        if !can_run("ort", &runtime) {
            return;
        }
        let runtime = runtime.unwrap();
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/onnx/affine.onnx");
        let builder = runtime.session(false).unwrap().with_config_entry(RECORD, "1").unwrap();
        let session = { builder }.commit_from_file(model).unwrap();
        let nodes = of(&session).unwrap();
        assert!(!nodes.is_empty() && nodes.iter().all(|node| node.provider == CPU), "{nodes:?}");
        let text = check(&nodes).unwrap_err();
        assert!(text.contains("found on the CPU: 1 Gemm") || text.contains("1 MatMul"), "{text}");
    }
}

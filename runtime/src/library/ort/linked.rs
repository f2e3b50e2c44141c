//! Weights that lie elsewhere than beside their graph, behind symbolic links, as Hugging Face's cache keeps
//! them.
//!
//! ONNX Runtime follows a graph's references to its own directory and no further. So such files are mapped
//! here and handed over in memory, under the names by which the graph knows them.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use ::ort::AsPointer as _;
use ::ort::session::builder::SessionBuilder;
use memmap2::{Mmap, MmapOptions, UncheckedAdvice};

use arrcoc_bundle::GraphFile;

/// Files in memory that a session reads; they must outlive it.
#[derive(Debug, Default)]
pub(super) struct Mapped(Vec<Mmap>);

/// Hands over every file of a graph that lies behind links. Nothing, where none does: ONNX Runtime then maps
/// each tensor by itself, and drops those of which it makes a copy.
///
/// # Errors
/// A file cannot be mapped, or ONNX Runtime refuses it.
pub(super) fn hand_over(
    mut builder: SessionBuilder,
    graph: &GraphFile,
) -> Result<(SessionBuilder, Mapped), ::ort::Error> {
    let mut mapped = Mapped::default();
    if !is_linked(graph).map_err(::ort::Error::wrap)? {
        return Ok((builder, mapped));
    }
    for (name, path) in &graph.external {
        let name = CString::new(Path::new(name).as_os_str().as_bytes()).map_err(::ort::Error::wrap)?;
        let file = File::open(path).map_err(::ort::Error::wrap)?;
        // SAFETY: the file was hashed, and is looked at while it is in use; writing to it meanwhile is as
        // harmful as to files that ONNX Runtime maps.
        let data = unsafe { MmapOptions::new().map_copy_read_only(&file) }.map_err(::ort::Error::wrap)?;
        let (name, address, length) = (name.as_ptr(), data.as_ptr().cast_mut().cast(), data.len());
        // SAFETY: the arrays have one element each and are only read during the call. ONNX Runtime keeps the
        // data's address: `Mapped` goes wherever the session goes, and is dropped after it. It reads external
        // initializers only, though the function asks for mutable ones.
        unsafe {
            let add = ::ort::api().AddExternalInitializersFromMemory;
            ::ort::Error::result_from_status(add(builder.ptr_mut(), &name, &address, &length, 1))?;
        }
        mapped.0.push(data);
    }
    Ok((builder, mapped))
}

/// Whether the graph, or any of its files, lies elsewhere than its path says.
fn is_linked(graph: &GraphFile) -> io::Result<bool> {
    let directory = graph.path.parent().unwrap_or(Path::new("/")).canonicalize()?;
    for path in graph.external.values().chain([&graph.path]) {
        if !path.canonicalize()?.starts_with(&directory) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Mapped {
    /// Gives back the memory of pages that were only read to make copies of them; those that are read again
    /// come back from the file.
    pub(super) fn forget_pages(&self) {
        for data in &self.0 {
            // SAFETY: the mapping is read-only, so that no change of it can be lost.
            let _ = unsafe { data.unchecked_advise(UncheckedAdvice::DontNeed) };
        }
    }
}

//! Constants that no checkpoint has: the builder of the graphs made them, rotary tables above all.
//!
//! A question reaches the first rows of a table only, so what graphs compute says nothing of the others. With
//! the checkpoint at hand its networks are composed again, which takes no weights, and every constant is
//! compared with the one of its name. Without it a table is held against those of the reference: names say
//! nothing there, since builders count anew for every target.

use std::collections::HashMap;

use arrcoc_bundle::names::{stored, tensor};
use arrcoc_bundle::{Bundle, Manifest};
use arrcoc_models::families::GraphOptions;
use arrcoc_models::graph::{Graph, Source};
use half::f16;

use super::pairs::place;
use super::{Strayed, VerifyError};
use crate::build::Described;
use crate::checkpoint::Checkpoint;
use crate::onnx::{self, FLOAT, FLOAT16};
use crate::quantize;

/// The graphs of a bundle before its precision, made again.
///
/// # Errors
/// [`VerifyError`] where the checkpoint is none that a bundle can be built from.
pub(super) fn compose(checkpoint: &mut Checkpoint, of: &Manifest) -> Result<Vec<Graph>, VerifyError> {
    let options = GraphOptions { target: of.target, context_length: of.decoder.context_length };
    let described = Described::read(checkpoint).map_err(|error| VerifyError::Compose(Box::new(error)))?;
    Ok(described.composition.ranged_graphs(options))
}

/// A constant of the builder's.
struct Constant {
    name: String,
    element: i32,
    dims: Vec<i64>,
    bytes: Vec<u8>,
}

/// The builder's constants in a graph of a bundle.
fn constants(bundle: &Bundle, graph: &str) -> Result<Vec<Constant>, VerifyError> {
    let path = &bundle.graph(graph)?.path;
    let own = onnx::read(path)?.initializers.into_iter();
    let own = own.filter(|constant| constant.name.starts_with(tensor::CONSTANT));
    let read = |constant: onnx::Initializer| {
        let bytes = match place(bundle, path, &constant)? {
            Some(place) => place.read_all()?,
            None => constant.raw_data,
        };
        Ok(Constant { name: constant.name, element: constant.data_type, dims: constant.dims, bytes })
    };
    own.map(read).collect()
}

/// Constants of a bundle that are not those of `graphs`, by name. Those that its precision put others in the
/// place of are left out.
pub(super) fn against_graphs(bundle: &Bundle, graphs: &[Graph]) -> Result<Vec<Strayed>, VerifyError> {
    let mut strayed = Vec::new();
    for graph in graphs.iter().filter(|graph| bundle.graph(graph.name).is_ok()) {
        let found = constants(bundle, graph.name)?;
        let found: HashMap<&str, &Constant> = found.iter().map(|of| (of.name.as_str(), of)).collect();
        for expected in &graph.initializers {
            let Source::Data(bytes) = &expected.source else { continue };
            let short = format!("{}{}", expected.name, stored::HALF);
            let elements = expected.shape.iter().product();
            let kept = found.get(&*expected.name).and_then(|of| stray(of, bytes, elements));
            let halved = found.get(&*short).and_then(|of| stray(of, &halves(bytes), elements));
            strayed.extend(kept.into_iter().chain(halved).map(|of| of.of(graph.name)));
        }
    }
    Ok(strayed)
}

/// Tables of a bundle that none of the reference's is like, where each has as many of the shape.
pub(super) fn against_reference(bundle: &Bundle, reference: &Bundle) -> Result<Vec<Strayed>, VerifyError> {
    let mut strayed = Vec::new();
    for graph in bundle.manifest().graphs.keys().filter(|graph| reference.graph(graph).is_ok()) {
        let (found, expected) = (tables(bundle, graph)?, tables(reference, graph)?);
        for table in &found {
            let alike = |other: &&Constant| other.dims == table.dims;
            let expected: Vec<&Constant> = expected.iter().filter(alike).collect();
            if expected.len() != found.iter().filter(alike).count() {
                continue;
            }
            let elements = table.dims.iter().map(|&n| n.max(0) as usize).product();
            let stray = |of: &&Constant| match table.element {
                FLOAT16 => stray(table, &halves(&of.bytes), elements),
                _ => stray(table, &of.bytes, elements),
            };
            let strays: Option<Vec<Stray<'_>>> = expected.iter().map(stray).collect();
            // The one that it is most like.
            let nearest = strays.and_then(|strays| strays.into_iter().min_by_key(|stray| stray.count));
            strayed.extend(nearest.map(|of| of.of(graph)));
        }
    }
    Ok(strayed)
}

/// Constants of floats with rows.
fn tables(bundle: &Bundle, graph: &str) -> Result<Vec<Constant>, VerifyError> {
    let mut tables = constants(bundle, graph)?;
    tables.retain(|of| [FLOAT, FLOAT16].contains(&of.element) && of.dims.len() > 1);
    Ok(tables)
}

/// How a constant differs from what it should be.
struct Stray<'a> {
    tensor: &'a str,
    count: u64,
    first: u64,
}

impl Stray<'_> {
    fn of(self, graph: &str) -> Strayed {
        let Self { tensor, count, first } = self;
        Strayed { graph: graph.to_owned(), tensor: tensor.to_owned(), count, first }
    }
}

/// `None` where a constant of so many elements is what it should be, to the bit.
fn stray<'a>(found: &'a Constant, expected: &[u8], elements: usize) -> Option<Stray<'a>> {
    let tensor = found.name.as_str();
    if found.bytes.len() != expected.len() {
        return Some(Stray { tensor, count: elements as u64, first: 0 });
    }
    let size = (expected.len() / elements.max(1)).max(1);
    let pairs = found.bytes.chunks(size).zip(expected.chunks(size));
    let mut strays = pairs.enumerate().filter(|(_, (found, expected))| found != expected);
    let (first, _) = strays.next()?;
    Some(Stray { tensor, count: 1 + strays.count() as u64, first: first as u64 })
}

/// 32-bit floats in 16 bits.
fn halves(bytes: &[u8]) -> Vec<u8> {
    quantize::floats(bytes).flat_map(|x| f16::from_f32(x).to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_differs_is_counted_and_placed() {
        let bytes = |floats: &[f32]| floats.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>();
        let of = |floats: &[f32]| Constant {
            name: "constant_0".into(),
            element: FLOAT,
            dims: vec![2, 2],
            bytes: bytes(floats),
        };
        let expected = bytes(&[1.0, 2.0, 3.0, 4.0]);
        assert!(stray(&of(&[1.0, 2.0, 3.0, 4.0]), &expected, 4).is_none());
        let found = of(&[1.0, 2.0f32.next_up(), 3.0, -4.0]);
        let found = stray(&found, &expected, 4).unwrap();
        assert_eq!((found.tensor, found.count, found.first), ("constant_0", 2, 1));
        assert_eq!(stray(&of(&[1.0]), &expected, 4).unwrap().count, 4);
    }
}

//! Which bytes go where: the external data files of a set of graphs.
//!
//! A tensor that an earlier graph already stores is not stored again: tied embeddings exist once on disk.

use std::collections::HashMap;

use super::proto::{self, Placement};
use super::{Element, Graph, Source};

/// Constants from this size on go to the data file; smaller ones stay in the `.onnx` file, where shape
/// inference needs them (readers do not look into external data for shapes and axes).
const INLINE_LIMIT: usize = 4096;

/// Large tensors start on a page, so that a reader can map them.
const PAGE: u64 = 4096;

/// One tensor of a data file.
#[derive(Debug, Clone)]
pub struct Piece {
    /// First byte; the gap before it is zeros.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Element type to store.
    pub element: Element,
    /// The numbers.
    pub source: Source,
}

/// One external data file, its pieces in order of offset.
#[derive(Debug, Clone)]
pub struct DataFile {
    /// File name, `NAME.onnx.data`.
    pub name: String,
    /// Tensors, ascending by offset.
    pub pieces: Vec<Piece>,
}

impl DataFile {
    /// Length of the file in bytes.
    pub fn length(&self) -> u64 {
        self.pieces.last().map_or(0, |piece| piece.offset + piece.length)
    }
}

/// The files of a set of graphs.
#[derive(Debug)]
pub struct Layout {
    /// `NAME.onnx` and its bytes, in the order of the graphs.
    pub models: Vec<(String, Vec<u8>)>,
    /// Data files; a graph without large tensors of its own has none.
    pub data: Vec<DataFile>,
}

impl Layout {
    /// Lays out `graphs`.
    pub fn new(graphs: &[Graph]) -> Self {
        let mut stored: HashMap<(Source, Element), Placement> = HashMap::new();
        let mut layout = Layout { models: Vec::new(), data: Vec::new() };
        for graph in graphs {
            let mut file = DataFile { name: format!("{}.onnx.data", graph.name), pieces: Vec::new() };
            let mut placements = Vec::new();
            for tensor in &graph.initializers {
                let length = tensor.element.bytes(tensor.shape.iter().product()) as u64;
                placements.push(match &tensor.source {
                    Source::Data(bytes) if bytes.len() < INLINE_LIMIT => None,
                    Source::Data(_) => Some(append(&mut file, tensor.element, &tensor.source, length)),
                    source => {
                        let place = stored
                            .entry((source.clone(), tensor.element))
                            .or_insert_with(|| append(&mut file, tensor.element, &tensor.source, length));
                        Some(place.clone())
                    }
                });
            }
            layout.models.push((format!("{}.onnx", graph.name), proto::serialize(graph, &placements)));
            if !file.pieces.is_empty() {
                layout.data.push(file);
            }
        }
        layout
    }
}

fn append(file: &mut DataFile, element: Element, source: &Source, length: u64) -> Placement {
    let align = if length >= PAGE { PAGE } else { 64 };
    let offset = file.length().next_multiple_of(align);
    file.pieces.push(Piece { offset, length, element, source: source.clone() });
    Placement { file: file.name.clone(), offset, length }
}

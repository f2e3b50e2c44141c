//! Which stored tensor of a bundle stands for which weight of the checkpoint.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use arrcoc_bundle::names::{operator, stored, tensor};
use arrcoc_bundle::{Bundle, GraphFile};
use arrcoc_models::graph::quantized::{Bits, Blocks, Int4, Scheme};
use half::f16;

use super::VerifyError;
use crate::onnx::{
    self, FLOAT, FLOAT8E4M3FN, FLOAT16, INT4, INT8, Initializer, Location, Node, UINT4, UINT8,
};
use crate::quantize::stored::Stored;

/// Where a tensor's bytes lie.
#[derive(Debug, Clone)]
pub(super) struct Place {
    path: PathBuf,
    offset: u64,
    length: u64,
}

impl Place {
    /// Bytes of it.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Reads `bytes` bytes from `at` on, or what there is of them.
    pub(super) fn read(&self, at: u64, bytes: u64) -> Result<Vec<u8>, VerifyError> {
        let failed = |source| VerifyError::Read { path: self.path.clone(), source };
        let mut buffer = vec![0; bytes.min(self.length.saturating_sub(at)) as usize];
        let file = File::open(&self.path).map_err(failed)?;
        file.read_exact_at(&mut buffer, self.offset + at).map_err(failed)?;
        Ok(buffer)
    }

    /// Reads all of it.
    pub(super) fn read_all(&self) -> Result<Vec<u8>, VerifyError> {
        self.read(0, self.length)
    }
}

/// A weight of the reference, and what stands for it.
#[derive(Debug)]
pub(super) struct Pair {
    /// The weight's name.
    pub(super) name: String,
    /// Length of its last axis, and of all others together.
    pub(super) columns: usize,
    pub(super) rows: usize,
    /// Whether it has two axes or more.
    pub(super) is_matrix: bool,
    /// 32-bit floats.
    pub(super) reference: Place,
    pub(super) subject: Form,
}

/// What stands for a weight.
#[derive(Debug)]
pub(super) enum Form {
    /// 32-bit floats.
    Full(Place),
    /// 16-bit floats.
    Half(Place),
    /// Fewer bits.
    Quantized(Parts),
}

/// The parts of a quantized matrix.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) scheme: Scheme,
    values: Place,
    scales: (Place, i32),
    zero_points: Option<Place>,
}

impl Parts {
    /// Reads them, for a matrix of so many rows and columns.
    pub(super) fn read(&self, rows: usize, columns: usize) -> Result<Stored, VerifyError> {
        let (place, element) = &self.scales;
        let scales = place.read_all()?;
        let scales = match *element {
            FLOAT16 => scales.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            _ => scales.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        };
        let zero_points = self.zero_points.as_ref().map(Place::read_all).transpose()?.unwrap_or_default();
        let values = self.values.read_all()?;
        Ok(Stored { scheme: self.scheme, rows, columns, values, scales, zero_points })
    }
}

/// The weights of a graph that both bundles have. Weights that only one has are left to the comparison of
/// what the graphs compute.
pub(super) fn pairs(reference: &Bundle, subject: &Bundle, graph: &str) -> Result<Vec<Pair>, VerifyError> {
    let (ours, theirs) = (Tensors::of(reference, graph)?, Tensors::of(subject, graph)?);
    let mut pairs = Vec::new();
    for constant in &ours.graph.initializers {
        // The builder numbers its own constants anew in every graph.
        if constant.data_type != FLOAT || constant.name.starts_with(tensor::CONSTANT) {
            continue;
        }
        let Some(place) = ours.place(constant)? else { continue };
        let Some(form) = theirs.form(&constant.name)? else { continue };
        let dims: Vec<usize> = constant.dims.iter().map(|&n| usize::try_from(n).unwrap_or(0)).collect();
        let columns = dims.last().copied().unwrap_or(1).max(1);
        pairs.push(Pair {
            name: constant.name.clone(),
            rows: dims.iter().product::<usize>() / columns,
            columns,
            is_matrix: dims.len() > 1,
            reference: place,
            subject: form,
        });
    }
    Ok(pairs)
}

/// The constants of a graph, by name.
struct Tensors<'a> {
    graph: onnx::Graph,
    by_name: HashMap<String, usize>,
    file: &'a GraphFile,
    bundle: &'a Bundle,
}

impl<'a> Tensors<'a> {
    fn of(bundle: &'a Bundle, graph: &str) -> Result<Self, VerifyError> {
        let file = bundle.graph(graph)?;
        let graph = onnx::read(&file.path)?;
        let by_name =
            graph.initializers.iter().enumerate().map(|(at, tensor)| (tensor.name.clone(), at)).collect();
        Ok(Self { graph, by_name, file, bundle })
    }

    fn get(&self, name: &str, suffix: &str) -> Option<&Initializer> {
        let at = self.by_name.get(&format!("{name}{suffix}"))?;
        self.graph.initializers.get(*at)
    }

    /// Where a constant lies; `None` where it is too small to lie outside of the graph.
    fn place(&self, constant: &Initializer) -> Result<Option<Place>, VerifyError> {
        place(self.bundle, &self.file.path, constant)
    }

    fn part(&self, name: &str, suffix: &str) -> Result<Option<(Place, i32)>, VerifyError> {
        let Some(constant) = self.get(name, suffix) else { return Ok(None) };
        Ok(self.place(constant)?.map(|place| (place, constant.data_type)))
    }

    /// What stands for a weight: the fewest bits, where there are several.
    fn form(&self, name: &str) -> Result<Option<Form>, VerifyError> {
        if let (Some((values, element)), Some(scales)) =
            (self.part(name, stored::VALUES)?, self.part(name, stored::SCALES)?)
        {
            let zero_points = self.part(name, stored::ZERO_POINTS)?.map(|(place, _)| place);
            let reader = self.reader(&format!("{name}{}", stored::VALUES));
            let form = (zero_points.is_none(), scales.1 == FLOAT16);
            let scheme = reader.and_then(|reader| scheme(element, reader, form));
            let unknown = || VerifyError::WeightType { tensor: name.to_owned(), found: element };
            let scheme = scheme.ok_or_else(unknown)?;
            return Ok(Some(Form::Quantized(Parts { scheme, values, scales, zero_points })));
        }
        if let Some((place, FLOAT16)) = self.part(name, stored::HALF)? {
            return Ok(Some(Form::Half(place)));
        }
        Ok(match self.part(name, "")? {
            Some((place, FLOAT)) => Some(Form::Full(place)),
            _ => None,
        })
    }

    /// The operator that reads a constant.
    fn reader(&self, name: &str) -> Option<&Node> {
        self.graph.nodes.iter().find(|node| node.inputs.iter().any(|input| input == name))
    }
}

/// Where a constant lies; `None` where it is too small to lie outside of the graph.
pub(super) fn place(
    bundle: &Bundle,
    model: &Path,
    constant: &Initializer,
) -> Result<Option<Place>, VerifyError> {
    let Some(Location { file, offset, length }) = constant.location(model)? else { return Ok(None) };
    let path = bundle.file_path(&file)?.to_owned();
    Ok(Some(Place { path, offset, length }))
}

/// How the operator that reads values understands them.
fn scheme(element: i32, reader: &Node, (symmetric, half_scales): (bool, bool)) -> Option<Scheme> {
    let attribute = |name: &str| reader.attributes.iter().find(|of| of.name == name).map(|of| of.int);
    let bits = || match attribute("bits")? {
        4 => Some(Bits::Four),
        8 => Some(Bits::Eight),
        _ => None,
    };
    let size = || usize::try_from(attribute("block_size")?).ok().filter(|&size| size > 1);
    Some(match (element, reader.operator.as_str()) {
        (INT8, _) => Scheme::PerRow,
        (FLOAT8E4M3FN, _) => Scheme::Fp8,
        (INT4 | UINT4, _) => Scheme::Int4(Int4 { size: size()?, symmetric: element == INT4 }),
        (UINT8, operator::BLOCK_LINEAR) => Scheme::Tiles(bits()?),
        (UINT8, "Gather") => Scheme::Tiles(Bits::Eight),
        (UINT8, "MatMulNBits") if half_scales && bits()? == Bits::Four => {
            Scheme::Packed(Int4 { size: size()?, symmetric })
        }
        (UINT8, "MatMulNBits") if half_scales => return None,
        (UINT8, "MatMulNBits" | "GatherBlockQuantized") => {
            Scheme::Blocks(Blocks { bits: bits()?, size: size()?, symmetric })
        }
        _ => return None,
    })
}

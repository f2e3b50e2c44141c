//! Weights in fewer bits: the numbers behind [`arrcoc_models::graph::quantized`].
//!
//! A matrix streams through in groups of rows, once per stored part (twice where one scale is for all of it),
//! so that no more than a group is in memory in 32 bits. ([`int4`] stores columns, so it gathers the whole
//! part, in the few bits that it has.)

mod blocks;
pub(crate) mod fp8;
mod int4;
mod packed;
mod restore;
mod rows;
pub(crate) mod stored;
mod tiles;

use std::io::{self, Write};
use std::ops::Range;

use arrcoc_models::graph::Factors;
use arrcoc_models::graph::quantized::{Quantized, Scheme};
use half::f16;
use half::slice::HalfFloatSliceExt as _;

use crate::checkpoint::{Checkpoint, CheckpointError};

/// Weights read at once.
const GROUP: usize = 1 << 18;

/// The largest magnitude of a weight that is stored in fewer bits and multiplied as a 16-bit float. Coming
/// back it may be two steps of fifteen larger (a zero point is rounded, and so is the weight); 65504 is the
/// end.
const RESTORED_AS_F16: f32 = 57_344.0;

/// The least that the largest weight of a matrix with 16-bit scales may be. Its block's scale of 8 bits is
/// 2^-17 then, and scales are off by 2^-25 at most, a hundredth of half a step of that block. Scales of
/// smaller weights would lose their digits, and in the end vanish.
const LEAST: f32 = 127.0 / 131_072.0;

/// Writes one part of a quantized matrix.
///
/// # Errors
/// [`CheckpointError`]: the tensor cannot be read, holds something that is no number or too large for its
/// form, or `out` fails.
pub(crate) fn write(
    checkpoint: &Checkpoint,
    quantized: &Quantized,
    out: &mut dyn Write,
) -> Result<(), CheckpointError> {
    match quantized.scheme {
        Scheme::Fp8 => fp8::write(checkpoint, quantized, out),
        Scheme::Int4(blocks) => int4::write(checkpoint, quantized, blocks, out),
        Scheme::Packed(blocks) => packed::write(checkpoint, quantized, blocks, out),
        Scheme::PerRow => rows::write(checkpoint, quantized, out),
        Scheme::Tiles(bits) => tiles::write(checkpoint, quantized, bits, out),
        Scheme::Blocks(blocks) => {
            let mut bytes = Vec::new();
            each_row(checkpoint, &Matrix::of(quantized), |row| {
                bytes.clear();
                blocks::encode(row, blocks, quantized.part, &mut bytes);
                out.write_all(&bytes)
            })
        }
    }
}

/// Writes elements `range` of a tensor as 16-bit floats.
///
/// # Errors
/// [`CheckpointError::Overflow`] when one of them is beyond 65504; else as [`write()`].
pub(crate) fn write_f16(
    checkpoint: &Checkpoint,
    tensor: &str,
    range: &Range<usize>,
    out: &mut dyn Write,
) -> Result<(), CheckpointError> {
    let (mut halves, mut bytes) = (Vec::new(), Vec::new());
    each_group(checkpoint, tensor, range, GROUP, |start, floats| {
        halves.resize(floats.len(), f16::ZERO);
        halves.convert_from_f32_slice(floats);
        if let Some(at) = halves.iter().position(|half| half.is_infinite()) {
            let (tensor, index, value, limit) =
                (tensor.to_owned(), start + at, floats[at], f16::MAX.to_f32());
            return Err(CheckpointError::Overflow { tensor, index, value, limit });
        }
        bytes.clear();
        bytes.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
        out.write_all(&bytes).map_err(CheckpointError::Sink)
    })
}

/// Writes a matrix as 32-bit floats.
///
/// # Errors
/// As [`write()`].
pub(crate) fn write_f32(
    checkpoint: &Checkpoint,
    matrix: &Matrix<'_>,
    out: &mut dyn Write,
) -> Result<(), CheckpointError> {
    let mut bytes = Vec::new();
    each_row(checkpoint, matrix, |row| {
        bytes.clear();
        bytes.extend(row.iter().flat_map(|x| x.to_le_bytes()));
        out.write_all(&bytes)
    })
}

/// The nearest whole number, ties to even, of a small one: an addition leaves no bits behind the point.
/// Unlike `round_ties_even` it needs no instruction that not every processor has, so that several are
/// computed at once.
fn nearest(x: f32) -> f32 {
    const NO_FRACTION: f32 = 1.5 * 8_388_608.0; // 1.5 * 2^23
    (x + NO_FRACTION) - NO_FRACTION
}

/// Rows of a checkpoint tensor.
pub(crate) struct Matrix<'a> {
    pub(crate) tensor: &'a str,
    /// The elements, row-major.
    pub(crate) range: &'a Range<usize>,
    /// Length of a row.
    pub(crate) columns: usize,
    /// What the columns are multiplied with.
    pub(crate) factors: Option<&'a [f32]>,
}

impl<'a> Matrix<'a> {
    fn of(quantized: &'a Quantized) -> Self {
        let Quantized { tensor, range, columns, factors, .. } = quantized;
        Self { tensor, range, columns: *columns, factors: factors.as_ref().map(Factors::numbers) }
    }
}

/// Passes every row of a matrix to `take`.
pub(crate) fn each_row(
    checkpoint: &Checkpoint,
    matrix: &Matrix<'_>,
    mut take: impl FnMut(&[f32]) -> io::Result<()>,
) -> Result<(), CheckpointError> {
    let &Matrix { tensor, range, columns, factors } = matrix;
    let step = (GROUP / columns).max(1) * columns;
    let mut scaled = Vec::new();
    each_group(checkpoint, tensor, range, step, |_, floats| {
        let mut rows = floats.chunks_exact(columns);
        let taken = match factors {
            None => rows.try_for_each(&mut take),
            Some(factors) => rows.try_for_each(|row| {
                scaled.clear();
                scaled.extend(row.iter().zip(factors).map(|(x, factor)| x * factor));
                take(&scaled)
            }),
        };
        taken.map_err(CheckpointError::Sink)
    })
}

/// As [`each_row`], where no weight may be larger than `limit`, and the largest one not smaller than `least`
/// unless it is zero.
///
/// # Errors
/// After all rows were passed on, [`CheckpointError::Overflow`] with the first that is, or
/// [`CheckpointError::Underflow`]; else as [`write()`].
fn each_row_within(
    checkpoint: &Checkpoint,
    matrix: &Matrix<'_>,
    (least, limit): (f32, f32),
    mut take: impl FnMut(&[f32]) -> io::Result<()>,
) -> Result<(), CheckpointError> {
    let (mut passed, mut overflow, mut largest) = (0, None, 0.0f32);
    each_row(checkpoint, matrix, |row| {
        if overflow.is_none() {
            let at = row.iter().position(|x| x.abs() > limit);
            overflow = at.map(|at| (passed + at, row[at]));
        }
        passed += row.len();
        largest = row.iter().fold(largest, |largest, x| largest.max(x.abs()));
        take(row)
    })?;
    match overflow {
        None if largest > 0.0 && largest < least => {
            Err(CheckpointError::Underflow { tensor: matrix.tensor.to_owned(), largest, least })
        }
        None => Ok(()),
        Some((index, value)) => {
            let tensor = matrix.tensor.to_owned();
            Err(CheckpointError::Overflow { tensor, index, value, limit })
        }
    }
}

/// Little-endian floats.
pub(crate) fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// Passes elements `range` of a tensor to `take`, `step` at a time, with the place of the first within the
/// range.
fn each_group(
    checkpoint: &Checkpoint,
    tensor: &str,
    range: &Range<usize>,
    step: usize,
    mut take: impl FnMut(usize, &[f32]) -> Result<(), CheckpointError>,
) -> Result<(), CheckpointError> {
    let (mut bytes, mut floats) = (Vec::new(), Vec::new());
    for start in range.clone().step_by(step) {
        bytes.clear();
        floats.clear();
        checkpoint.read_f32(tensor, start..range.end.min(start + step), &mut bytes)?;
        floats.extend(self::floats(&bytes));
        // A NaN would become a plain zero, and nobody would ever know.
        if let Some(first) = floats.iter().position(|x| !x.is_finite()) {
            let index = start - range.start + first;
            return Err(CheckpointError::NotFinite { tensor: tensor.to_owned(), index });
        }
        take(start - range.start, &floats)?;
    }
    Ok(())
}

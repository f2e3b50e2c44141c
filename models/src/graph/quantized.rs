//! Weights in fewer bits: what is stored, and in which layout. The exporter computes the numbers.

use std::ops::Range;

use super::element::Element;
use super::factors::Factors;

/// One stored part of a quantized matrix \[rows, columns\] of the checkpoint, \[out, in\] for a linear layer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Quantized {
    /// Tensor name in the checkpoint.
    pub tensor: String,
    /// Its elements that make up the matrix, row-major.
    pub range: Range<usize>,
    /// Length of a row.
    pub columns: usize,
    /// What the columns are multiplied with first.
    pub factors: Option<Factors>,
    /// How it is quantized.
    pub scheme: Scheme,
    /// Which part of the result.
    pub part: Part,
}

/// A way to write a matrix in fewer bits: `weight = scale * (value - zero point)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// int8 from -127 to 127, one scale per row, no zero point. Stored as it lies.
    PerRow,
    /// 8-bit floats with one 16-bit scale for the whole matrix, which maps its largest magnitude to the
    /// format's, 448. Stored as it lies.
    Fp8,
    /// Blocks along each row with a scale of their own, in the layout of ONNX Runtime's `MatMulNBits`.
    Blocks(Blocks),
    /// [`Blocks::tiled`] with 16-bit scales, sixteen rows side by side: in the order in which
    /// [`BlockLinear`](super::ops::linear::block_linear) multiplies them. The last tile is filled up with
    /// rows of zeros.
    Tiles(Bits),
    /// Blocks of 4-bit weights along each row, transposed, \[columns, rows\]: what ONNX's `DequantizeLinear`
    /// reads in front of a `MatMul`.
    Int4(Int4),
    /// The same weights along each row as they lie, with 16-bit scales, in the layout of ONNX Runtime's
    /// `MatMulNBits`.
    Packed(Int4),
}

/// Blocks of [`Scheme::Int4`] and [`Scheme::Packed`]. Rows divide into them without a rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Int4 {
    /// Weights per block.
    pub size: usize,
    /// Without zero points: integers from -8 to 7, else from 0 to 15.
    pub symmetric: bool,
}

impl Int4 {
    /// The same as blocks of [`Scheme::Blocks`], which have the same layout but for their scales.
    pub const fn blocks(self) -> Blocks {
        Blocks { bits: Bits::Four, size: self.size, symmetric: self.symmetric }
    }
}

/// Blocks of [`Scheme::Blocks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Blocks {
    /// Bits of a weight.
    pub bits: Bits,
    /// Weights per block: a power of two from 16 on.
    pub size: usize,
    /// Without zero points: the range is as wide below zero as above.
    pub symmetric: bool,
}

/// Bits of a weight in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bits {
    /// Two weights per byte, the first in the lower half.
    Four,
    /// One weight per byte.
    Eight,
}

/// What is stored of a quantized matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The integers.
    Values,
    /// The scales: 32-bit floats with [`Scheme::PerRow`] and [`Scheme::Blocks`], else 16-bit ones.
    Scales,
    /// The zero points, packed like the values: only of blocks that are not symmetric.
    ZeroPoints,
}

impl Bits {
    /// The number.
    pub const fn count(self) -> usize {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
        }
    }
}

impl Blocks {
    /// What tiles are made of: weights in symmetric blocks of 32.
    pub const fn tiled(bits: Bits) -> Self {
        Self { bits, size: Self::TILE_BLOCK, symmetric: true }
    }

    /// Weights of a block in a tile.
    pub const TILE_BLOCK: usize = 32;
    /// Rows of a tile.
    pub const TILE_ROWS: usize = 16;
    /// Bytes of a row that lie together in a tile: a word.
    pub const WORD_BYTES: usize = 4;

    /// The smallest block that the operators take.
    pub const SMALLEST: usize = 16;

    /// The same, or the largest smaller blocks that divide rows of `columns` weights; padding wastes bytes
    /// and time.
    pub fn fitting(self, columns: usize) -> Self {
        let mut size = self.size;
        while size > Self::SMALLEST && !columns.is_multiple_of(size) {
            size /= 2;
        }
        Self { size, ..self }
    }

    /// Blocks of a row of `columns` weights; the last one may be padded.
    pub const fn per_row(self, columns: usize) -> usize {
        columns.div_ceil(self.size)
    }

    /// Bytes of a block's values.
    pub const fn bytes(self) -> usize {
        self.size * self.bits.count() / 8
    }

    /// Bytes of a row's zero points: every row begins at a byte.
    pub const fn zero_point_bytes(self, columns: usize) -> usize {
        (self.per_row(columns) * self.bits.count()).div_ceil(8)
    }
}

impl Quantized {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.range.len() / self.columns
    }

    /// Element type and shape of the part, as the operators that read it expect them.
    pub fn tensor_type(&self) -> (Element, Vec<usize>) {
        let (rows, columns) = (self.rows(), self.columns);
        match (self.scheme, self.part) {
            (Scheme::PerRow, Part::Values) => (Element::I8, vec![rows, columns]),
            (Scheme::Fp8, Part::Values) => (Element::F8E4M3, vec![rows, columns]),
            (Scheme::Fp8, _) => (Element::F16, Vec::new()),
            (Scheme::PerRow, _) => (Element::F32, vec![rows]),
            (Scheme::Tiles(bits), Part::Values) => {
                let tiled = Blocks::tiled(bits);
                let words = tiled.bytes() / Blocks::WORD_BYTES;
                let [tiles, blocks] = [rows.div_ceil(Blocks::TILE_ROWS), tiled.per_row(columns)];
                (Element::U8, vec![tiles, blocks, words, Blocks::TILE_ROWS, Blocks::WORD_BYTES])
            }
            (Scheme::Tiles(bits), _) => {
                let [tiles, blocks] =
                    [rows.div_ceil(Blocks::TILE_ROWS), Blocks::tiled(bits).per_row(columns)];
                (Element::F16, vec![tiles, blocks, Blocks::TILE_ROWS])
            }
            (Scheme::Blocks(blocks), Part::Values) => {
                (Element::U8, vec![rows, blocks.per_row(columns), blocks.bytes()])
            }
            (Scheme::Blocks(blocks), Part::Scales) => (Element::F32, vec![rows, blocks.per_row(columns)]),
            (Scheme::Blocks(blocks), Part::ZeroPoints) => {
                (Element::U8, vec![rows, blocks.zero_point_bytes(columns)])
            }
            (Scheme::Int4(blocks), Part::Values) => {
                (if blocks.symmetric { Element::I4 } else { Element::U4 }, vec![columns, rows])
            }
            (Scheme::Int4(blocks), Part::Scales) => (Element::F16, vec![columns / blocks.size, rows]),
            (Scheme::Int4(blocks), Part::ZeroPoints) => (Element::U4, vec![columns / blocks.size, rows]),
            (Scheme::Packed(of), Part::Values) => {
                (Element::U8, vec![rows, of.blocks().per_row(columns), of.blocks().bytes()])
            }
            (Scheme::Packed(of), Part::Scales) => (Element::F16, vec![rows, of.blocks().per_row(columns)]),
            (Scheme::Packed(of), Part::ZeroPoints) => {
                (Element::U8, vec![rows, of.blocks().zero_point_bytes(columns)])
            }
        }
    }
}

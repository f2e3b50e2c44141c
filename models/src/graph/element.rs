//! Types of the numbers in graphs.

/// Element types that graphs use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Element {
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// 8-bit float of 4 exponent and 3 mantissa bits, without infinities: what Ada and Hopper multiply
    /// (Micikevicius et al. 2022, <https://arxiv.org/abs/2209.05433>).
    F8E4M3,
    /// 64-bit signed integer.
    I64,
    /// 32-bit signed integer.
    I32,
    /// Boolean.
    Bool,
    /// 8-bit signed integer: quantized weights.
    I8,
    /// 8-bit unsigned integer: quantized activations and packed weights.
    U8,
    /// 4-bit signed integer, two in a byte, the first in the lower half: weights in symmetric blocks.
    I4,
    /// 4-bit unsigned integer, likewise: weights in blocks with zero points, and the zero points.
    U4,
}

impl Element {
    /// Bytes that this many elements take.
    pub const fn bytes(self, elements: usize) -> usize {
        match self {
            Self::I64 => elements * 8,
            Self::F32 | Self::I32 => elements * 4,
            Self::F16 => elements * 2,
            Self::Bool | Self::I8 | Self::U8 | Self::F8E4M3 => elements,
            Self::I4 | Self::U4 => elements.div_ceil(2),
        }
    }
}

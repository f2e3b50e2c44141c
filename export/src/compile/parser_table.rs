//! What TensorRT's ONNX parser takes, as data, so that a graph which it would refuse is found where there is
//! no TensorRT.

use std::ops::RangeInclusive;

use Restriction::{Constant, FirstOutputOnly, None, Other, Symmetric, TopK};
use Type::{Bf16, Bool, Fp4, Fp8, Fp16, Fp32, Int4, Int8, Int32, Int64, Uint8};

/// The TensorRT that the table is of.
pub const TENSORRT: &str = "10.15";

/// Where the table comes from: `docs/operators.md` of onnx-tensorrt, as it stood for [`TENSORRT`]. Operators
/// that it lists as unsupported are left out here, like those that it does not know.
pub const SOURCE: &str = "https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md";

/// Versions of the standard operator set.
pub const OPSETS: RangeInclusive<i64> = 9..=24;

/// `TopK` takes fewer than this many.
pub const TOP_K: i64 = 3840;

/// An element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Type {
    Fp32,
    Fp16,
    Bf16,
    Fp8,
    Fp4,
    Int64,
    Int32,
    Int8,
    Int4,
    Uint8,
    Bool,
}

impl Type {
    /// The type of a code of `TensorProto.DataType`; none for what TensorRT has no type for.
    pub fn from_onnx(code: i32) -> Option<Self> {
        Some(match code {
            1 => Fp32,
            10 => Fp16,
            16 => Bf16,
            17 => Fp8,
            23 => Fp4,
            7 => Int64,
            6 => Int32,
            3 => Int8,
            22 => Int4,
            2 => Uint8,
            9 => Bool,
            _ => return Option::None,
        })
    }
}

/// What the parser asks of an operator besides its types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restriction {
    /// Nothing.
    None,
    /// The input of this index must be a constant, where it is given.
    Constant(usize),
    /// No output but the first may be used.
    FirstOutputOnly,
    /// `sorted` must be 1, and `K` a constant below [`TOP_K`].
    TopK,
    /// A constant scale and no zero point, or a constant 0.
    Symmetric,
    /// Something that is not checked here; the operator counts as refused until it is.
    Other,
}

/// What the parser takes of one operator.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Operator of the standard domain.
    pub operator: &'static str,
    /// Types of its data.
    pub types: &'static [Type],
    /// What else it asks.
    pub restriction: Restriction,
}

const fn row(operator: &'static str, types: &'static [Type], restriction: Restriction) -> Row {
    Row { operator, types, restriction }
}

const FLOATS: &[Type] = &[Fp32, Fp16, Bf16];
const HALVES: &[Type] = &[Fp32, Fp16];
const SINGLE: &[Type] = &[Fp32];
const NUMBERS: &[Type] = &[Fp32, Fp16, Bf16, Int32, Int64];
const ALL: &[Type] = &[Fp32, Fp16, Bf16, Int32, Int64, Bool];
const TRUTH: &[Type] = &[Bool];
const CASTS: &[Type] = &[Fp32, Fp16, Bf16, Int32, Int64, Uint8, Bool];
const CONSTANTS: &[Type] = &[Fp32, Fp16, Bf16, Fp8, Fp4, Int4, Int32, Int64, Bool];
const GELU: &[Type] = &[Fp32, Fp16, Bf16, Int8, Int32, Int64];
const MEAN: &[Type] = &[Fp32, Fp16, Bf16, Fp8, Int32, Int64];
const ATTENTION: &[Type] = &[Fp32, Fp16, Bf16, Int8, Fp8];
const SCATTER: &[Type] = &[Fp32, Fp16, Bf16, Int32];
const QUANTIZED: &[Type] = &[Int8, Fp8, Fp4, Int4];

/// The table, by operator.
#[rustfmt::skip]
pub const TABLE: &[Row] = &[
    row("Abs", NUMBERS, None),
    row("Acos", FLOATS, None),
    row("Acosh", FLOATS, None),
    row("Add", NUMBERS, None),
    row("And", TRUTH, None),
    row("ArgMax", NUMBERS, None),
    row("ArgMin", NUMBERS, None),
    row("Asin", FLOATS, None),
    row("Asinh", FLOATS, None),
    row("Atan", FLOATS, None),
    row("Atanh", FLOATS, None),
    row("Attention", ATTENTION, Other),
    row("AveragePool", FLOATS, Other),
    row("BatchNormalization", FLOATS, None),
    row("BlackmanWindow", HALVES, None),
    row("Cast", CASTS, None),
    row("CastLike", CASTS, None),
    row("Ceil", FLOATS, None),
    row("Celu", FLOATS, None),
    row("Clip", FLOATS, None),
    row("Concat", ALL, None),
    row("Constant", CONSTANTS, None),
    row("ConstantOfShape", CONSTANTS, None),
    row("Conv", FLOATS, None),
    row("ConvTranspose", FLOATS, None),
    row("Cos", FLOATS, None),
    row("Cosh", FLOATS, None),
    row("CumSum", FLOATS, Constant(1)),
    row("DeformConv", HALVES, Other),
    row("DepthToSpace", NUMBERS, None),
    row("DequantizeLinear", QUANTIZED, Symmetric),
    row("Div", NUMBERS, None),
    row("Dropout", FLOATS, Other),
    row("Einsum", FLOATS, None),
    row("Elu", FLOATS, None),
    row("Equal", NUMBERS, None),
    row("Erf", FLOATS, None),
    row("Exp", FLOATS, None),
    row("Expand", ALL, None),
    row("EyeLike", ALL, Other),
    row("Flatten", ALL, None),
    row("Floor", FLOATS, None),
    row("GRU", FLOATS, Other),
    row("Gather", ALL, None),
    row("GatherElements", ALL, None),
    row("GatherND", ALL, None),
    row("Gelu", GELU, None),
    row("Gemm", FLOATS, None),
    row("GlobalAveragePool", FLOATS, None),
    row("GlobalLpPool", FLOATS, None),
    row("GlobalMaxPool", FLOATS, None),
    row("Greater", NUMBERS, None),
    row("GreaterOrEqual", NUMBERS, None),
    row("GridSample", HALVES, Other),
    row("GroupNormalization", FLOATS, None),
    row("HammingWindow", HALVES, None),
    row("HannWindow", HALVES, None),
    row("HardSigmoid", FLOATS, None),
    row("HardSwish", FLOATS, None),
    row("Hardmax", FLOATS, Other),
    row("Identity", ALL, None),
    row("If", ALL, Other),
    row("ImageScaler", FLOATS, None),
    row("InstanceNormalization", FLOATS, None),
    row("IsInf", FLOATS, None),
    row("IsNaN", NUMBERS, None),
    row("LRN", FLOATS, None),
    row("LSTM", FLOATS, Other),
    row("LayerNormalization", FLOATS, FirstOutputOnly),
    row("LeakyRelu", FLOATS, None),
    row("Less", NUMBERS, None),
    row("LessOrEqual", NUMBERS, None),
    row("Log", FLOATS, None),
    row("LogSoftmax", FLOATS, None),
    row("Loop", ALL, Other),
    row("LpNormalization", FLOATS, None),
    row("LpPool", FLOATS, Other),
    row("MatMul", FLOATS, None),
    row("Max", NUMBERS, None),
    row("MaxPool", FLOATS, Other),
    row("Mean", MEAN, None),
    row("MeanVarianceNormalization", FLOATS, None),
    row("Min", NUMBERS, None),
    row("Mish", HALVES, None),
    row("Mod", NUMBERS, None),
    row("Mul", NUMBERS, None),
    row("Neg", NUMBERS, None),
    row("NonMaxSuppression", HALVES, None),
    row("NonZero", HALVES, None),
    row("Not", TRUTH, None),
    row("OneHot", ALL, Constant(1)),
    row("Or", TRUTH, None),
    row("PRelu", FLOATS, None),
    row("Pad", NUMBERS, None),
    row("ParametricSoftplus", FLOATS, None),
    row("Pow", NUMBERS, None),
    row("QuantizeLinear", FLOATS, Symmetric),
    row("RMSNormalization", FLOATS, None),
    row("RNN", FLOATS, Other),
    row("RandomNormal", FLOATS, None),
    row("RandomNormalLike", FLOATS, None),
    row("RandomUniform", FLOATS, None),
    row("RandomUniformLike", FLOATS, None),
    row("Range", NUMBERS, None),
    row("Reciprocal", FLOATS, None),
    row("ReduceL1", NUMBERS, Constant(1)),
    row("ReduceL2", NUMBERS, Constant(1)),
    row("ReduceLogSum", NUMBERS, Constant(1)),
    row("ReduceLogSumExp", NUMBERS, Constant(1)),
    row("ReduceMax", NUMBERS, Constant(1)),
    row("ReduceMean", NUMBERS, Constant(1)),
    row("ReduceMin", NUMBERS, Constant(1)),
    row("ReduceProd", NUMBERS, Constant(1)),
    row("ReduceSum", NUMBERS, Constant(1)),
    row("ReduceSumSquare", NUMBERS, Constant(1)),
    row("Relu", NUMBERS, None),
    row("Reshape", ALL, None),
    row("Resize", FLOATS, Other),
    row("ReverseSequence", ALL, None),
    row("RoiAlign", HALVES, None),
    row("RotaryEmbedding", FLOATS, Other),
    row("Round", FLOATS, None),
    row("STFT", SINGLE, Other),
    row("ScaledTanh", FLOATS, None),
    row("Scan", FLOATS, Other),
    row("Scatter", NUMBERS, None),
    row("ScatterElements", NUMBERS, None),
    row("ScatterND", NUMBERS, Other),
    row("Selu", FLOATS, None),
    row("Shape", ALL, None),
    row("Shrink", NUMBERS, None),
    row("Sigmoid", FLOATS, None),
    row("Sign", NUMBERS, None),
    row("Sin", FLOATS, None),
    row("Sinh", FLOATS, None),
    row("Size", ALL, None),
    row("Slice", ALL, None),
    row("Softmax", FLOATS, None),
    row("Softplus", FLOATS, None),
    row("Softsign", FLOATS, None),
    row("SpaceToDepth", NUMBERS, None),
    row("Split", ALL, None),
    row("Sqrt", FLOATS, None),
    row("Squeeze", ALL, Constant(1)),
    row("Sub", NUMBERS, None),
    row("Sum", NUMBERS, None),
    row("Tan", FLOATS, None),
    row("Tanh", FLOATS, None),
    row("TensorScatter", SCATTER, Other),
    row("ThresholdedRelu", FLOATS, None),
    row("Tile", ALL, None),
    row("TopK", NUMBERS, TopK),
    row("Transpose", ALL, None),
    row("Trilu", ALL, None),
    row("Unsqueeze", ALL, Constant(1)),
    row("Upsample", FLOATS, None),
    row("Where", ALL, None),
    row("Xor", TRUTH, None),
];

/// The row of an operator.
pub fn find(operator: &str) -> Option<&'static Row> {
    TABLE.binary_search_by(|row| row.operator.cmp(operator)).ok().map(|at| &TABLE[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_order_so_that_they_are_found() {
        assert!(TABLE.is_sorted_by(|a, b| a.operator < b.operator));
        assert!(
            TABLE.iter().all(|row| find(row.operator).is_some_and(|found| found.operator == row.operator))
        );
        assert!(find("GroupQueryAttention").is_none() && find("MatMulInteger").is_none());
    }
}

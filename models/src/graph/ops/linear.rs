//! Linear layers of quantized weights as operators of our own; what each means in ONNX Runtime's operators is
//! its body.

use crate::dims;
use crate::graph::MICROSOFT;
use crate::graph::quantized::Blocks;
use crate::graph::{Attribute, Builder, Element, Function, Value};
use arrcoc_bundle::names::operator::{BLOCK_LINEAR, QUANTIZED_LINEAR};

/// Attributes of [`block_linear`], as `MatMulNBits` calls them: inputs, outputs, and bits of a weight.
pub const BLOCK_LINEAR_ATTRIBUTES: [&str; 3] = ["K", "N", "bits"];

/// Largest magnitude of a quantized activation; they are stored as `value + 128` in a byte.
const RANGE: f32 = 127.0;
const ZERO_POINT: u8 = 128;

/// Keeps the scale of a row of zeros (padding) above zero; no activation that matters is that small.
const SMALLEST: f32 = 1e-20;

/// `QuantizedLinear`: x \[rows, in\] with int8 weights \[out, in\], their scales \[out\] and a bias \[out\]
/// to \[rows, out\]. Rows of x are quantized at run time with a scale each.
///
/// A scale for the whole tensor would spare a pass over the output, and make a token's result depend on what
/// else is in the batch: then streams, batches and chunked prompts would no longer give the same answers.
pub fn quantized_linear() -> Function {
    let inputs = [
        ("x", Element::F32, dims!["rows", "in"]),
        ("weight", Element::I8, dims!["out", "in"]),
        ("scale", Element::F32, dims!["out"]),
        ("bias", Element::F32, dims!["out"]),
    ];
    Function::new(QUANTIZED_LINEAR, &[], &inputs, |g, inputs| {
        let [x, weight, scale, bias] = inputs else { unreachable!("four inputs were declared") };
        let out = scale.dim(0).clone();
        let (values, rows) = quantized_rows(g, x); // [rows, in] bytes, [rows, 1]
        let weight = g.transpose(weight, &[1, 0]); // [in, out]
        let one = g.floats(&[1], &[1.0]);
        let zero_point = g.bytes(&[], &[ZERO_POINT]);
        let inputs = [&values, &weight, &one, scale, &zero_point].map(Some);
        let product = Some((Element::F32, dims![x.dim(0), out]));
        let product = g.emit_in(MICROSOFT, "MatMulIntegerToFloat", &inputs, vec![], vec![product]).remove(0);
        let product = g.mul(&product, &rows); // [rows, out]
        g.add(&product, bias)
    })
}

/// Rows of floats \[rows, columns\] in bytes, and their scales \[rows, 1\].
fn quantized_rows(g: &mut Builder, x: &Value) -> (Value, Value) {
    let rows = x.dim(0).clone();
    let magnitude = g.abs(x);
    let largest = g.reduce_max(&magnitude, &[-1]); // [rows, 1]
    let floor = g.float(SMALLEST);
    let largest = g.max(&largest, &floor);
    let scales = g.scale(&largest, RANGE.recip()); // [rows, 1]
    let scale = g.reshape(&scales, dims![&rows]); // [rows]
    let zero_point = g.bytes(&[1], &[ZERO_POINT]);
    let zero_points = g.expand(&zero_point, dims![&rows]); // [rows]
    let attributes = vec![("axis", Attribute::Int(0))];
    let inputs = [x, &scale, &zero_points];
    (g.emit("QuantizeLinear", &inputs, attributes, Element::U8, x.dims.clone()), scales)
}

/// `BlockLinear`: x \[rows, in\] with weights of 4 or 8 bits in symmetric blocks of 32 along each row to
/// \[rows, out\]. x is quantized at run time, row by row and block by block (`accuracy_level` 4).
///
/// Weights lie in the order in which a kernel multiplies them, \[out / 16, blocks, words, 16, 4\] bytes: a
/// block is 4 words of two weights a byte, or 8 words of one. So do their 16-bit scales, \[out / 16, blocks,
/// 16\]: sixteen outputs side by side. `MatMulNBits` takes output after output.
pub fn block_linear() -> Function {
    let (rows, bytes) = (Blocks::TILE_ROWS, Blocks::WORD_BYTES);
    let inputs = [
        ("x", Element::F32, dims!["rows", "in"]),
        ("values", Element::U8, dims!["tiles", "blocks", "words", rows, bytes]),
        ("scales", Element::F16, dims!["tiles", "blocks", rows]),
    ];
    Function::new(BLOCK_LINEAR, &BLOCK_LINEAR_ATTRIBUTES, &inputs, |g, inputs| {
        let [x, values, scales] = inputs else { unreachable!("three inputs were declared") };
        let (out, blocks) = (values.dim(0).times(rows), values.dim(1).clone());
        let of_block = values.dim(2).clone().times(bytes);
        let values = g.transpose(values, &[0, 3, 1, 2, 4]); // [out / 16, 16, blocks, words, 4]
        let values = g.reshape(&values, dims![&out, &blocks, of_block]);
        let scales = g.transpose(scales, &[0, 2, 1]); // [out / 16, 16, blocks]
        let scales = g.cast(&scales, Element::F32);
        let scales = g.reshape(&scales, dims![&out, &blocks]);
        let mut attributes: Vec<_> =
            BLOCK_LINEAR_ATTRIBUTES.map(|name| (name, Attribute::Reference(name))).into();
        attributes.extend([
            ("block_size", Attribute::Int(Blocks::TILE_BLOCK as i64)),
            ("accuracy_level", Attribute::Int(super::fused::INT8_ACCUMULATION)),
        ]);
        let product = Some((Element::F32, dims![x.dim(0), out]));
        let inputs = [x, &values, &scales].map(Some);
        g.emit_in(MICROSOFT, "MatMulNBits", &inputs, attributes, vec![product]).remove(0)
    })
}

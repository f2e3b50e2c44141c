//! Resampling of position tables as products with a matrix that the graph computes from the sizes.
//!
//! ONNX has `Resize`, but tract lacks its cubic mode and TensorRT wants its sizes at build time. A matrix
//! \[out, in\] of filter weights takes some twenty elementwise operators, runs everywhere, and is exactly the
//! identity when the sizes are equal: at its native size a network computes exactly what its reference does.

use crate::graph::{Builder, Dim, Element, Value};

/// Weights \[out, in\] of bicubic resampling with antialiasing, as PyTorch's `interpolate(mode="bicubic",
/// antialias=True)` has them (Keys' kernel with a = -0.5, widened when shrinking).
pub fn bicubic(g: &mut Builder, out: &Dim, len: usize) -> Value {
    let (source, ratio) = source_positions(g, out, len); // [out, 1], []
    let one = g.float(1.0);
    let widening = g.max(&ratio, &one);
    let taps: Vec<f32> = (0..len).map(|j| j as f32).collect();
    let taps = g.floats(&[1, len], &taps);
    let distance = g.sub(&taps, &source); // [out, in]
    let distance = g.div(&distance, &widening);
    let x = g.abs(&distance);
    // |x| < 1: (1.5 x - 2.5) x² + 1;  1 <= |x| < 2: ((-0.5 x + 2.5) x - 4) x + 2.
    let near = polynomial(g, &x, [1.5, -2.5, 0.0, 1.0]);
    let far = polynomial(g, &x, [-0.5, 2.5, -4.0, 2.0]);
    let (two, zero) = (g.float(2.0), g.float(0.0));
    let is_near = g.less(&x, &one);
    let is_far = g.less(&x, &two);
    let far = g.select(&is_far, &far, &zero);
    let weights = g.select(&is_near, &near, &far);
    let sums = g.reduce_sum(&weights, &[-1]); // [out, 1]; taps beyond the border are left out
    g.div(&weights, &sums)
}

/// Weights \[out, in\] of linear resampling, as PyTorch's `interpolate(mode="linear", align_corners=False)`
/// has them: no antialiasing, positions clamped to the table.
pub fn linear(g: &mut Builder, out: &Dim, len: usize) -> Value {
    let (source, _) = source_positions(g, out, len); // [out, 1]
    tent(g, &source, len)
}

/// Weights \[..., len\] of linear interpolation between the entries of a table of `len`, at positions \[...,
/// 1\] clamped to 0..=len-1.
pub fn tent(g: &mut Builder, positions: &Value, len: usize) -> Value {
    let (low, high) = (g.float(0.0), g.float((len - 1) as f32));
    let clamped = g.max(positions, &low);
    let clamped = g.min(&clamped, &high);
    let taps: Vec<f32> = (0..len).map(|j| j as f32).collect();
    let taps = g.floats(&[len], &taps);
    let distance = g.sub(&clamped, &taps); // [..., len]
    let distance = g.abs(&distance);
    let negated = g.neg(&distance);
    let weights = g.add_scalar(&negated, 1.0);
    g.relu(&weights)
}

/// Where output samples 0..out fall in a table of `len`, \[out, 1\], and the ratio in / out.
fn source_positions(g: &mut Builder, out: &Dim, len: usize) -> (Value, Value) {
    let length = g.size(out);
    let length = g.cast(&length, Element::F32); // [1]
    let length = g.reshape(&length, vec![]);
    let table = g.float(len as f32);
    let ratio = g.div(&table, &length);
    let index = g.range(&Dim::Fixed(0), out); // [out]
    let index = g.cast(&index, Element::F32);
    let index = g.reshape(&index, vec![out.clone(), Dim::Fixed(1)]);
    let centre = g.add_scalar(&index, 0.5);
    let centre = g.mul(&centre, &ratio);
    (g.add_scalar(&centre, -0.5), ratio)
}

/// Horner's scheme for a cubic, highest coefficient first.
fn polynomial(g: &mut Builder, x: &Value, [a, b, c, d]: [f32; 4]) -> Value {
    let y = g.scale(x, a);
    let y = g.add_scalar(&y, b);
    let y = g.mul(&y, x);
    let y = if c == 0.0 { y } else { g.add_scalar(&y, c) };
    let y = g.mul(&y, x);
    g.add_scalar(&y, d)
}

//! Rotary position embedding (<https://arxiv.org/abs/2104.09864>) in the "rotate half" layout of Llama and
//! Qwen.

use crate::bricks::width;
use crate::graph::{Builder, Value};

/// Frequencies of a head of `width`: theta^(-2i / width) for i below width / 2.
pub fn frequencies(width: usize, theta: f64) -> Vec<f64> {
    (0..width / 2).map(|i| theta.powf(-2.0 * i as f64 / width as f64)).collect()
}

/// Cosines and sines \[positions, frequencies\] times `magnitude`, computed in f64 and stored in fp32.
pub fn tables(g: &mut Builder, positions: usize, frequencies: &[f64], magnitude: f32) -> (Value, Value) {
    let half = frequencies.len();
    let mut cosines = Vec::with_capacity(positions * half);
    let mut sines = Vec::with_capacity(positions * half);
    for position in 0..positions {
        for frequency in frequencies {
            // The reference rounds frequency and angle to fp32 before it takes the cosine.
            let angle = f64::from(position as f32 * *frequency as f32);
            cosines.push(angle.cos() as f32 * magnitude);
            sines.push(angle.sin() as f32 * magnitude);
        }
    }
    (g.floats(&[positions, half], &cosines), g.floats(&[positions, half], &sines))
}

/// Rotates x \[batch, heads, seq, width\] by cosines and sines \[batch, 1, seq, width / 2\].
pub fn rotate(g: &mut Builder, x: &Value, cosines: &Value, sines: &Value) -> Value {
    let half = width(x) / 2;
    let parts = g.split(x, &[half, half], -1);
    let (a, b) = (&parts[0], &parts[1]);
    let (ac, bs) = (g.mul(a, cosines), g.mul(b, sines));
    let (bc, as_) = (g.mul(b, cosines), g.mul(a, sines));
    let first = g.sub(&ac, &bs);
    let second = g.add(&bc, &as_);
    g.concat(&[&first, &second], -1)
}

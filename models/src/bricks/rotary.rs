//! Rotary position embedding (<https://arxiv.org/abs/2104.09864>) in the "rotate half" layout of Llama and Qwen.

use crate::bricks::width;
use crate::graph::{Builder, Dim, Value};

/// Cosines and sines \[positions, width / 2\], computed in f64 and stored in fp32.
pub fn tables(g: &mut Builder, positions: usize, width: usize, theta: f64) -> (Value, Value) {
    let half = width / 2;
    let mut cosines = Vec::with_capacity(positions * half);
    let mut sines = Vec::with_capacity(positions * half);
    for position in 0..positions {
        for i in 0..half {
            // The reference rounds frequency and angle to fp32 before it takes the cosine.
            let frequency = theta.powf(-2.0 * i as f64 / width as f64) as f32;
            let angle = f64::from(position as f32 * frequency);
            cosines.push(angle.cos() as f32);
            sines.push(angle.sin() as f32);
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

/// Looks the rows of `table` \[positions, width / 2\] up: position_ids \[batch, seq\] to \[batch, 1, seq, width / 2\].
pub fn look_up(g: &mut Builder, table: &Value, position_ids: &Value) -> Value {
    let rows = g.gather(table, position_ids, 0); // [batch, seq, width / 2]
    let dims = vec![rows.dim(0).clone(), Dim::Fixed(1), rows.dim(1).clone(), rows.dim(2).clone()];
    g.reshape(&rows, dims)
}

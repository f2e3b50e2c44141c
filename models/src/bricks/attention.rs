//! Scaled dot-product attention without a mask, in the form that the target runs best.

use crate::bricks::width;
use crate::dims;
use crate::graph::{Builder, Dim, Value};

/// Attention of `heads` heads: q \[batch, seq, heads, width\], k \[batch, keys, heads, width\] and v \[batch,
/// keys, heads, value_width\] to rows \[batch * seq, heads * value_width\]. The width of q and k may be
/// dynamic: it carries extra dimensions for position biases.
///
/// The scale is applied to q, not to the products, so that they stay small in half precision.
pub fn attention(g: &mut Builder, q: &Value, k: &Value, v: &Value, scale: Option<f32>) -> Value {
    let (batch, seq) = (q.dim(0).clone(), q.dim(1).clone());
    let heads = q.dim(2).fixed().unwrap_or(1);
    let out = heads * width(v);
    match g.target().has_own_operators() {
        true => {
            let join = |g: &mut Builder, x: &Value| {
                let dims = vec![x.dim(0).clone(), x.dim(1).clone(), x.dim(3).times(heads)];
                g.reshape(x, dims) // [batch, seq, heads * width]
            };
            let (q, k, v) = (join(g, q), join(g, k), join(g, v));
            let o = g.multi_head_attention(&q, &k, &v, heads, scale.unwrap_or(1.0)); // [batch, seq, out]
            g.reshape(&o, dims![batch.times(&seq), out])
        }
        false => {
            let q = g.transpose(q, &[0, 2, 1, 3]); // [batch, heads, seq, width]
            let q = scale.map_or(q.clone(), |scale| g.scale(&q, scale));
            let k = g.transpose(k, &[0, 2, 3, 1]); // [batch, heads, width, keys]
            let v = g.transpose(v, &[0, 2, 1, 3]); // [batch, heads, keys, value_width]
            let p = g.matmul(&q, &k); // [batch, heads, seq, keys]
            let p = g.softmax(&p);
            let o = g.matmul(&p, &v); // [batch, heads, seq, value_width]
            merge_heads(g, &o)
        }
    }
}

/// Rows \[batch * seq, heads * width\] to \[batch, seq, heads, width\].
pub fn split_heads(g: &mut Builder, rows: &Value, batch: &Dim, seq: &Dim, heads: usize) -> Value {
    let width = width(rows) / heads;
    g.reshape(rows, dims![batch, seq, heads, width])
}

/// Rows \[batch * seq, heads * width\] to \[batch, heads, seq, width\].
pub fn expand_heads(g: &mut Builder, rows: &Value, batch: &Dim, seq: &Dim, heads: usize) -> Value {
    let x = split_heads(g, rows, batch, seq, heads);
    g.transpose(&x, &[0, 2, 1, 3])
}

/// \[batch, heads, seq, width\] to rows \[batch * seq, heads * width\].
pub fn merge_heads(g: &mut Builder, x: &Value) -> Value {
    let (batch, seq) = (x.dim(0).clone(), x.dim(2).clone());
    let columns = x.dim(1).times(x.dim(3));
    let x = g.transpose(x, &[0, 2, 1, 3]);
    g.reshape(&x, vec![batch.times(&seq), columns])
}

//! Gated delta-net layers of Qwen3.5 (<https://arxiv.org/abs/2412.06464>), with the parameter names that
//! `Qwen3_5GatedDeltaNet` has in transformers.
//!
//! Such a layer sees earlier tokens through a memory of fixed size: the last inputs of a short convolution,
//! and a matrix S by head, from keys to values. A token with key k, value v, decay a and strength b leaves
//! S' = a S + k (b (v - k (a S)))^T, and reads q S'.
//!
//! A run of tokens needs no loop. What the tokens write depends on what earlier ones of the run wrote: that
//! is a system of equations with a unit lower triangular matrix I + N. Its inverse is put together from the
//! inverses of the blocks on the diagonal, of one token first, then of two, four, ... ([`invert`]). With it
//! a few products with the incoming matrix make all outputs and the outgoing matrix. The triangle grows with
//! the square of the run: the runtime feeds [`LONGEST_RUN`] tokens at most.

use arrcoc_bundle::manifest::RecurrentSpec;
use arrcoc_bundle::names::axis;

use super::Config;
use crate::bricks::{self, silu};
use crate::dims;
use crate::graph::{Builder, Dim, Init, Value};

/// Most tokens of a run; transformers cuts prompts into chunks of as many.
pub const LONGEST_RUN: usize = 64;

/// Added to the squared length of queries and keys before they are divided by it.
const LENGTH_EPSILON: f32 = 1e-6;

/// The logarithm of no influence at all.
const NEVER: f32 = -3e4;

/// The decays' logarithms, at first: exp of it lies about one.
const LOG_DECAYS: Init = Init { mean: 0.0, std: 0.5 };
/// Biases of what becomes a decay.
const DECAY_BIASES: Init = Init { mean: 1.0, std: 0.1 };

/// Which layers are gated delta nets, and their sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeltaNet {
    /// The layers, ascending.
    pub layers: Vec<usize>,
    /// Heads of queries and keys.
    pub key_heads: usize,
    /// Heads of values: whole groups share a key.
    pub value_heads: usize,
    /// Width of a query or key.
    pub key_width: usize,
    /// Width of a value.
    pub value_width: usize,
    /// Tokens that the convolution sees, the newest included; two at least.
    pub kernel: usize,
}

impl DeltaNet {
    /// What a runtime must know.
    pub fn spec(&self) -> RecurrentSpec {
        RecurrentSpec {
            layers: self.layers.clone(),
            window: self.kernel - 1,
            channels: self.channels(),
            heads: self.value_heads,
            key_width: self.key_width,
            value_width: self.value_width,
            longest_run: LONGEST_RUN,
        }
    }

    /// Numbers of a token that pass through the convolution: query, key and value of all heads.
    pub fn channels(&self) -> usize {
        2 * self.keys() + self.values()
    }

    /// Shape of the convolution's memory: inputs of the last tokens.
    pub fn window_dims(&self) -> Vec<Dim> {
        dims![axis::BATCH, self.kernel - 1, self.channels()]
    }

    /// Shape of the matrices from keys to values.
    pub fn matrix_dims(&self) -> Vec<Dim> {
        dims![axis::BATCH, self.value_heads, self.key_width, self.value_width]
    }

    fn keys(&self) -> usize {
        self.key_heads * self.key_width
    }

    fn values(&self) -> usize {
        self.value_heads * self.value_width
    }

    /// Values of a key.
    fn group(&self) -> usize {
        self.value_heads / self.key_heads
    }
}

/// What all such layers of a graph share: masks of a run's tokens by a run's tokens, \[S, S\].
pub(super) struct Runs {
    /// Whether the second token is not later than the first.
    earlier: Value,
    /// The same as ones and zeros: sums everything up to a token.
    sums: Value,
    identity: Value,
    /// For blocks of 1, 2, 4, ... tokens: one where the first token is in an odd block and the second in the
    /// one before it.
    below: Vec<Value>,
}

impl Runs {
    pub(super) fn new(g: &mut Builder) -> Self {
        let sums = triangle(g, |row, column| column <= row);
        let identity = triangle(g, |row, column| column == row);
        let blocks = (0..LONGEST_RUN.ilog2()).map(|level| 1usize << level);
        let below = blocks
            .map(|block| {
                triangle(g, |row, column| (row / block) % 2 == 1 && column / block + 1 == row / block)
            })
            .collect();
        let half = g.float(0.5);
        let earlier = g.less(&half, &sums);
        Self { earlier, sums, identity, below }
    }
}

/// Ones where `is_one` says so, cut to the length of the run: \[S, S\].
fn triangle(g: &mut Builder, is_one: impl Fn(usize, usize) -> bool) -> Value {
    let places = (0..LONGEST_RUN * LONGEST_RUN).map(|at| (at / LONGEST_RUN, at % LONGEST_RUN));
    let numbers: Vec<f32> = places.map(|(row, column)| f32::from(u8::from(is_one(row, column)))).collect();
    let whole = g.floats(&[LONGEST_RUN, LONGEST_RUN], &numbers);
    let seq = Dim::Axis(axis::SEQ);
    let rows = g.take(&whole, &seq, 0);
    g.take(&rows, &seq, 1)
}

/// Rows \[B * S, H\] to the same; also returns what the layer remembers. `past` is the convolution's memory
/// \[B, kernel - 1, channels\], and the matrices \[B, value heads, key width, value width\].
pub(super) fn layer(
    g: &mut Builder,
    config: &Config,
    net: &DeltaNet,
    runs: &Runs,
    x: &Value,
    past: &[Value; 2],
) -> (Value, [Value; 2]) {
    let g = &mut g.scope("linear_attn");
    let (batch, seq) = (Dim::Axis(axis::BATCH), Dim::Axis(axis::SEQ));
    let mixed = bricks::linear_no_bias(g, "in_proj_qkv", x, net.channels());
    let gate = bricks::linear_no_bias(g, "in_proj_z", x, net.values());
    let strength = bricks::linear_no_bias(g, "in_proj_b", x, net.value_heads);
    let decay = bricks::linear_no_bias(g, "in_proj_a", x, net.value_heads);

    let mixed = g.reshape(&mixed, dims![&batch, &seq, net.channels()]);
    let (mixed, window) = convolution(g, net, &mixed, &past[0]);
    let mixed = config.activation.apply(g, &mixed);
    let parts = g.split(&mixed, &[net.keys(), net.keys(), net.values()], -1);
    let query = heads_of_keys(g, net, &parts[0]); // [B, key heads, 1, S, key width]
    let query = g.scale(&query, (net.key_width as f32).sqrt().recip());
    let tokens = Tokens {
        query,
        key: heads_of_keys(g, net, &parts[1]),
        value: heads_of_values(g, net, &parts[2]), // [B, key heads, group, S, value width]
        strength: strengths(g, net, &strength),    // [B, key heads, group, S, 1]
        decay: log_decays(g, net, &decay),
    };
    let (out, matrix) = delta_rule(g, net, runs, &tokens, &past[1]);

    let out = g.transpose(&out, &[0, 3, 1, 2, 4]); // [B, S, key heads, group, value width]
    let rows = batch.times(&seq).times(net.value_heads);
    let [out, gate] = [out, gate].map(|x| g.reshape(&x, dims![&rows, net.value_width]));
    let out = bricks::rms_norm(g, "norm", &out, config.rms_norm_eps);
    let gate = silu(g, &gate);
    let out = g.mul(&out, &gate);
    let out = g.reshape(&out, dims![batch.times(&seq), net.values()]);
    (bricks::linear_no_bias(g, "out_proj", &out, config.hidden_size), [window, matrix])
}

/// Every channel by itself: a weighted sum of the token's number and of those before it. x is \[B, S,
/// channels\]; also returns the memory for the next run.
fn convolution(g: &mut Builder, net: &DeltaNet, x: &Value, past: &Value) -> (Value, Value) {
    let (channels, before) = (net.channels(), net.kernel - 1);
    let joined = g.concat(&[past, x], 1); // [B, kernel - 1 + S, channels]
    let window = g.skip(&joined, -(before as i64), 1, before.into());
    let weights = {
        let g = &mut g.scope("conv1d");
        g.param_flat("weight", &[channels, 1, net.kernel], Init::fan_in(net.kernel))
    };
    let weights = g.transpose(&weights, &[1, 0]); // [kernel, channels]
    let weights = g.split(&weights, &vec![1; net.kernel], 0);
    let seq = Dim::Axis(axis::SEQ);
    let mut sum: Option<Value> = None;
    for (tap, weight) in weights.iter().enumerate() {
        let shifted = match tap == before {
            true => x.clone(),
            false => g.window(&joined, tap, &seq, 1), // [B, S, channels]
        };
        let product = g.mul(&shifted, weight);
        sum = Some(sum.map_or(product.clone(), |sum| g.add(&sum, &product)));
    }
    (sum.unwrap_or_else(|| x.clone()), window)
}

/// What the delta rule takes of every token, by head; the logarithm of the decay.
struct Tokens {
    query: Value,
    key: Value,
    value: Value,
    strength: Value,
    decay: Value,
}

/// \[B, S, key heads * key width\] to vectors of length one, \[B, key heads, 1, S, key width\].
fn heads_of_keys(g: &mut Builder, net: &DeltaNet, x: &Value) -> Value {
    let (batch, seq) = (x.dim(0).clone(), x.dim(1).clone());
    let x = g.reshape(x, dims![&batch, &seq, net.key_heads, net.key_width]);
    let squares = g.mul(&x, &x);
    let length = g.reduce_sum(&squares, &[-1]);
    let length = g.add_scalar(&length, LENGTH_EPSILON);
    let length = g.sqrt(&length);
    let x = g.div(&x, &length);
    let x = g.transpose(&x, &[0, 2, 1, 3]); // [B, key heads, S, key width]
    g.reshape(&x, dims![&batch, net.key_heads, 1, &seq, net.key_width])
}

/// \[B, S, value heads * value width\] to \[B, key heads, group, S, value width\].
fn heads_of_values(g: &mut Builder, net: &DeltaNet, x: &Value) -> Value {
    let x = g.reshape(x, dims![x.dim(0), x.dim(1), net.key_heads, net.group(), net.value_width]);
    g.transpose(&x, &[0, 2, 3, 1, 4])
}

/// How much of a token is written, 0 to 1.
fn strengths(g: &mut Builder, net: &DeltaNet, x: &Value) -> Value {
    let x = g.sigmoid(x);
    by_head(g, net, &x)
}

/// The logarithm of what a token leaves of the matrix: -exp(A_log) * softplus(x + dt_bias).
fn log_decays(g: &mut Builder, net: &DeltaNet, x: &Value) -> Value {
    let rates = g.param("A_log", &[net.value_heads], LOG_DECAYS);
    let biases = g.param("dt_bias", &[net.value_heads], DECAY_BIASES);
    let rates = g.exp(&rates);
    let rates = g.neg(&rates);
    let x = g.add(x, &biases);
    // softplus(x) = max(x, 0) + log(1 + exp(-|x|)), which overflows nowhere.
    let magnitude = g.abs(&x);
    let magnitude = g.neg(&magnitude);
    let rest = g.exp(&magnitude);
    let rest = g.add_scalar(&rest, 1.0);
    let rest = g.log(&rest);
    let positive = g.relu(&x);
    let softplus = g.add(&positive, &rest);
    let decays = g.mul(&softplus, &rates);
    by_head(g, net, &decays)
}

/// Rows \[B * S, value heads\] to \[B, key heads, group, S, 1\].
fn by_head(g: &mut Builder, net: &DeltaNet, x: &Value) -> Value {
    let (batch, seq) = (Dim::Axis(axis::BATCH), Dim::Axis(axis::SEQ));
    let x = g.reshape(x, dims![&batch, &seq, net.key_heads, net.group()]);
    let x = g.transpose(&x, &[0, 2, 3, 1]);
    g.reshape(&x, dims![&batch, net.key_heads, net.group(), &seq, 1])
}

/// What the tokens of a run read, \[B, key heads, group, S, value width\], and the matrices behind them.
fn delta_rule(g: &mut Builder, net: &DeltaNet, runs: &Runs, tokens: &Tokens, past: &Value) -> (Value, Value) {
    let g = &mut g.scope("delta_rule");
    let Tokens { query, key, value, strength, decay } = tokens;
    let batch = Dim::Axis(axis::BATCH);
    let grouped = dims![&batch, net.key_heads, net.group(), net.key_width, net.value_width];
    let matrix = g.reshape(past, grouped);

    // Decay from before the run to behind each token, and from behind one token to behind another.
    let sum = g.matmul(&runs.sums, decay); // [B, key heads, group, S, 1]
    let across = g.transpose(&sum, &[0, 1, 2, 4, 3]);
    let between = g.sub(&sum, &across); // [B, key heads, group, S, S]
    let never = g.float(NEVER);
    let between = g.select(&runs.earlier, &between, &never);
    let between = g.exp(&between);
    let before = g.exp(&sum);

    // What each token would write without the others of the run, then with them.
    let transposed = g.transpose(key, &[0, 1, 2, 4, 3]); // [B, key heads, 1, key width, S]
    let known = g.matmul(key, &matrix); // [B, key heads, group, S, value width]
    let known = g.mul(&known, &before);
    let news = g.sub(value, &known);
    let news = g.mul(&news, strength);
    let alike = g.matmul(key, &transposed); // [B, key heads, 1, S, S]
    let alike = g.mul(&between, &alike);
    let alike = g.mul(&alike, strength);
    let inverse = invert(g, runs, &alike);
    let news = g.matmul(&inverse, &news); // [B, key heads, group, S, value width]

    let read = g.matmul(query, &matrix);
    let read = g.mul(&read, &before);
    let seen = g.matmul(query, &transposed);
    let seen = g.mul(&between, &seen);
    let seen = g.matmul(&seen, &news);
    let out = g.add(&read, &seen);

    let all = g.skip(&sum, -1, 3, 1.into()); // [B, key heads, group, 1, 1]
    let left = g.sub(&all, &sum);
    let left = g.exp(&left); // [B, key heads, group, S, 1]
    let news = g.mul(&news, &left);
    let written = g.matmul(&transposed, &news); // [B, key heads, group, key width, value width]
    let all = g.exp(&all);
    let kept = g.mul(&matrix, &all);
    let matrix = g.add(&kept, &written);
    (out, g.reshape(&matrix, net.matrix_dims()))
}

/// The inverse of I + N, where N is what `x` \[..., S, S\] has below its diagonal. Of two neighbouring blocks
/// A and B on the diagonal, with C below A and beside B, the inverse is that of A and of B, and -B⁻¹ C A⁻¹ in
/// C's place.
///
/// (A product of powers of N would be shorter. Where a text repeats itself the keys are alike, the powers
/// grow like binomials, and nothing is left of 32 bits.)
fn invert(g: &mut Builder, runs: &Runs, x: &Value) -> Value {
    let mut inverse: Option<Value> = None;
    for below in &runs.below {
        let corner = g.mul(x, below);
        let (known, corner) = match inverse {
            None => (runs.identity.clone(), corner),
            Some(inverse) => {
                let corner = g.matmul(&corner, &inverse);
                let corner = g.matmul(&inverse, &corner);
                (inverse, corner)
            }
        };
        inverse = Some(g.sub(&known, &corner));
    }
    inverse.unwrap_or_else(|| runs.identity.clone())
}

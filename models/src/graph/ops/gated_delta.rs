//! The gated delta rule (<https://arxiv.org/abs/2412.06464>), spelt out in standard operators, and as an
//! operator of our own whose body that is.
//!
//! A head remembers a matrix S from keys to values. A token with key k, value v, decay a and strength b
//! leaves S' = a S + k (b (v - k (a S)))^T, and reads q S'. Keys and queries have length one, queries are
//! divided by the root of their width.
//!
//! A run of tokens needs no loop. What the tokens write depends on what earlier ones of the run wrote: that
//! is a system of equations with a unit lower triangular matrix I + N. Its inverse is put together from the
//! inverses of the blocks on the diagonal, of one token first, then of two, four, ... ([`invert`]). With it
//! a few products with the incoming matrix make all outputs and the outgoing matrix. The triangle grows with
//! the square of the run, which is therefore limited ([`longest_run`]).

use crate::dims;
use crate::graph::{Attribute, Builder, Dim, Element, Function, Value};
use arrcoc_bundle::Target;
use arrcoc_bundle::names::axis;
use arrcoc_bundle::names::operator::GATED_DELTA;

/// Most tokens of a run: where the rule is spelt out as many as transformers has in a chunk, else as many as
/// a chunk of a prompt usually has.
pub fn longest_run(target: Target) -> usize {
    if target.has_own_operators() { 256 } else { 64 }
}

/// Attributes: heads of queries and keys, and of values.
const KEY_HEADS: &str = "key_heads";
const VALUE_HEADS: &str = "value_heads";

/// Added to the squared length of queries and keys before they are divided by it.
const LENGTH_EPSILON: f32 = 1e-6;

/// The logarithm of no influence at all.
const NEVER: f32 = -3e4;

/// Heads and their widths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaHeads {
    /// Heads of queries and keys.
    pub key_heads: usize,
    /// Heads of values: whole groups share a key.
    pub value_heads: usize,
    /// Width of a query or key.
    pub key_width: usize,
    /// Width of a value.
    pub value_width: usize,
}

impl DeltaHeads {
    /// Numbers of a token's queries, or keys.
    pub fn keys(&self) -> usize {
        self.key_heads * self.key_width
    }

    /// Numbers of a token's values.
    pub fn values(&self) -> usize {
        self.value_heads * self.value_width
    }

    /// Values of a key.
    fn group(&self) -> usize {
        self.value_heads / self.key_heads
    }

    /// Shape of the matrices.
    pub fn matrix_dims(&self) -> Vec<Dim> {
        dims![axis::BATCH, self.value_heads, self.key_width, self.value_width]
    }
}

/// Inputs of the rule.
#[derive(Debug)]
pub struct GatedDelta<'a> {
    /// \[B, S, key heads * key width\], of any length.
    pub query: &'a Value,
    /// \[B, S, key heads * key width\], of any length.
    pub key: &'a Value,
    /// \[B, S, value heads * value width\].
    pub value: &'a Value,
    /// \[B, S, value heads\]; sigmoid of it is how much of a token is written.
    pub strength: &'a Value,
    /// \[B, S, value heads\]; `exp(rates * softplus(decay + biases))` is what a token leaves of the matrix.
    pub decay: &'a Value,
    /// \[value heads\], negative.
    pub rates: &'a Value,
    /// \[value heads\].
    pub biases: &'a Value,
    /// \[B, value heads, key width, value width\].
    pub matrix: &'a Value,
}

/// Masks of a run's tokens by a run's tokens, \[S, S\]; the rules of a graph share them.
#[derive(Debug)]
pub struct Runs {
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
    /// Masks for runs of at most `longest` tokens. A longer one finds them too short, and fails.
    pub fn new(g: &mut Builder, longest: usize) -> Self {
        let seq = Dim::Axis(axis::SEQ);
        // Whole numbers in floats: what is computed of a Range, tract takes for sizes and cannot sort out.
        let places: Vec<f32> = (0..longest).map(|place| place as f32).collect();
        let second = g.floats(&[longest], &places);
        let second = g.take(&second, &seq, 0); // [S]
        let first = g.reshape(&second, dims![&seq, 1]);
        let earlier = g.less_or_equal(&second, &first);
        let sums = g.cast(&earlier, Element::F32);
        let identity = g.equal(&first, &second);
        let identity = g.cast(&identity, Element::F32);
        let blocks = (0..longest.next_power_of_two().ilog2()).map(|level| 1usize << level);
        let below = blocks.map(|block| below(g, &first, &second, block)).collect();
        Self { earlier, sums, identity, below }
    }
}

/// One where `first` is in an odd block and `second` in the one before it.
fn below(g: &mut Builder, first: &Value, second: &Value, block: usize) -> Value {
    let [first, second] = [first, second].map(|place| {
        let number = g.scale(place, (block as f32).recip());
        g.floor(&number)
    });
    let pair = g.scale(&first, 0.5);
    let pair = g.floor(&pair);
    let even = g.scale(&pair, 2.0);
    let odd = g.less(&even, &first);
    let next = g.add_scalar(&second, 1.0);
    let beside = g.equal(&first, &next);
    let below = g.and(&odd, &beside);
    g.cast(&below, Element::F32)
}

/// What the tokens read, \[B, S, value heads * value width\], and the matrices behind them, in standard
/// operators.
pub fn spelt_out(g: &mut Builder, heads: DeltaHeads, runs: &Runs, inputs: &GatedDelta<'_>) -> [Value; 2] {
    let (batch, seq) = (Dim::Axis(axis::BATCH), Dim::Axis(axis::SEQ));
    let query = unit(g, heads, inputs.query); // [B, key heads, 1, S, key width]
    let query = g.scale(&query, (heads.key_width as f32).sqrt().recip());
    let value = dims![&batch, &seq, heads.key_heads, heads.group(), heads.value_width];
    let value = g.reshape(inputs.value, value);
    let strength = g.sigmoid(inputs.strength);
    let decay = log_decays(g, inputs);
    let tokens = Tokens {
        query,
        key: unit(g, heads, inputs.key),
        value: g.transpose(&value, &[0, 2, 3, 1, 4]), // [B, key heads, group, S, value width]
        strength: by_head(g, heads, &strength),       // [B, key heads, group, S, 1]
        decay: by_head(g, heads, &decay),
    };
    let (out, matrix) = rule(g, heads, runs, &tokens, inputs.matrix);
    let out = g.transpose(&out, &[0, 3, 1, 2, 4]); // [B, S, key heads, group, value width]
    [g.reshape(&out, dims![&batch, &seq, heads.values()]), matrix]
}

/// What the rule takes of every token, by head; the logarithm of the decay.
struct Tokens {
    query: Value,
    key: Value,
    value: Value,
    strength: Value,
    decay: Value,
}

/// \[B, S, key heads * key width\] to vectors of length one, \[B, key heads, 1, S, key width\].
fn unit(g: &mut Builder, heads: DeltaHeads, x: &Value) -> Value {
    let (batch, seq) = (x.dim(0).clone(), x.dim(1).clone());
    let x = g.reshape(x, dims![&batch, &seq, heads.key_heads, heads.key_width]);
    let squares = g.mul(&x, &x);
    let length = g.reduce_sum(&squares, &[-1]);
    let length = g.add_scalar(&length, LENGTH_EPSILON);
    let length = g.sqrt(&length);
    let x = g.div(&x, &length);
    let x = g.transpose(&x, &[0, 2, 1, 3]); // [B, key heads, S, key width]
    g.reshape(&x, dims![&batch, heads.key_heads, 1, &seq, heads.key_width])
}

/// The logarithm of what a token leaves of the matrix, \[B, S, value heads\].
fn log_decays(g: &mut Builder, inputs: &GatedDelta<'_>) -> Value {
    let x = g.add(inputs.decay, inputs.biases);
    // softplus(x) = max(x, 0) + log(1 + exp(-|x|)), which overflows nowhere.
    let magnitude = g.abs(&x);
    let magnitude = g.neg(&magnitude);
    let rest = g.exp(&magnitude);
    let rest = g.add_scalar(&rest, 1.0);
    let rest = g.log(&rest);
    let positive = g.relu(&x);
    let softplus = g.add(&positive, &rest);
    g.mul(&softplus, inputs.rates)
}

/// \[B, S, value heads\] to \[B, key heads, group, S, 1\].
fn by_head(g: &mut Builder, heads: DeltaHeads, x: &Value) -> Value {
    let (batch, seq) = (Dim::Axis(axis::BATCH), Dim::Axis(axis::SEQ));
    let x = g.reshape(x, dims![&batch, &seq, heads.key_heads, heads.group()]);
    let x = g.transpose(&x, &[0, 2, 3, 1]);
    g.reshape(&x, dims![&batch, heads.key_heads, heads.group(), &seq, 1])
}

/// What the tokens of a run read, \[B, key heads, group, S, value width\], and the matrices behind them.
fn rule(g: &mut Builder, heads: DeltaHeads, runs: &Runs, tokens: &Tokens, past: &Value) -> (Value, Value) {
    let Tokens { query, key, value, strength, decay } = tokens;
    let grouped = dims![axis::BATCH, heads.key_heads, heads.group(), heads.key_width, heads.value_width];
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
    (out, g.reshape(&matrix, heads.matrix_dims()))
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

/// `GatedDelta`: the rule of heads that are the same wherever a graph calls it.
fn gated_delta(heads: DeltaHeads) -> Function {
    let row = |width: usize| dims![axis::BATCH, axis::SEQ, width];
    let inputs = [
        ("query", Element::F32, row(heads.keys())),
        ("key", Element::F32, row(heads.keys())),
        ("value", Element::F32, row(heads.values())),
        ("strength", Element::F32, row(heads.value_heads)),
        ("decay", Element::F32, row(heads.value_heads)),
        ("rates", Element::F32, dims![heads.value_heads]),
        ("biases", Element::F32, dims![heads.value_heads]),
        ("matrix", Element::F32, heads.matrix_dims()),
    ];
    Function::of_several(GATED_DELTA, &[KEY_HEADS, VALUE_HEADS], &inputs, |g, inputs| {
        let [query, key, value, strength, decay, rates, biases, matrix] = inputs else {
            unreachable!("eight inputs were declared")
        };
        let runs = Runs::new(g, longest_run(Target::Cpu));
        let inputs = GatedDelta { query, key, value, strength, decay, rates, biases, matrix };
        let [result, present] = spelt_out(g, heads, &runs, &inputs);
        vec![("result", result), ("present", present)]
    })
}

impl Builder {
    /// The same as [`spelt_out`], as one operator. Only where the target
    /// [has operators of ours](Target::has_own_operators).
    pub fn gated_delta(&mut self, heads: DeltaHeads, inputs: &GatedDelta<'_>) -> [Value; 2] {
        let GatedDelta { query, key, value, strength, decay, rates, biases, matrix } = *inputs;
        let attributes = vec![
            (KEY_HEADS, Attribute::Int(heads.key_heads as i64)),
            (VALUE_HEADS, Attribute::Int(heads.value_heads as i64)),
        ];
        let outputs = vec![(Element::F32, value.dims.clone()), (Element::F32, matrix.dims.clone())];
        let inputs = [query, key, value, strength, decay, rates, biases, matrix];
        let outputs = self.call_of_several(gated_delta(heads), &inputs, attributes, outputs);
        outputs.try_into().unwrap_or_else(|_| unreachable!("two outputs were declared"))
    }
}

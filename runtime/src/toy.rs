//! Test doubles: a byte-level tokenizer, and graphs that compute a small order-dependent function of
//! everything in the KV cache, so that a value lost, doubled or written to the wrong place changes every
//! later token.

use serde_json::json;
use tokenizers::Tokenizer;

use std::sync::Arc;

use crate::generate::{Budget, Receipt, Selection, Selector, Sizing};
use crate::image::{DecodedImage, ImageError, ImageLimits};
use crate::library::{Graph, InPlace, InPlaceMemory, LibraryError};
use crate::tensor::{Element, Tensor};
use crate::vision::family::{BUDGET, Grant, ImagePlan, Picture, Pixels, Processor, Refusal};
use crate::vision::{Pictures, Visual};
use arrcoc_bundle::manifest::{CacheElement, DecoderSpec, RecurrentSpec};

/// Control tokens, after 256 bytes and 4 merges.
pub(crate) const ENDOFTEXT: u32 = 260;
pub(crate) const IM_START: u32 = 261;
pub(crate) const IM_END: u32 = 262;
pub(crate) const VISION_START: u32 = 263;
pub(crate) const VISION_END: u32 = 264;
pub(crate) const IMAGE_PAD: u32 = 265;
const VOCAB: usize = 272;
const WIDTH: usize = 8;
const LAYERS: usize = 2;
const HEADS: usize = 2;
const HEAD_DIM: usize = 4;

/// A chat template in the manner of Qwen's.
pub(crate) const TEMPLATE: &str = "\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for part in message.content %}
            {%- if part.type == 'image' %}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- else %}
                {{- part.text }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
";

pub(crate) fn byte_id(byte: u8) -> u32 {
    u32::from(byte)
}

pub(crate) fn byte_ids(text: &str) -> Vec<u32> {
    text.bytes().map(byte_id).collect()
}

pub(crate) fn spec() -> DecoderSpec {
    DecoderSpec {
        layers: LAYERS,
        kv_heads: HEADS,
        head_dim: HEAD_DIM,
        hidden_size: WIDTH,
        vocab_size: VOCAB,
        context_length: 512,
        eos_token_ids: vec![IM_END, ENDOFTEXT],
        cache_element: CacheElement::Fp32,
        deep_levels: 0,
        recurrent: None,
    }
}

/// The same with one more layer, a recurrent one, whose graph takes few tokens at once.
pub(crate) fn recurrent_spec() -> DecoderSpec {
    let recurrent = RecurrentSpec {
        layers: vec![LAYERS],
        window: 2,
        channels: WIDTH,
        heads: 1,
        key_width: 2,
        value_width: WIDTH / 2,
        longest_run: 5,
    };
    DecoderSpec { layers: LAYERS + 1, recurrent: Some(recurrent), ..spec() }
}

pub(crate) fn tokenizer_json() -> String {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut vocab = serde_json::Map::new();
    let mut next = 0x100;
    for byte in 0..=u8::MAX {
        let c = if printable(byte) {
            char::from(byte)
        } else {
            next += 1;
            char::from_u32(next - 1).unwrap_or_default()
        };
        vocab.insert(c.to_string(), json!(byte));
    }
    for (token, id) in [("th", 256), ("the", 257), ("Ġthe", 258), ("<|", 259)] {
        vocab.insert(token.into(), json!(id));
    }
    let added = [
        ("<|endoftext|>", ENDOFTEXT),
        ("<|im_start|>", IM_START),
        ("<|im_end|>", IM_END),
        ("<|vision_start|>", VISION_START),
        ("<|vision_end|>", VISION_END),
        ("<|image_pad|>", IMAGE_PAD),
    ];
    let added: Vec<_> = added
        .iter()
        .map(|(content, id)| {
            json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false})
        })
        .collect();
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": added, "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab,
                  "merges": ["t h", "th e", "Ġ the", "< |"]}
    })
    .to_string()
}

#[allow(clippy::expect_used, reason = "a constant of this file")]
pub(crate) fn tokenizer() -> Tokenizer {
    Tokenizer::from_bytes(tokenizer_json()).expect("the toy tokenizer parses")
}

/// A number in -1..1 that depends on both arguments.
fn hash(a: usize, b: usize) -> f32 {
    let mut x = (a as u64) << 32 | b as u64;
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((x >> 40) as f32) / (1 << 23) as f32 - 1.0
}

pub(crate) fn embedding_row(id: usize) -> Vec<f32> {
    (0..WIDTH).map(|j| hash(id + 1, j)).collect()
}

/// The `embedding` graph.
pub(crate) struct Embedding;

impl Graph for Embedding {
    fn run(&mut self, inputs: &[(&str, Tensor)]) -> Result<Vec<(String, Tensor)>, LibraryError> {
        let ids = slice::<i64>(inputs, "input_ids")?;
        let rows: Vec<f32> = ids.iter().flat_map(|id| embedding_row(*id as usize)).collect();
        Ok(vec![("inputs_embeds".into(), tensor(&[1, ids.len(), WIDTH], rows)?)])
    }

    fn run_in_place(
        &mut self,
        _: &[(&str, Tensor)],
        _: &mut [InPlace<'_>],
    ) -> Result<Vec<(String, Tensor)>, LibraryError> {
        Err(LibraryError::Unsupported { runtime: "toy", what: "run_in_place" })
    }
}

/// What the recurrent layer of [`recurrent_spec`] remembers, of all rows.
struct State {
    window: Vec<f32>,
    matrix: Vec<f32>,
    rows: usize,
}

impl State {
    const WINDOW: usize = 2 * WIDTH;

    fn read(inputs: &[(&str, Tensor)], rows: usize, seq: usize) -> Result<Option<Self>, LibraryError> {
        if !inputs.iter().any(|(name, _)| *name == "past_states.2.window") {
            return Ok(None);
        }
        let [window, matrix] =
            ["window", "matrix"].map(|part| slice::<f32>(inputs, &format!("past_states.2.{part}")));
        let (window, matrix) = (window?.to_vec(), matrix?.to_vec());
        match window.len() == rows * Self::WINDOW && matrix.len() == rows * WIDTH && seq <= 5 {
            true => Ok(Some(Self { window, matrix, rows })),
            false => Err(failed("states of other shapes, or too long a run")),
        }
    }

    /// One row takes a token; what it adds to the logits.
    fn take(&mut self, row: usize, embed: &[f32]) -> impl Fn(usize) -> f32 {
        let window = &mut self.window[row * Self::WINDOW..][..Self::WINDOW];
        let matrix = &mut self.matrix[row * WIDTH..][..WIDTH];
        for (at, cell) in matrix.iter_mut().enumerate() {
            *cell = 0.5 * *cell + embed[at] + 0.25 * window[at];
        }
        window.rotate_left(WIDTH);
        window[WIDTH..].copy_from_slice(embed);
        let matrix = matrix.to_vec();
        move |v| matrix.iter().enumerate().map(|(j, m)| m * hash(v + 9, j + 2000)).sum()
    }

    fn outputs(self) -> Result<[(String, Tensor); 2], LibraryError> {
        Ok([
            ("present_states.2.window".to_owned(), tensor(&[self.rows, 2, WIDTH], self.window)?),
            ("present_states.2.matrix".to_owned(), tensor(&[self.rows, 1, 2, WIDTH / 2], self.matrix)?),
        ])
    }
}

/// The `decoder` graph, either flavour. Panics or fails on demand, through a position.
#[derive(Default)]
pub(crate) struct Decoder {
    /// Panics when any row feeds this rotary position.
    pub(crate) panic_at: Option<i64>,
    /// Gives NaN logits from this rotary position on.
    pub(crate) nan_from: Option<i64>,
    /// Fails when any row feeds this rotary position.
    pub(crate) fail_at: Option<i64>,
}

/// One row's cache: `(layer, is_value, head, position, lane) -> element`.
type Cell<'a> = &'a mut dyn FnMut(usize, bool, usize, usize, usize) -> f32;

impl Decoder {
    /// Time, row and column of every token, where none is the one to fail at.
    fn positions(&self, inputs: &[(&str, Tensor)]) -> Result<Vec<[i64; 3]>, LibraryError> {
        let positions = positions(inputs)?;
        match self.fail_at.filter(|at| positions.iter().any(|position| position[0] == *at)) {
            Some(_) => Err(failed("the toy was told to fail")),
            None => Ok(positions),
        }
    }

    /// Logits after `total` positions.
    fn logits(&self, total: usize, position: i64, cell: Cell<'_>) -> Vec<f32> {
        let mut state = [0f32; LAYERS * HEADS * HEAD_DIM];
        for t in 0..total {
            for (j, sum) in state.iter_mut().enumerate() {
                let (layer, head, lane) = (j / (HEADS * HEAD_DIM), j / HEAD_DIM % HEADS, j % HEAD_DIM);
                let t_phase = t as f32;
                *sum += cell(layer, false, head, t, lane) * (0.3 * t_phase + j as f32).sin();
                *sum += cell(layer, true, head, t, lane) * (0.7 * t_phase).cos();
            }
        }
        assert!(self.panic_at != Some(position), "the toy was told to panic");
        if self.nan_from.is_some_and(|from| position >= from) {
            return vec![f32::NAN; VOCAB];
        }
        (0..VOCAB).map(|v| state.iter().enumerate().map(|(j, s)| s * hash(v + 7, j + 1000)).sum()).collect()
    }
}

/// Key and value of one token, which also depend on all three planes of its position.
fn key_value(embed: &[f32], layer: usize, head: usize, lane: usize, position: [i64; 3]) -> (f32, f32) {
    let e = embed[head * HEAD_DIM + lane];
    let [time, row, column] = position.map(|plane| plane as f32 + layer as f32);
    (e * (layer + 1) as f32, e + 0.1 * (time.sin() + 0.5 * row.cos() + 0.25 * (2.0 * column).sin()))
}

/// Embeddings with what is added behind the first layers; this toy adds it at once, a level at a time.
fn with_deep(inputs: &[(&str, Tensor)]) -> Result<Vec<f32>, LibraryError> {
    let mut embeds = slice::<f32>(inputs, "inputs_embeds")?.to_vec();
    if inputs.iter().any(|(name, _)| *name == "deep_embeds") {
        let levels = slice::<f32>(inputs, "deep_embeds")?.chunks_exact(embeds.len()).enumerate();
        for (level, rows) in levels {
            embeds.iter_mut().zip(rows).for_each(|(embed, row)| *embed += (level + 2) as f32 * row);
        }
    }
    Ok(embeds)
}

fn hosted<'a>(buffer: &'a mut InPlace<'_>) -> Result<&'a mut [u8], LibraryError> {
    match &mut buffer.memory {
        InPlaceMemory::Host(bytes) => Ok(bytes),
        InPlaceMemory::Library(_) => Err(failed("a buffer of another library")),
    }
}

impl Graph for Decoder {
    /// The portable contract.
    fn run(&mut self, inputs: &[(&str, Tensor)]) -> Result<Vec<(String, Tensor)>, LibraryError> {
        let embeds = with_deep(inputs)?;
        let positions = self.positions(inputs)?;
        let (seq, total) = (positions.len(), slice::<i64>(inputs, "attention_mask")?.len());
        let past = total - seq;
        let mut present: Vec<Vec<f32>> = vec![vec![0.0; HEADS * total * HEAD_DIM]; LAYERS * 2];
        for (index, out) in present.iter_mut().enumerate() {
            let (layer, part) = (index / 2, ["key", "value"][index % 2]);
            let old = slice::<f32>(inputs, &format!("past_key_values.{layer}.{part}"))?;
            if old.len() != HEADS * past * HEAD_DIM {
                return Err(failed("the past is of another length"));
            }
            for (head, lane) in lanes() {
                for t in 0..total {
                    out[(head * total + t) * HEAD_DIM + lane] = if t < past {
                        old[(head * past + t) * HEAD_DIM + lane]
                    } else {
                        let embed = &embeds[(t - past) * WIDTH..][..WIDTH];
                        let (key, value) = key_value(embed, layer, head, lane, positions[t - past]);
                        if index % 2 == 0 { key } else { value }
                    };
                }
            }
        }
        let mut logits = self.logits(total, positions[seq - 1][0], &mut |layer, value, head, t, lane| {
            present[layer * 2 + usize::from(value)][(head * total + t) * HEAD_DIM + lane]
        });
        let mut state = State::read(inputs, 1, seq)?;
        if let Some(state) = &mut state {
            for (step, embed) in embeds.chunks_exact(WIDTH).enumerate() {
                let more = state.take(0, embed);
                if step + 1 == seq {
                    logits.iter_mut().enumerate().for_each(|(v, logit)| *logit += more(v));
                }
            }
        }
        let mut outputs = vec![("logits".to_string(), tensor(&[1, 1, VOCAB], logits)?)];
        for (index, out) in present.into_iter().enumerate() {
            let name = format!("present.{}.{}", index / 2, ["key", "value"][index % 2]);
            outputs.push((name, tensor(&[1, HEADS, total, HEAD_DIM], out)?));
        }
        outputs.extend(state.map(State::outputs).transpose()?.into_iter().flatten());
        Ok(outputs)
    }

    /// The fused contract.
    fn run_in_place(
        &mut self,
        inputs: &[(&str, Tensor)],
        in_place: &mut [InPlace<'_>],
    ) -> Result<Vec<(String, Tensor)>, LibraryError> {
        let embeds = with_deep(inputs)?;
        let positions = self.positions(inputs)?;
        let lengths = slice::<i32>(inputs, "seqlens_k")?;
        let longest = slice::<i32>(inputs, "total_sequence_length")?[0];
        let (batch, seq, capacity) = (lengths.len(), positions.len() / lengths.len(), in_place[0].shape[2]);
        if lengths.iter().max() != Some(&(longest - 1)) || longest as usize > capacity || batch > 1 && seq > 1
        {
            return Err(failed("lengths do not fit"));
        }
        let mut logits = Vec::new();
        let mut state = State::read(inputs, batch, seq)?;
        for row in 0..batch {
            let total = lengths[row] as usize + 1;
            let at = |head: usize, t: usize, lane: usize| {
                (((row * HEADS + head) * capacity + t) * HEAD_DIM + lane) * size_of::<f32>()
            };
            for (step, layer) in (0..seq).flat_map(|step| (0..LAYERS).map(move |layer| (step, layer))) {
                let embed = &embeds[(row * seq + step) * WIDTH..][..WIDTH];
                for (head, lane) in lanes() {
                    let (key, value) = key_value(embed, layer, head, lane, positions[row * seq + step]);
                    let place = at(head, total - seq + step, lane);
                    hosted(&mut in_place[layer * 2])?[place..place + 4].copy_from_slice(&key.to_ne_bytes());
                    hosted(&mut in_place[layer * 2 + 1])?[place..place + 4]
                        .copy_from_slice(&value.to_ne_bytes());
                }
            }
            let [position, ..] = positions[row * seq + seq - 1];
            logits.extend(self.logits(total, position, &mut |layer, value, head, t, lane| {
                let InPlaceMemory::Host(bytes) = &in_place[layer * 2 + usize::from(value)].memory else {
                    return f32::NAN;
                };
                let bytes = &bytes[at(head, t, lane)..][..4];
                f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
            }));
            let Some(state) = &mut state else { continue };
            for (step, embed) in embeds.chunks_exact(WIDTH).skip(row * seq).take(seq).enumerate() {
                let more = state.take(row, embed);
                if step + 1 == seq {
                    logits[row * VOCAB..].iter_mut().enumerate().for_each(|(v, logit)| *logit += more(v));
                }
            }
        }
        let mut outputs = vec![("logits".into(), tensor(&[batch, 1, VOCAB], logits)?)];
        outputs.extend(state.map(State::outputs).transpose()?.into_iter().flatten());
        Ok(outputs)
    }
}

fn lanes() -> impl Iterator<Item = (usize, usize)> {
    (0..HEADS).flat_map(|head| (0..HEAD_DIM).map(move |lane| (head, lane)))
}

fn failed(reason: &str) -> LibraryError {
    LibraryError::Run { graph: "toy".into(), reason: reason.into() }
}

/// Time, row and column of every token.
fn positions(inputs: &[(&str, Tensor)]) -> Result<Vec<[i64; 3]>, LibraryError> {
    let planes = slice::<i64>(inputs, "position_ids")?;
    let count = planes.len() / 3;
    Ok((0..count).map(|at| [planes[at], planes[count + at], planes[2 * count + at]]).collect())
}

fn slice<'a, T: Element>(inputs: &'a [(&str, Tensor)], name: &str) -> Result<&'a [T], LibraryError> {
    let found = inputs.iter().find(|(candidate, _)| *candidate == name).ok_or_else(|| failed(name))?;
    found.1.as_slice().map_err(|error| failed(&error.to_string()))
}

fn tensor(shape: &[usize], data: Vec<f32>) -> Result<Tensor, LibraryError> {
    Tensor::from_vec(shape, data).map_err(|error| failed(&error.to_string()))
}

/// Pictures of 4 or 8 tokens that are never prepared.
struct Thumbnails;

impl Processor for Thumbnails {
    fn budgets(&self) -> &[usize] {
        &[4, 8]
    }

    fn selectors(&self) -> &'static [Selector] {
        &[]
    }

    fn default_budget(&self) -> Budget {
        Budget::Auto
    }

    fn grant(&self, budget: Budget, _: &Selection) -> Result<Grant, Refusal> {
        match budget {
            Budget::Auto => Ok(Grant::Auto),
            Budget::Tokens(4) => Ok(Grant::Tier(0)),
            Budget::Tokens(8) => Ok(Grant::Tier(1)),
            other => Err(Refusal { field: BUDGET, expected: "4 or 8".into(), found: format!("{other:?}") }),
        }
    }

    fn plan(&self, _: Picture, grant: Grant) -> Result<ImagePlan, ImageError> {
        Ok(ImagePlan::rows(if grant == Grant::Tier(0) { 4 } else { 8 }))
    }

    fn pixels(&self, _: &DecodedImage, _: Sizing) -> Result<Pixels, ImageError> {
        unreachable!("toys are not encoded")
    }

    fn identity(&self) -> String {
        "thumbnails".to_owned()
    }
}

impl Pictures {
    pub(crate) fn toy(limits: ImageLimits) -> Arc<Self> {
        Arc::new(Self::new(Arc::new(Thumbnails), limits, true))
    }
}

impl Visual {
    /// Rows of an image that stands in its prompt as one run.
    pub(crate) fn toy(rows: Tensor) -> Self {
        let tokens = rows.shape()[1];
        let receipt = Receipt { tokens, ..Receipt::of_all([1, 1], Vec::new()) };
        Self::new(rows, vec![0..tokens], receipt)
    }
}

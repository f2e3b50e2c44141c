//! Which weight takes which form: the defaults of a precision, and the rules of the user.

use arrcoc_bundle::{Precision, Role, Target, WeightForm, WeightRule};
use arrcoc_models::graph::quantized::Blocks;
use arrcoc_models::graph::{Graph, Initializer, Node, Source};
use globset::{Glob, GlobMatcher};

use super::PassError;

/// Weights with fewer rows or columns stay as they are: quantizing what they multiply costs more than it
/// saves (NVIDIA's Model Optimizer leaves them out too).
const SMALLEST: usize = Blocks::SMALLEST;

/// int4 blocks of the decoder: 32 is what `MatMulNBits` and llama.cpp's Q4_0 take by default; larger ones
/// lose accuracy first. Portable bundles and those for CUDA have the same: blocks of 128 would save 0.4 of
/// 4.5 bits per weight, and a rule asks for them. Symmetric ones are all that TensorRT takes.
const INT4_BLOCKS: WeightForm = WeightForm::Blocks { bits: 4, size: 32, symmetric: true };

/// int8 blocks of the decoder. One scale for a whole token, as encoders have it, is not enough there: a few
/// channels are hundreds of times larger than the rest, and cost it their precision. On SmolLM2-135M a scale
/// for each token loses 3 % of perplexity, and half of that in the output head
/// (docs/benchmarks/perplexity.md).
const INT8_BLOCKS: WeightForm = WeightForm::Blocks { bits: 8, size: 32, symmetric: true };

/// The rules of a precision; a user's come behind them.
///
/// Choosers decide what becomes a token, and projectors fit the tokens to the decoder's statistics. Both cost
/// milliseconds: they keep their 32 bits.
fn defaults(precision: Precision, target: Target) -> Vec<WeightRule> {
    let rule = |role, form| WeightRule { graph: None, role: Some(role), tensor: None, operator: None, form };
    let tensor =
        |tensor: &str, form| WeightRule { tensor: Some(tensor.to_owned()), ..rule(Role::Decoder, form) };
    // The output head keeps 8 bits in int4, as llama.cpp's files have it: in 4 it loses as much as all layers
    // do. So tied embeddings, of which a token reads one row, are one table with it.
    let quantized = |decoder| {
        vec![
            rule(Role::Encoder, WeightForm::W8a8),
            rule(Role::Decoder, decoder),
            tensor("*lm_head.weight", INT8_BLOCKS),
            tensor("*embed_tokens.weight", INT8_BLOCKS),
            rule(Role::Embedding, INT8_BLOCKS),
        ]
    };
    let between_halves = |encoders, decoder| {
        vec![
            rule(Role::Encoder, encoders),
            rule(Role::Decoder, decoder),
            tensor("*lm_head.weight", WeightForm::Fp16),
            tensor("*embed_tokens.weight", WeightForm::Fp16),
            rule(Role::Embedding, WeightForm::Fp16),
        ]
    };
    match (precision, target) {
        (Precision::Fp32, _) => Vec::new(),
        (Precision::Fp16, _) => {
            [Role::Encoder, Role::Decoder, Role::Embedding].map(|role| rule(role, WeightForm::Fp16)).into()
        }
        (Precision::Fp8, _) => between_halves(WeightForm::Fp8, WeightForm::Fp8),
        (Precision::Int4, target) if target.has_small_floats() => {
            between_halves(WeightForm::Fp16, INT4_BLOCKS)
        }
        (Precision::Int8, _) => quantized(INT8_BLOCKS),
        (Precision::Int4, _) => quantized(INT4_BLOCKS),
    }
}

/// 16-bit floats and integers are of different targets; only blocks of 4 bits are of both.
fn check_form(
    precision: Precision,
    target: Target,
    form: WeightForm,
    number: usize,
) -> Result<(), PassError> {
    let expected = match (precision, form) {
        (Precision::Int4, form) if target.has_small_floats() => match form {
            WeightForm::Blocks { bits: 4, .. } | WeightForm::Fp16 | WeightForm::Fp32 => return Ok(()),
            _ => "int4-blockN, int4-blockN-asymmetric, fp16 and fp32",
        },
        (Precision::Fp32, form) if !target.has_integers() && form != WeightForm::Fp32 => "fp32",
        (Precision::Fp16, WeightForm::Fp16 | WeightForm::Fp32) => return Ok(()),
        (Precision::Fp8, WeightForm::Fp8 | WeightForm::Fp16 | WeightForm::Fp32) => return Ok(()),
        (Precision::Fp16, _) => "fp16 and fp32",
        (Precision::Fp8, _) => "fp8, fp16 and fp32",
        (_, WeightForm::Fp16 | WeightForm::Fp8) => "fp32, w8a8, int8-blockN and int4-blockN",
        _ => return Ok(()),
    };
    let target = target.name();
    Err(PassError::Form { number, form, precision, target, expected })
}

/// Rules ready to be asked.
pub(super) struct Rules {
    rules: Vec<Rule>,
    /// How many of them are the precision's own; errors count the user's from one.
    defaults: usize,
}

struct Rule {
    rule: WeightRule,
    tensor: Option<GlobMatcher>,
    used: bool,
}

impl Rules {
    /// The rules of a precision, and the user's behind them.
    pub(super) fn new(precision: Precision, target: Target, user: &[WeightRule]) -> Result<Self, PassError> {
        let own = defaults(precision, target);
        let defaults = own.len();
        let compile = |(index, rule): (usize, WeightRule)| {
            let glob = rule.tensor.as_deref().map(Glob::new).transpose();
            let number = (index + 1).saturating_sub(defaults);
            check_form(precision, target, rule.form, number)?;
            let glob = glob.map_err(|source| PassError::Glob { number, source })?;
            Ok(Rule { tensor: glob.map(|glob| glob.compile_matcher()), rule, used: false })
        };
        let all = own.into_iter().chain(user.iter().cloned()).enumerate();
        Ok(Self { rules: all.map(compile).collect::<Result<_, _>>()?, defaults })
    }

    /// What the rules say, for the record.
    pub(super) fn list(&self) -> Vec<WeightRule> {
        self.rules.iter().map(|rule| rule.rule.clone()).collect()
    }

    /// Whether any rule asks for another form than 32 bits.
    pub(super) fn quantize(&self) -> bool {
        self.rules.iter().any(|rule| rule.rule.form != WeightForm::Fp32)
    }

    /// The form of the weight that `node` of `graph` reads.
    pub(super) fn form(&mut self, graph: &Graph, node: &Node, weight: &Initializer) -> WeightForm {
        let Source::Checkpoint { tensor, .. } = &weight.source else { return WeightForm::Fp32 };
        let fits = |rule: &Rule| {
            rule.rule.graph.as_deref().is_none_or(|name| name == graph.name)
                && rule.rule.role.is_none_or(|role| role == graph.role)
                && rule.rule.operator.as_deref().is_none_or(|name| name == node.operator)
                && rule.tensor.as_ref().is_none_or(|glob| glob.is_match(tensor))
        };
        let mut form = WeightForm::Fp32;
        for rule in self.rules.iter_mut().filter(|rule| fits(rule)) {
            (form, rule.used) = (rule.rule.form, true);
        }
        let small = weight.shape.len() != 2 || weight.shape.iter().any(|&n| n < SMALLEST);
        if small { WeightForm::Fp32 } else { form }
    }

    /// Refuses rules of the user that fit nothing: a misspelt one would go unnoticed.
    pub(super) fn check_used(&self, graphs: &[Graph]) -> Result<(), PassError> {
        match self.rules.iter().skip(self.defaults).position(|rule| !rule.used) {
            None => Ok(()),
            Some(index) => Err(PassError::Unused {
                number: index + 1,
                graphs: graphs.iter().map(|graph| graph.name).collect::<Vec<_>>().join(", "),
            }),
        }
    }
}

//! From [`RawManifest`] to [`Manifest`]: every check that needs no inference library.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;

use super::files::{ListedFile, resolve};
use super::manifest::{DecoderSpec, RawGraph, RawManifest, RecurrentSpec, VisionSpec};
use crate::checked::{GraphFile, Manifest};
use crate::error::BundleError;
use crate::graph::{AxisRange, Role};
use crate::quote::excerpt;
use crate::statistics::Statistics;

/// Longest name of a model, bytes: it stands in every answer and in every series of the metrics.
const MOST_NAME: usize = 200;
/// Longest axis.
const MOST_AXIS: u64 = 1 << 31;
/// Most sizes, tiers and end tokens: each tier has metrics of its own.
const MOST_ENTRIES: usize = 64;
/// Most visual tokens of a tier.
const MOST_TOKENS: usize = 1 << 20;
/// Most graphs of a bundle, and most axes and outputs of a graph.
const MOST_GRAPHS: usize = 64;

/// Validates a manifest against the directory it stands in (canonical); also returns what is to be hashed.
pub(super) fn validate(raw: RawManifest, dir: &Path) -> Result<(Manifest, Vec<ListedFile>), BundleError> {
    let length_ok = (1..=MOST_NAME).contains(&raw.model.len());
    let name_ok = length_ok && raw.model.chars().all(|c| c.is_alphanumeric() || "-_.:/".contains(c));
    check("model", "up to 200 letters, digits and any of `-_.:/`", name_ok, &raw.model)?;
    check_sha256("checkpoint_sha256", &raw.checkpoint_sha256)?;
    raw.calibration_sha256.iter().try_for_each(|digest| check_sha256("calibration_sha256", digest))?;
    check(
        "family",
        "a `model_type` of lower-case letters, digits and `_`",
        is_name(&raw.family),
        &raw.family,
    )?;
    check_vision(&raw.vision)?;
    check_decoder(&raw.decoder)?;
    let generation = raw.generation.clone();
    if let Some((field, expected, found)) = generation.problem() {
        check(&format!("generation.{field}"), expected, false, found)?;
    }

    let mut hashed = Vec::new();
    let graphs = check_graphs(&raw, dir, &mut hashed)?;
    let mut files = BTreeMap::new();
    for (name, sha256) in raw.files {
        let field = format!("files.{}", excerpt(&name));
        check_sha256(&field, &sha256)?;
        let path = resolve(dir, &field, &name)?;
        hashed.push(ListedFile { name: name.clone(), path: path.clone(), sha256 });
        files.insert(name, path);
    }
    let manifest = Manifest {
        model: raw.model,
        family: raw.family,
        precision: raw.precision,
        target: raw.target,
        weights: raw.weights,
        tool: raw.tool,
        checkpoint_sha256: raw.checkpoint_sha256,
        graphs,
        files,
        vision: raw.vision,
        processor: raw.processor,
        decoder: raw.decoder,
        generation,
        tool_calls: raw.tool_calls,
    };
    Ok((manifest, hashed))
}

fn check_graphs(
    raw: &RawManifest,
    dir: &Path,
    hashed: &mut Vec<ListedFile>,
) -> Result<BTreeMap<String, GraphFile>, BundleError> {
    for role in [Role::Embedding, Role::Decoder] {
        let found = raw.graphs.values().filter(|graph| graph.role == role).count();
        let expected = format!("exactly one graph of the role {}", role.name());
        check("graphs", &expected, found == 1, found)?;
    }
    check("graphs", &format!("at most {MOST_GRAPHS}"), raw.graphs.len() <= MOST_GRAPHS, raw.graphs.len())?;
    let mut graphs = BTreeMap::new();
    for (name, graph) in &raw.graphs {
        check("graphs", "names of lower-case letters, digits and `_`", is_name(name), name)?;
        let field = format!("graphs.{name}");
        check_sha256(&format!("{field}.sha256"), &graph.sha256)?;
        check(&format!("{field}.opset"), "a positive number", graph.opset > 0, graph.opset)?;
        check_axes(&field, graph)?;
        let path = resolve(dir, &format!("{field}.file"), &graph.file)?;
        let (file, sha256) = (graph.file.clone(), graph.sha256.clone());
        hashed.push(ListedFile { name: file, path: path.clone(), sha256: sha256.clone() });
        let (axes, outputs) = (graph.axes.clone(), graph.outputs.clone());
        let (role, opset, external) = (graph.role, graph.opset, BTreeMap::new());
        graphs.insert(name.clone(), GraphFile { role, path, sha256, opset, axes, outputs, external });
    }
    Ok(graphs)
}

fn check_axes(field: &str, graph: &RawGraph) -> Result<(), BundleError> {
    let few = graph.axes.len() <= MOST_GRAPHS && graph.outputs.len() <= MOST_GRAPHS;
    check(field, &format!("at most {MOST_GRAPHS} axes and outputs"), few, graph.axes.len())?;
    for (axis, range) in &graph.axes {
        let named = "names of lower-case letters, digits and `_`";
        check(&format!("{field}.axes"), named, is_name(axis), axis)?;
        let AxisRange { min, opt, max } = *range;
        let found = format!("{min}, {opt}, {max}");
        let ordered = min <= opt && opt <= max && max <= MOST_AXIS;
        check(&format!("{field}.axes.{axis}"), "min <= opt <= max <= 2^31", ordered, found)?;
    }
    Ok(())
}

fn check_vision(vision: &VisionSpec) -> Result<(), BundleError> {
    // It may lie beyond the vocabulary, which has no row for it; no tokenizer has as many tokens.
    let id = vision.image_token_id;
    check("vision.image_token_id", "a token's id, below 2^24", id < 1 << 24, id)?;
    let VisionSpec { token_budgets: budgets, embeds_target, .. } = vision;
    let found = format!("{budgets:?}");
    let few = budgets.len() <= MOST_ENTRIES && budgets.last().is_none_or(|&most| most <= MOST_TOKENS);
    let tiers = budgets.is_empty() || ascending(budgets);
    check("vision.token_budgets", "one ascending budget for each of up to 64 tiers", few && tiers, found)?;
    let Some(Statistics { mean, std, sparsity }) = embeds_target else { return Ok(()) };
    let sane = mean.is_finite() && std.is_finite() && *std > 0.0 && (0.0..=1.0).contains(sparsity);
    let found = format!("{mean}, {std}, {sparsity}");
    check("vision.embeds_target", "a finite mean, a std above 0 and a sparsity in 0..1", sane, found)
}

/// Names that stand in metrics and messages.
fn is_name(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    (1..=MOST_NAME).contains(&name.len()) && name.chars().all(letter)
}

fn check_decoder(decoder: &DecoderSpec) -> Result<(), BundleError> {
    // Several times what the largest models have.
    let sizes = [
        ("layers", decoder.layers, 1 << 12),
        ("kv_heads", decoder.kv_heads, 1 << 12),
        ("head_dim", decoder.head_dim, 1 << 14),
        ("hidden_size", decoder.hidden_size, 1 << 18),
        ("vocab_size", decoder.vocab_size, 1 << 24),
        ("context_length", decoder.context_length, 1 << 28),
    ];
    for (field, size, most) in sizes {
        let sane = (1..=most).contains(&size);
        check(&format!("decoder.{field}"), &format!("a number from 1 to {most}"), sane, size)?;
    }
    let levels = decoder.deep_levels;
    let few = levels <= decoder.layers;
    check("decoder.deep_levels", "at most as many as layers", few, levels)?;
    decoder.recurrent.as_ref().map_or(Ok(()), |recurrent| check_recurrent(recurrent, decoder.layers))?;
    let ids = &decoder.eos_token_ids;
    let known = |id: u32| (id as usize) < decoder.vocab_size;
    let eos = !ids.is_empty() && ids.len() <= MOST_ENTRIES && ids.iter().copied().all(known);
    check("decoder.eos_token_ids", "one to 64 ids of the vocabulary", eos, format!("{ids:?}"))
}

fn check_recurrent(recurrent: &RecurrentSpec, layers: usize) -> Result<(), BundleError> {
    let list = &recurrent.layers;
    let ordered = !list.is_empty() && list.is_sorted_by(|a, b| a < b) && list.iter().all(|&n| n < layers);
    let expected = format!("ascending layers below {layers}");
    check("decoder.recurrent.layers", &expected, ordered, format!("{list:?}"))?;
    let sizes = [
        ("window", recurrent.window, 1 << 12),
        ("channels", recurrent.channels, 1 << 20),
        ("heads", recurrent.heads, 1 << 12),
        ("key_width", recurrent.key_width, 1 << 14),
        ("value_width", recurrent.value_width, 1 << 14),
        ("longest_run", recurrent.longest_run, 1 << 28),
    ];
    for (field, size, most) in sizes {
        let sane = (1..=most).contains(&size);
        check(&format!("decoder.recurrent.{field}"), &format!("a number from 1 to {most}"), sane, size)?;
    }
    Ok(())
}

fn ascending(values: &[usize]) -> bool {
    values.first().is_some_and(|&first| first > 0) && values.windows(2).all(|pair| pair[0] < pair[1])
}

fn check_sha256(field: &str, digest: &str) -> Result<(), BundleError> {
    let ok = digest.len() == 64 && digest.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    check(field, "64 lower-case hexadecimal digits", ok, digest)
}

fn check(field: &str, expected: &str, ok: bool, found: impl Display) -> Result<(), BundleError> {
    if ok {
        return Ok(());
    }
    // A hostile manifest can hold megabytes or control characters: the message stays short and printable.
    let found = excerpt(&found.to_string());
    Err(BundleError::Field { field: field.to_owned(), expected: expected.to_owned(), found })
}

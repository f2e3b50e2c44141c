//! From [`RawManifest`] to [`Manifest`]: every check that needs no inference library.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;

use super::files::{ListedFile, resolve};
use super::manifest::{AxisRange, DecoderSpec, PipelineKind, RawGraph, RawManifest, Statistics, VisionSpec};
use super::{BundleError, GraphFile, Manifest};
use crate::quote::excerpt;

/// Axis names of design section 4, and the two that only `vision_encoder` has.
pub(super) const AXES: [&str; 9] =
    ["batch", "patches", "tokens", "query_len", "seq", "past", "total", "height", "width"];

/// Longest name of a model, bytes: it stands in every answer and in every series of the metrics.
const MOST_NAME: usize = 200;
/// Longest axis.
const MOST_AXIS: u64 = 1 << 31;
/// Most sizes, tiers and end tokens: each tier has metrics of its own.
const MOST_ENTRIES: usize = 64;
/// Largest side of the encoder's input, pixels.
const MOST_SIDE: usize = 1 << 14;
/// Most patches a side. Receipts, layouts and caches take memory for every patch; SAM has 64 a side.
const MOST_PATCHES: usize = 256;

/// Graphs that a pipeline is made of.
fn graph_names(pipeline: PipelineKind) -> &'static [&'static str] {
    match pipeline {
        PipelineKind::ArrCocOvis => &[
            "embedding",
            "vision_encoder",
            "allocator",
            "compressor",
            "refiner",
            "quality_adapter",
            "decoder",
        ],
    }
}

/// Validates a manifest against the directory it stands in (canonical); also returns what is to be hashed.
pub(super) fn validate(mut raw: RawManifest, dir: &Path) -> Result<(Manifest, Vec<ListedFile>), BundleError> {
    let length_ok = (1..=MOST_NAME).contains(&raw.model.len());
    let name_ok = length_ok && raw.model.chars().all(|c| c.is_alphanumeric() || "-_.:/".contains(c));
    check("model", "up to 200 letters, digits and any of `-_.:/`", name_ok, &raw.model)?;
    check_sha256("checkpoint_sha256", &raw.checkpoint_sha256)?;
    raw.calibration_sha256.iter().try_for_each(|digest| check_sha256("calibration_sha256", digest))?;
    check_vision(&raw.vision)?;
    check_decoder(&raw.decoder)?;
    let generation = raw.generation.take().unwrap_or_default();
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
        pipeline: raw.pipeline,
        precision: raw.precision,
        target: raw.target,
        tool: raw.tool,
        checkpoint_sha256: raw.checkpoint_sha256,
        graphs,
        files,
        vision: raw.vision,
        decoder: raw.decoder,
        generation,
    };
    Ok((manifest, hashed))
}

fn check_graphs(
    raw: &RawManifest,
    dir: &Path,
    hashed: &mut Vec<ListedFile>,
) -> Result<BTreeMap<String, GraphFile>, BundleError> {
    let names = graph_names(raw.pipeline);
    for name in names {
        if !raw.graphs.contains_key(*name) {
            return Err(BundleError::NoGraph { name: (*name).to_owned() });
        }
    }
    let mut graphs = BTreeMap::new();
    for (name, graph) in &raw.graphs {
        let known = names.contains(&name.as_str());
        check("graphs", &format!("only {}", names.join(", ")), known, name)?;
        let field = format!("graphs.{name}");
        check_sha256(&format!("{field}.sha256"), &graph.sha256)?;
        check(&format!("{field}.opset"), "a positive number", graph.opset > 0, graph.opset)?;
        check_axes(&field, graph)?;
        let path = resolve(dir, &format!("{field}.file"), &graph.file)?;
        let (file, sha256) = (graph.file.clone(), graph.sha256.clone());
        hashed.push(ListedFile { name: file, path: path.clone(), sha256: sha256.clone() });
        let (opset, axes, external) = (graph.opset, graph.axes.clone(), BTreeMap::new());
        graphs.insert(name.clone(), GraphFile { path, sha256, opset, axes, external });
    }
    Ok(graphs)
}

fn check_axes(field: &str, graph: &RawGraph) -> Result<(), BundleError> {
    for (axis, range) in &graph.axes {
        check(&format!("{field}.axes"), &AXES.join(", "), AXES.contains(&axis.as_str()), axis)?;
        let AxisRange { min, opt, max } = *range;
        let found = format!("{min}, {opt}, {max}");
        let ordered = min <= opt && opt <= max && max <= MOST_AXIS;
        check(&format!("{field}.axes.{axis}"), "min <= opt <= max <= 2^31", ordered, found)?;
    }
    Ok(())
}

fn check_vision(vision: &VisionSpec) -> Result<(), BundleError> {
    let VisionSpec { patch_size, feature_size, image_sizes, native_size, .. } = vision;
    check("vision.patch_size", "1 to 256", (1..=256).contains(patch_size), patch_size)?;
    check("vision.feature_size", "1 to 65536", (1..=1 << 16).contains(feature_size), feature_size)?;
    let found = format!("{image_sizes:?}");
    let few = ascending(image_sizes) && image_sizes.len() <= MOST_ENTRIES;
    check("vision.image_sizes", "up to 64 ascending sizes", few, &found)?;
    let multiples = image_sizes.iter().all(|&size| size % patch_size == 0 && size <= MOST_SIDE);
    check("vision.image_sizes", &format!("multiples of {patch_size} up to {MOST_SIDE}"), multiples, &found)?;
    let patches = image_sizes.iter().all(|&size| size / patch_size <= MOST_PATCHES);
    check("vision.image_sizes", &format!("at most {MOST_PATCHES} patches a side"), patches, &found)?;
    check("vision.native_size", &format!("one of {found}"), image_sizes.contains(native_size), native_size)?;
    let finite = vision.image_mean.iter().all(|mean| mean.is_finite());
    check("vision.image_mean", "finite numbers", finite, format!("{:?}", vision.image_mean))?;
    let positive = vision.image_std.iter().all(|std| std.is_finite() && *std > 0.0);
    check("vision.image_std", "finite numbers above 0", positive, format!("{:?}", vision.image_std))?;
    check_tiers(vision)?;
    let Statistics { mean, std, sparsity } = vision.adapter_target;
    let sane = mean.is_finite() && std.is_finite() && std > 0.0 && (0.0..=1.0).contains(&sparsity);
    let found = format!("{mean}, {std}, {sparsity}");
    check("vision.adapter_target", "a finite mean, a std above 0 and a sparsity in 0..1", sane, found)
}

fn check_tiers(vision: &VisionSpec) -> Result<(), BundleError> {
    let VisionSpec { token_budgets: budgets, gist_grid, patch_size, native_size, .. } = vision;
    let found = format!("{budgets:?}");
    let few = ascending(budgets) && budgets.len() <= MOST_ENTRIES;
    check("vision.token_budgets", "one ascending budget for each of up to 64 tiers", few, &found)?;
    let side = native_size / patch_size;
    check("vision.gist_grid", &format!("1 to {side}"), (1..=side).contains(gist_grid), gist_grid)?;
    let gist = gist_grid * gist_grid;
    let enough = budgets.iter().all(|&budget| budget >= gist);
    check("vision.token_budgets", &format!("at least the {gist} gist tokens each"), enough, &found)
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
    let ids = &decoder.eos_token_ids;
    let known = |id: u32| (id as usize) < decoder.vocab_size;
    let eos = !ids.is_empty() && ids.len() <= MOST_ENTRIES && ids.iter().copied().all(known);
    check("decoder.eos_token_ids", "one to 64 ids of the vocabulary", eos, format!("{ids:?}"))?;
    let id = decoder.image_token_id;
    check("decoder.image_token_id", "an id of the vocabulary", known(id), id)
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

//! Which files of a repository a build reads.

use std::collections::BTreeSet;
use std::path::Path;

use arrcoc_bundle::names::checkpoint::{
    CONFIG, GENERATION_CONFIG, INDEX, LEGACY_CHAT_TEMPLATE, PREPROCESSOR_CONFIG, PROCESSOR_CONFIG,
    SPECIAL_TOKENS_MAP, WEIGHTS,
};
use arrcoc_bundle::names::file::{CHAT_TEMPLATE, TOKENIZER, TOKENIZER_CONFIG};
use arrcoc_bundle::quote::one_line;

use super::error::HubError;
use super::names::Repository;
use crate::checkpoint::weight_map;

/// Largest of the small files, bytes: tokenizers have a few ten megabytes.
pub(super) const SMALL_BYTES: u64 = 1 << 28;

/// What is fetched where it is there, besides weights. Those that `build` does not read make a tokenizer and
/// a processor of transformers, for which the cache is too.
const SMALL: [&str; 14] = [
    CONFIG,
    GENERATION_CONFIG,
    PROCESSOR_CONFIG,
    PREPROCESSOR_CONFIG,
    "video_preprocessor_config.json",
    TOKENIZER,
    TOKENIZER_CONFIG,
    SPECIAL_TOKENS_MAP,
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    CHAT_TEMPLATE,
    LEGACY_CHAT_TEMPLATE,
    INDEX,
];

/// The directory of named templates.
const TEMPLATES: &str = "chat_templates/";

/// What is fetched first: everything but the weights.
///
/// # Errors
/// [`HubError::NoConfig`], [`HubError::NoSafetensors`].
pub(super) fn small<'a>(repository: &Repository, files: &'a [String]) -> Result<Vec<&'a str>, HubError> {
    let has = |name: &str| files.iter().any(|file| file == name);
    if !has(WEIGHTS) && !has(INDEX) {
        return Err(HubError::NoSafetensors { name: repository.to_string(), found: instead(files) });
    }
    if !has(CONFIG) {
        return Err(HubError::NoConfig { name: repository.to_string(), found: instead(files) });
    }
    let template = |file: &str| {
        file.strip_prefix(TEMPLATES).is_some_and(|name| name.ends_with(".jinja") && !name.contains('/'))
    };
    // One file with all weights comes before an index, here as in `Checkpoint::open`.
    let wanted = |file: &&str| (SMALL.contains(file) || template(file)) && !(*file == INDEX && has(WEIGHTS));
    let distinct: BTreeSet<&str> = files.iter().map(String::as_str).filter(wanted).collect();
    Ok(distinct.into_iter().collect())
}

/// The files of weights: one, or those that the index names, which lies at `index`.
///
/// # Errors
/// [`HubError::Index`], [`HubError::Shard`].
pub(super) fn weights(
    repository: &Repository,
    files: &[String],
    index: &Path,
) -> Result<Vec<String>, HubError> {
    if files.iter().any(|file| file == WEIGHTS) {
        return Ok(vec![WEIGHTS.to_owned()]);
    }
    let shards = shards(index)
        .map_err(|source| HubError::Index { name: repository.to_string(), source: Box::new(source) })?;
    let listed: BTreeSet<&str> = files.iter().map(String::as_str).collect();
    let stray = |shard: &&String| !shard.ends_with(".safetensors") || !listed.contains(shard.as_str());
    match shards.iter().find(stray) {
        Some(shard) => Err(HubError::Shard { name: repository.to_string(), shard: shard.clone() }),
        None => Ok(shards.into_iter().collect()),
    }
}

/// The files that an index names.
pub(super) fn shards(index: &Path) -> Result<BTreeSet<String>, crate::checkpoint::CheckpointError> {
    Ok(weight_map(index)?.into_values().collect())
}

/// What a repository has that might be weights, or else anything.
fn instead(files: &[String]) -> String {
    const WEIGHTS: [&str; 9] = ["safetensors", "gguf", "bin", "pt", "pth", "ckpt", "onnx", "h5", "msgpack"];
    let is_weights = |file: &&String| {
        Path::new(file.as_str()).extension().is_some_and(|of| WEIGHTS.iter().any(|weights| of == *weights))
    };
    let mut found: Vec<&String> = files.iter().filter(is_weights).collect();
    if found.is_empty() {
        found = files.iter().collect();
    }
    let names: Vec<String> = found.iter().take(5).map(|file| one_line(file, 80)).collect();
    match found.len().saturating_sub(names.len()) {
        0 if names.is_empty() => "no file at all".to_owned(),
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn repository() -> Repository {
        Repository::parse("a/b").unwrap()
    }

    #[test]
    fn only_what_a_build_reads_is_chosen() {
        let files = files(&[
            "config.json",
            "README.md",
            "pytorch_model.bin",
            "onnx/model.onnx",
            "onnx/config.json",
            "model.gguf",
            "training_args.bin",
            "tokenizer.json",
            "chat_templates/default.jinja",
            "chat_templates/x/y.jinja",
            "chat_templates/run.py",
            "model.safetensors",
            "model.safetensors.index.json",
            "modeling.py",
            "consolidated.safetensors",
            "optimizer.pt",
            "config.json",
        ]);
        let chosen = small(&repository(), &files).unwrap();
        assert_eq!(chosen, ["chat_templates/default.jinja", "config.json", "tokenizer.json"]);
        assert_eq!(weights(&repository(), &files, Path::new("none")).unwrap(), ["model.safetensors"]);
    }

    #[test]
    fn a_repository_without_weights_says_what_it_has() {
        let error = |names: &[&str]| small(&repository(), &files(names)).unwrap_err().to_string();
        let text = error(&["config.json", "README.md", "pytorch_model.bin"]);
        assert!(text.contains("a/b has no weights") && text.contains("found pytorch_model.bin;"), "{text}");
        assert!(text.contains("pickled"), "{text}");
        let text = error(&["a.gguf", "b.gguf", "c.gguf", "d.gguf", "e.gguf", "f.gguf", "g.gguf"]);
        assert!(text.contains("e.gguf and 2 more"), "{text}");
        assert!(error(&[]).contains("no file at all"));
        assert!(error(&["consolidated.safetensors", "config.json"]).contains("consolidated.safetensors"));
        assert!(error(&["model.safetensors", "readme"]).contains("no config.json"));
    }

    #[test]
    fn an_index_names_weight_files_of_the_repository() {
        let dir = tempfile::tempdir().unwrap();
        let index = dir.path().join("index.json");
        let files = files(&["1.safetensors", "2.safetensors", "3.safetensors", "pytorch_model.bin"]);
        let read = |map: serde_json::Value| {
            std::fs::write(&index, serde_json::json!({ "weight_map": map }).to_string()).unwrap();
            weights(&repository(), &files, &index)
        };
        let chosen =
            read(serde_json::json!({"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}));
        assert_eq!(chosen.unwrap(), ["1.safetensors", "2.safetensors"]);
        for (shard, expected) in [
            ("4.safetensors", "a .safetensors file that the repository has"),
            ("pytorch_model.bin", "a .safetensors file that the repository has"),
            ("../1.safetensors", "cannot be used"),
            ("/etc/passwd", "cannot be used"),
        ] {
            let error = read(serde_json::json!({ "a": shard })).unwrap_err().to_string();
            assert!(error.contains(expected), "{shard}: {error}");
        }
    }
}

//! A checkpoint as its family reads it, and what the manifest says of it. No family is named here.

use arrcoc_bundle::Target;
use arrcoc_bundle::manifest::{CacheElement, DecoderSpec};
use arrcoc_bundle::names::checkpoint::CONFIG;
use arrcoc_bundle::quote::Brief;
use arrcoc_models::config::ConfigError;
use arrcoc_models::families::{self, Composition, Files};

use super::error::BuildError;
use super::processor::ProcessorFiles;
use super::text::{Expected, Text, tokenizer_attributes};
use crate::checkpoint::{Checkpoint, LeftOut};

/// A checkpoint whose tensors are the ones that its family's networks ask for.
#[derive(Debug)]
pub(crate) struct Described {
    /// The networks.
    pub(crate) composition: Box<dyn Composition>,
    /// Tensors that no network reads, and why.
    pub(crate) left_out: Vec<LeftOut>,
}

impl Described {
    /// Reads the configuration, gives tensors the names that the networks use, and compares them with what
    /// the networks ask for.
    pub(crate) fn read(checkpoint: &mut Checkpoint) -> Result<Self, BuildError> {
        let composition = compose(checkpoint)?;
        checkpoint.rename(composition.renames())?;
        let left_out = checkpoint.expect(&composition.parameters(), composition.ignored())?;
        Ok(Self { composition, left_out })
    }

    /// Reads and checks the text files.
    pub(crate) fn text(&self, checkpoint: &Checkpoint) -> Result<Text, BuildError> {
        let expected = Expected {
            image_token_id: self.composition.vision().image_token_id,
            vocab_size: self.composition.decoder().vocab_size,
        };
        Ok(Text::read(checkpoint.dir(), checkpoint.config(), expected)?)
    }

    /// What the manifest says of the decoder.
    pub(super) fn decoder(
        &self,
        checkpoint: &Checkpoint,
        text: &Text,
        max_context: Option<usize>,
        target: Target,
    ) -> Result<DecoderSpec, BuildError> {
        let decoder = self.composition.decoder();
        let limit = decoder.max_positions;
        let context_length = max_context.unwrap_or(limit);
        if !(1..=limit).contains(&context_length) {
            return Err(BuildError::Context { found: context_length, limit });
        }
        decoder.check_context(context_length).map_err(|source| BuildError::Config {
            path: checkpoint.dir().join(CONFIG),
            source: Brief(source),
        })?;
        Ok(DecoderSpec {
            layers: decoder.layers,
            kv_heads: decoder.kv_heads,
            head_dim: decoder.cached_width(target),
            hidden_size: decoder.hidden_size,
            vocab_size: decoder.vocab_size,
            context_length,
            eos_token_ids: text.generation.eos_token_ids.clone(),
            cache_element: CacheElement::Fp32,
            deep_levels: decoder.deep_levels,
            recurrent: decoder.delta_net.as_ref().map(|net| net.spec(target)),
        })
    }
}

/// The networks of a checkpoint, as its configuration describes them; its tensors are not compared with them.
fn compose(checkpoint: &Checkpoint) -> Result<Box<dyn Composition>, BuildError> {
    let processors = ProcessorFiles::read(checkpoint.dir())?;
    let tokenizer = tokenizer_attributes(checkpoint.dir())?;
    let files = Files {
        config: checkpoint.config(),
        image_processor: &processors.image_processor,
        image_processor_file: processors.file,
        processor: &processors.rest,
        tokenizer: &tokenizer,
        has_tensor: Some(&|name| checkpoint.tensors().contains_key(name)),
    };
    families::read(&files).map_err(|source| {
        let path = match &source {
            // The message names the file that the section is.
            ConfigError::Value { section, .. } | ConfigError::Unknown { section, .. }
                if section.ends_with(".json") =>
            {
                checkpoint.dir().join(section)
            }
            _ => checkpoint.dir().join(CONFIG),
        };
        BuildError::Config { path, source: Brief(source) }
    })
}

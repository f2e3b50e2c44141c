//! A drawn checkpoint: its bundle, and what transformers answered.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use arrcoc_bundle::{Bundle, Precision, Target};
use arrcoc_export::build::{self, Options};
use arrcoc_export::calibrate::{Calibration, RangeMethod};
use arrcoc_export::progress::Progress;
use arrcoc_runtime::generate::{
    Budget, Conversation, Image, MaxTokens, Message, Part, Prompt, PromptReport, Request, Sampling,
    Selection, Sizing, Speaker,
};
use arrcoc_runtime::image::ImageLimits;
use arrcoc_runtime::model;
use arrcoc_runtime::vision::VisionOptions;
use safetensors::SafeTensors;
use serde_json::Value;

/// Exports a checkpoint for a target, in 32 bits.
pub(crate) fn build(dir: &Path, target: Target, out: &Path) -> Result<Bundle> {
    build_in(dir, (Precision::Fp32, target), None, out)
}

/// Exports a checkpoint in a precision.
pub(crate) fn build_in(
    dir: &Path,
    (precision, target): (Precision, Target),
    calibration: Option<Calibration>,
    out: &Path,
) -> Result<Bundle> {
    let options = Options {
        out: out.to_owned(),
        precision,
        target,
        weight_rules: Vec::new(),
        calibration,
        range: RangeMethod::Absmax,
        name: Some("drawn".to_owned()),
        max_context: Some(2048),
        force: false,
    };
    let built = build::build(&checkpoint(dir)?, &options, Progress::detect(true))?;
    Ok(Bundle::open(&built.bundle)?)
}

/// How it is served: nothing is remembered from one conversation to the next.
pub(crate) fn options() -> model::Options {
    model::Options {
        slots: 1,
        context_length: Some(2048),
        prefill_chunk: 100,
        vision: VisionOptions {
            feature_cache_bytes: 0,
            token_cache_bytes: 0,
            // One of the pictures is a line.
            limits: ImageLimits { max_aspect: 400, ..ImageLimits::default() },
            ..VisionOptions::default()
        },
        ..model::Options::default()
    }
}

/// What transformers made of one conversation.
pub(crate) struct Golden<'a> {
    pub(crate) case: &'a Value,
    pub(crate) tensors: SafeTensors<'a>,
}

impl Golden<'_> {
    pub(crate) fn name(&self) -> &str {
        self.case["name"].as_str().unwrap_or_default()
    }

    pub(crate) fn ids(&self, key: &str) -> Vec<u32> {
        let ids = self.case[key].as_array().into_iter().flatten();
        ids.filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect()
    }

    pub(crate) fn floats(&self, key: &str) -> Result<Option<Vec<f32>>> {
        let Some(name) = self.case["tensors"][key].as_str() else { return Ok(None) };
        let tensor = self.tensors.tensor(name)?;
        let floats = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        Ok(Some(floats.collect()))
    }

    pub(crate) fn integers(&self, key: &str) -> Result<Option<Vec<i64>>> {
        let Some(name) = self.case["tensors"][key].as_str() else { return Ok(None) };
        let tensor = self.tensors.tensor(name)?;
        let integer = |bytes: &[u8]| Ok(i64::from_le_bytes(bytes.try_into()?));
        tensor.data().chunks_exact(8).map(integer).collect::<Result<_>>().map(Some)
    }

    /// The conversation, as it would be asked for a greedy answer of so many tokens.
    pub(crate) fn request(&self, dir: &Path, tokens: usize) -> Result<Request> {
        Ok(Request {
            prompt: Prompt::Chat(Conversation {
                messages: messages(dir, &self.case["messages"], sizing(&self.case["mm_processor_kwargs"]))?,
                variables: self.case["chat_template_kwargs"].as_object().cloned().unwrap_or_default(),
                ..Conversation::default()
            }),
            budget: Budget::Full,
            selection: Selection::default(),
            explain: true,
            sampling: Sampling { temperature: 0.0, ignore_eos: true, ..Sampling::default() },
            choices: 1,
            max_tokens: MaxTokens::Exactly(tokens),
            stop: Vec::new(),
            top_logprobs: None,
            prompt_report: PromptReport::Nothing,
            form: None,
        })
    }
}

/// The checkpoint: a directory, or what a link of the hub's cache leads to.
pub(crate) fn checkpoint(dir: &Path) -> Result<PathBuf> {
    let plain = dir.join("checkpoint");
    if plain.join("config.json").exists() {
        return Ok(plain);
    }
    let snapshot = fs::read_dir(dir.join("snapshots"))?.next().context("no snapshot")??;
    Ok(snapshot.path())
}

/// The arguments of an image processor.
fn sizing(arguments: &Value) -> Sizing {
    let size = &arguments["size"];
    Sizing {
        min_pixels: arguments["min_pixels"].as_u64(),
        max_pixels: arguments["max_pixels"].as_u64(),
        shortest_edge: size["shortest_edge"].as_u64(),
        longest_edge: size["longest_edge"].as_u64(),
        do_image_splitting: arguments["do_image_splitting"].as_bool(),
        coarse: false,
        skip_blank: false,
    }
}

/// Messages in the form of OpenAI's API, whose images are files.
fn messages(dir: &Path, messages: &Value, sizing: Sizing) -> Result<Vec<Message>> {
    let part = |part: &Value| match part["type"].as_str() {
        Some("text") => Ok(Part::Text(part["text"].as_str().context("no text")?.to_owned())),
        _ => {
            let file = part["image_url"]["url"].as_str().context("no url")?;
            Ok(Part::Image(Image { sizing, ..fs::read(dir.join(file))?.into() }))
        }
    };
    let message = |message: &Value| {
        let speaker = match message["role"].as_str() {
            Some("system") => Speaker::System,
            Some("assistant") => Speaker::Assistant,
            _ => Speaker::User,
        };
        let content = match &message["content"] {
            Value::String(text) => vec![Part::Text(text.clone())],
            parts => parts.as_array().into_iter().flatten().map(part).collect::<Result<_>>()?,
        };
        let reasoning = message["reasoning_content"].as_str().map(str::to_owned);
        Ok(Message { reasoning, ..Message::new(speaker, content) })
    };
    messages.as_array().context("no messages")?.iter().map(message).collect()
}

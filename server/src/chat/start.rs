//! From a checked request to a running one: images are loaded, the runtime's request is made.

use std::sync::Arc;
use std::time::Instant;

use arrcoc_runtime::generate::{
    self, Conversation, FORM, Image, Part, Prompt, PromptReport, Request, Sampling, TOOLS,
};
use arrcoc_runtime::model::ModelInfo;

use super::{Chat, Message, Piece};
use crate::body::budget::Held;
use crate::body::files::Files;
use crate::error::ApiError;
use crate::generation::{Running, Started};
use crate::media::{self, Wanted};
use crate::state::{App, Serving};

/// A request that runs.
pub(crate) struct Asked {
    /// What it reports.
    pub(crate) running: Running,
    /// What is known of its prompt.
    pub(crate) started: Started,
}

/// Starts a request whose body takes `held` of the memory for bodies, and which arrived at `arrived`.
///
/// # Errors
/// What is wrong with it, in the words of its API.
pub(crate) async fn start(
    app: &App,
    serving: Arc<Serving>,
    chat: Chat,
    held: Held,
    arrived: Instant,
) -> Result<Asked, ApiError> {
    let names = chat.names;
    let request = request(app, serving.engine.info(), chat, Files::new(held)).await?;
    let started = Running::start(app, serving, arrived, request).await;
    let (running, started) = started.map_err(|error| {
        let renamed = error.renamed("max_tokens", names.max_tokens).renamed(FORM, names.form);
        renamed.renamed("messages", names.messages).renamed(TOOLS, names.tools)
    })?;
    Ok(Asked { running, started })
}

/// The prompt of a request in token ids, an image's placeholder once for every token that the image may get;
/// nothing is answered.
///
/// # Errors
/// As [`start`].
pub(crate) async fn prompt_ids(
    app: &App,
    serving: &Arc<Serving>,
    chat: Chat,
    held: Held,
) -> Result<Vec<u32>, ApiError> {
    let names = chat.names;
    let request = request(app, serving.engine.info(), chat, Files::new(held)).await?;
    let engine = Arc::clone(&serving.engine);
    let ids = tokio::task::spawn_blocking(move || engine.prompt_ids(&request)).await;
    let ids = ids.map_err(ApiError::internal)?;
    ids.map_err(|error| ApiError::from(error).renamed("messages", names.messages).renamed(TOOLS, names.tools))
}

/// Loads the images and builds the runtime's request.
async fn request(app: &App, info: &ModelInfo, mut chat: Chat, files: Files) -> Result<Request, ApiError> {
    let budget = chat.budget(&info.token_budgets, info.default_budget);
    let (files, loaded) = media::load(app, files, wanted(&mut chat.messages)).await?;
    let mut loaded = loaded.into_iter();
    let mut messages = std::mem::take(&mut chat.messages);
    super::calls::settle(&mut messages);
    let messages = messages.into_iter().map(|Message { role, content, reasoning, calls, call_id, name }| {
        let part = |piece| match piece {
            Piece::Text(text) => Some(Part::Text(text)),
            Piece::Image { coarse, .. } => {
                let image = |file| Part::Image(Image { file, sizing: chat.sizing_of(coarse) });
                loaded.next().map(image)
            }
        };
        let mut parts: Vec<Part> = content.into_iter().filter_map(part).collect();
        if info.images_first {
            // Stable: images keep their order, and so do texts.
            parts.sort_by_key(|part| matches!(part, Part::Text(_)));
        }
        generate::Message { speaker: role, content: parts, reasoning, calls, call_id, name }
    });
    let messages: Vec<_> = messages.collect();
    files.complete();
    Ok(Request {
        prompt: Prompt::Chat(Conversation { messages, variables: chat.variables, tools: chat.tools }),
        budget,
        selection: chat.selection,
        explain: chat.explain,
        sampling: chat.sampling.over(&Sampling::of(&info.generation)),
        choices: chat.choices,
        max_tokens: chat.max_tokens.limited_by(&info.generation),
        stop: chat.stop,
        top_logprobs: chat.top_logprobs,
        prompt_report: PromptReport::Nothing,
        form: chat.form,
    })
}

/// Takes the images' URLs out of messages.
fn wanted(messages: &mut [Message]) -> Vec<Wanted> {
    let pieces = messages.iter_mut().flat_map(|message| &mut message.content);
    let image = |piece: &mut Piece| match piece {
        Piece::Image { url, param, .. } => {
            Some(Wanted { url: std::mem::take(url), param: std::mem::take(param) })
        }
        Piece::Text(_) => None,
    };
    pieces.filter_map(image).collect()
}

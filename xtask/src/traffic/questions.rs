//! Good requests, and what their answers say: the same alone and in a crowd, whole and as a stream.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::http::Answer;
use super::pictures::{Picture, data_uri};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
/// Questions about the page that the repository ships, and what stands there where the checkpoint reads it;
/// others are compared with their own first answer only.
const ASKED: [(&str, Option<&str>); 4] = [
    ("Which number belongs to DZ?", Some("284")),
    ("What is written in the brown diamond?", Some("07")),
    ("What is in the cell at row A, column N?", None),
    ("What is the value of LD?", None),
];

/// A request that has one answer: greedy, or with a seed.
pub(crate) struct Question {
    pub(crate) path: &'static str,
    body: Value,
    /// What the answer must be, where the page says so.
    pub(crate) known: Option<&'static str>,
}

impl Question {
    fn new(path: &'static str, body: Value) -> Self {
        Self { path, body, known: None }
    }

    pub(crate) fn body(&self, stream: bool) -> Vec<u8> {
        let mut body = self.body.clone();
        if stream {
            body["stream"] = true.into();
        }
        body.to_string().into_bytes()
    }
}

fn about(picture: &str, text: &str, more: Value) -> Question {
    let content =
        json!([{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": text}]);
    chat(json!([{"role": "user", "content": content}]), more)
}

fn chat(messages: Value, more: Value) -> Question {
    let mut body = json!({"messages": messages, "temperature": 0, "max_tokens": 12});
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    Question::new(CHAT, body)
}

/// All kinds of good requests about the page at `path` and `pages` pages that are made of it.
pub(crate) fn all(path: &Path, pages: usize) -> Result<Vec<Question>> {
    let page = Picture::read(path)?;
    let original = data_uri(&page.png()?);
    let mut questions: Vec<Question> = ASKED
        .iter()
        .map(|(text, known)| Question { known: *known, ..about(&original, text, json!({})) })
        .collect();
    for index in 0..pages {
        let picture = data_uri(&page.shifted(8 + 16 * index % 320, 8 * index % 320).png()?);
        questions.push(about(&picture, ASKED[index % ASKED.len()].0, json!({})));
    }
    let text = |text: &str| json!([{"role": "user", "content": text}]);
    let sampled = |seed: u64| json!({"temperature": 1, "top_p": 0.9, "seed": seed});
    questions.extend([
        chat(text("Which number belongs to DZ?"), json!({})),
        chat(text("What is the value of LD?"), json!({"max_tokens": 40})),
        chat(
            json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]),
            json!({}),
        ),
        chat(text("Hello"), sampled(1)),
        chat(text("Hello"), sampled(2)),
        chat(text("Hello"), json!({"temperature": 1, "n": 3, "seed": 5})),
        chat(text("What?"), json!({"logprobs": true, "top_logprobs": 3})),
        chat(text("What?"), json!({"stop": ["1", "2"], "max_tokens": 20})),
        about(&original, ASKED[0].0, sampled(7)),
        about(&original, ASKED[1].0, json!({"n": 2, "temperature": 0.7, "seed": 9})),
        about(&original, ASKED[2].0, json!({"arrcoc": {"budget": 64}})),
        about(&original, ASKED[3].0, json!({"logprobs": true, "arrcoc": {"budget": 100}})),
        Question::new(COMPLETIONS, json!({"prompt": "Which number", "temperature": 0, "max_tokens": 8})),
        Question::new(
            COMPLETIONS,
            json!({"prompt": "Once", "temperature": 1, "seed": 3, "n": 2, "max_tokens": 8, "logprobs": 2}),
        ),
    ]);
    Ok(questions)
}

/// What an answer says, without what differs from one to the next: texts, ends, log-probabilities, and tokens
/// counted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Said {
    /// Text and reason of every choice.
    pub(crate) choices: Vec<(String, String)>,
    /// Of every choice; null in a stream's.
    logprobs: Vec<Value>,
    tokens: Option<[u64; 2]>,
}

impl Said {
    /// Reads an answer with status 200.
    pub(crate) fn whole(answer: &Answer) -> Result<Self> {
        let answer: Value = serde_json::from_slice(&answer.body).context("the answer is no JSON")?;
        let list = answer["choices"].as_array().context("the answer has no choices")?;
        let text = |choice: &Value| {
            let text = choice["message"]["content"].as_str().or(choice["text"].as_str());
            (text.unwrap_or_default().to_owned(), choice["finish_reason"].to_string())
        };
        let usage = &answer["usage"];
        Ok(Self {
            choices: list.iter().map(text).collect(),
            logprobs: list.iter().map(|choice| choice["logprobs"].clone()).collect(),
            tokens: usage["prompt_tokens"].as_u64().zip(usage["completion_tokens"].as_u64()).map(Into::into),
        })
    }

    /// Reads a stream, which must come to its end.
    pub(crate) fn stream(answer: &Answer, choices: usize) -> Result<Self> {
        let text = answer.text();
        let mut said = vec![(String::new(), "null".to_owned()); choices];
        let mut done = false;
        for event in text.lines().filter_map(|line| line.strip_prefix("data: ")) {
            if event == "[DONE]" {
                done = true;
                continue;
            }
            let event: Value = serde_json::from_str(event).context("an event is no JSON")?;
            ensure!(event["error"].is_null(), "the stream broke off: {}", event["error"]);
            for choice in event["choices"].as_array().into_iter().flatten() {
                let index = choice["index"].as_u64().unwrap_or(u64::MAX) as usize;
                let (text, reason) = said.get_mut(index).context("a choice that was not asked for")?;
                let piece = choice["delta"]["content"].as_str().or(choice["text"].as_str());
                text.push_str(piece.unwrap_or_default());
                if !choice["finish_reason"].is_null() {
                    *reason = choice["finish_reason"].to_string();
                }
            }
        }
        ensure!(done, "the stream has no end");
        Ok(Self { choices: said, logprobs: Vec::new(), tokens: None })
    }

    /// Whether both say the same; a stream is compared by texts and ends.
    pub(crate) fn equals(&self, other: &Self) -> bool {
        let either_streams = self.logprobs.is_empty() || other.logprobs.is_empty();
        if either_streams { self.choices == other.choices } else { self == other }
    }
}

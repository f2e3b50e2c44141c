//! The schemas of requests and answers.

use arrcoc_runtime::bundle::manifest::Precision;
use serde_json::{Value, json};

use super::schema;

/// `components.schemas`.
pub(super) fn schemas() -> Value {
    json!({
        "Error": error(),
        "ChatRequest": chat_request(),
        "Message": message(),
        "ChatCompletion": chat_completion(),
        "ChatCompletionChunk": chat_completion_chunk(),
        "CompletionRequest": completion_request(),
        "Completion": completion(),
        "StreamOptions": object(&[], json!({
            "include_usage": {"type": "boolean", "description": "End the stream with a chunk of token counts"},
        })),
        "Usage": usage(),
        "ChatLogprobs": chat_logprobs(),
        "Extension": extension(),
        "Explanation": explanation(),
        "Model": model(),
        "ModelList": list("Model"),
        "Engine": engine(),
        "EngineList": list("Engine"),
        "SwapRequest": swap_request(),
        "Swap": swap(),
        "Status": object(&["status"], json!({"status": {"type": "string"}})),
    })
}

fn object(required: &[&str], properties: Value) -> Value {
    json!({"type": "object", "required": required, "properties": properties})
}

fn list(name: &str) -> Value {
    object(
        &["object", "data"],
        json!({"object": {"const": "list"}, "data": {"type": "array", "items": schema(name)}}),
    )
}

fn error() -> Value {
    object(
        &["error"],
        json!({"error": object(&["message", "type", "param", "code"], json!({
            "message": {"type": "string"},
            "type": {"type": "string"},
            "param": {"type": ["string", "null"], "description": "The request field at fault"},
            "code": {"type": ["string", "null"]},
        }))}),
    )
}

/// The fields that both kinds of completion take.
fn sampling() -> Value {
    json!({
        "model": {"type": "string", "description": "Name of the model; the only one there is unless given"},
        "stream": {"type": "boolean", "default": false},
        "stream_options": schema("StreamOptions"),
        "max_tokens": {"type": "integer", "minimum": 1},
        "n": {"type": "integer", "minimum": 1, "default": 1},
        "temperature": {
            "type": ["number", "null"],
            "minimum": 0,
            "maximum": 2,
            "description": "0 is greedy; /v1/models lists the model's defaults of this and the next four",
        },
        "top_p": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1},
        "top_k": {"type": ["integer", "null"], "minimum": -1, "description": "0 and -1 keep all tokens"},
        "min_p": {
            "type": ["number", "null"],
            "minimum": 0,
            "maximum": 1,
            "description": "Keep tokens of at least this share of the likeliest one's probability",
        },
        "repetition_penalty": {"type": ["number", "null"], "minimum": 0.01, "maximum": 10},
        "presence_penalty": {"type": "number", "minimum": -2, "maximum": 2, "default": 0},
        "frequency_penalty": {"type": "number", "minimum": -2, "maximum": 2, "default": 0},
        "seed": {"type": "integer"},
        "min_tokens": {
            "type": "integer",
            "minimum": 0,
            "default": 0,
            "description": "No end token and none of stop_token_ids before so many tokens",
        },
        "ignore_eos": {"type": "boolean", "default": false, "description": "Go on past the model's own end tokens"},
        "stop_token_ids": {
            "type": "array",
            "maxItems": 128,
            "items": {"type": "integer", "minimum": 0},
            "description": "Ids that end an answer and are not part of its text",
        },
        "stop": {
            "oneOf": [{"type": "string"}, {"type": "array", "maxItems": 16, "items": {"type": "string"}}],
        },
    })
}

/// `sampling` with more fields.
fn request(required: &[&str], more: Value) -> Value {
    let mut properties = sampling();
    if let (Value::Object(properties), Value::Object(more)) = (&mut properties, more) {
        properties.extend(more);
    }
    object(required, properties)
}

fn chat_request() -> Value {
    request(
        &["messages"],
        json!({
            "messages": {"type": "array", "minItems": 1, "items": schema("Message")},
            "max_completion_tokens": {"type": "integer", "minimum": 1, "description": "Outranks max_tokens"},
            "logprobs": {"type": "boolean", "default": false},
            "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
            "arrcoc": schema("Extension"),
        }),
    )
}

fn completion_request() -> Value {
    request(
        &["prompt"],
        json!({
            "prompt": {"oneOf": [
                {"type": "string"},
                {"type": "array", "minItems": 1, "maxItems": 1, "items": {"type": "string"}},
            ]},
            "logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
        }),
    )
}

fn message() -> Value {
    let text = object(&["type", "text"], json!({"type": {"const": "text"}, "text": {"type": "string"}}));
    let url = "data:image/TYPE;base64,DATA, or an https URL of a host in images.allow_hosts";
    let image = object(
        &["type", "image_url"],
        json!({
            "type": {"const": "image_url"},
            "image_url": {"oneOf": [
                {"type": "string", "description": url},
                object(&["url"], json!({
                    "url": {"type": "string", "description": url},
                    "detail": {
                        "enum": ["low", "high", "auto", null],
                        "description": "`low` on every image is the smallest budget, unless arrcoc.budget is set",
                    },
                })),
            ]},
        }),
    );
    object(
        &["role"],
        json!({
            "role": {"enum": ["system", "developer", "user", "assistant"]},
            "content": {
                "oneOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"oneOf": [text, image]}},
                    {"type": "null"},
                ],
                "description": "Null or absent only for the assistant, and then empty. Where the model was trained image \
                    first (`images_first` of /v1/models), images go before the text of their message, in their order",
            },
        }),
    )
}

/// The fields that every answer and chunk has.
fn answer(name: &str, choice: Value, more: Value) -> Value {
    let mut properties = json!({
        "id": {"type": "string"},
        "object": {"const": name},
        "created": {"type": "integer", "description": "Seconds since 1970"},
        "model": {"type": "string"},
        "system_fingerprint": {"type": "string", "description": "Checkpoint, precision and target"},
        "choices": {"type": "array", "items": choice},
    });
    if let (Value::Object(properties), Value::Object(more)) = (&mut properties, more) {
        properties.extend(more);
    }
    object(&["id", "object", "created", "model", "choices"], properties)
}

fn finish_reason() -> Value {
    json!({"enum": ["stop", "length", null]})
}

fn or_null(name: &str) -> Value {
    json!({"oneOf": [schema(name), {"type": "null"}]})
}

fn chat_completion() -> Value {
    let message = object(
        &["role", "content"],
        json!({"role": {"const": "assistant"}, "content": {"type": "string"}, "refusal": {"type": "null"}}),
    );
    let choice = object(
        &["index", "message", "finish_reason"],
        json!({
            "index": {"type": "integer"},
            "message": message,
            "logprobs": or_null("ChatLogprobs"),
            "finish_reason": finish_reason(),
        }),
    );
    answer("chat.completion", choice, json!({"usage": schema("Usage"), "arrcoc": schema("Explanation")}))
}

fn chat_completion_chunk() -> Value {
    let delta = object(&[], json!({"role": {"const": "assistant"}, "content": {"type": "string"}}));
    let choice = object(
        &["index", "delta", "finish_reason"],
        json!({
            "index": {"type": "integer"},
            "delta": delta,
            "logprobs": or_null("ChatLogprobs"),
            "finish_reason": finish_reason(),
        }),
    );
    answer(
        "chat.completion.chunk",
        choice,
        json!({"usage": or_null("Usage"), "arrcoc": schema("Explanation")}),
    )
}

fn completion() -> Value {
    let numbers = json!({"type": "array", "items": {"type": "number"}});
    let logprobs = json!({"oneOf": [{"type": "null"}, object(&[], json!({
        "tokens": {"type": "array", "items": {"type": "string"}},
        "token_logprobs": numbers,
        "top_logprobs": {
            "type": "array",
            "items": {"type": "object", "additionalProperties": {"type": "number"}},
        },
        "text_offset": numbers,
    }))]});
    let choice = object(
        &["index", "text", "finish_reason"],
        json!({
            "index": {"type": "integer"},
            "text": {"type": "string"},
            "logprobs": logprobs,
            "finish_reason": finish_reason(),
        }),
    );
    answer("text_completion", choice, json!({"usage": or_null("Usage")}))
}

fn chat_logprobs() -> Value {
    let token = json!({
        "token": {"type": "string"},
        "logprob": {"type": "number"},
        "bytes": {"type": "array", "items": {"type": "integer"}},
    });
    let mut chosen = token.clone();
    chosen["top_logprobs"] = json!({"type": "array", "items": object(&["token", "logprob"], token)});
    object(
        &["content"],
        json!({"content": {"type": "array", "items": object(&["token", "logprob"], chosen)}}),
    )
}

fn usage() -> Value {
    let count = json!({"type": "integer"});
    object(
        &["prompt_tokens", "completion_tokens", "total_tokens"],
        json!({
            "prompt_tokens": count,
            "completion_tokens": count,
            "total_tokens": count,
            "prompt_tokens_details": object(&[], json!({
                "cached_tokens": count,
                "visual_tokens": {"type": "integer", "description": "Tokens that images got"},
                "image_tokens": {"type": "integer", "description": "The same, under other servers' name"},
            })),
        }),
    )
}

fn extension() -> Value {
    let mut extension = object(
        &[],
        json!({
            "budget": {
                "description": "Visual tokens per image: `auto` lets the question decide, numbers are those of /v1/models",
                "default": "auto",
                "oneOf": [{"const": "auto"}, {"type": "integer", "minimum": 1}, {"type": "null"}],
            },
            "explain": {
                "type": ["boolean", "null"],
                "default": false,
                "description": "Return where the tokens went",
            },
        }),
    );
    extension["additionalProperties"] = false.into();
    extension
}

fn explanation() -> Value {
    let number = json!({"type": "number"});
    let place = object(
        &["rect", "relevance", "gist", "knowing"],
        json!({
            "rect": {
                "type": "array",
                "items": number,
                "description": "Left, top, right, bottom in pixels of the original image",
            },
            "relevance": {"type": "number", "minimum": 0, "maximum": 1},
            "gist": {"type": "boolean", "description": "A cell of the coarse grid rather than a patch"},
            "knowing": {"type": "array", "items": number, "description": "The three scorers at this place"},
        }),
    );
    let weights = json!({"propositional": number, "perspectival": number, "participatory": number});
    let image = object(
        &["tier", "tokens", "tension_weights", "places"],
        json!({
            "tier": {"type": "integer"},
            "tokens": {"type": "integer"},
            "tier_logits": {"type": "array", "items": number},
            "tension_weights": object(&["propositional", "perspectival", "participatory"], weights),
            "image_size": {"type": "array", "items": {"type": "integer"}, "description": "Width and height"},
            "places": {"type": "array", "items": place},
        }),
    );
    object(&["images"], json!({"images": {"type": "array", "items": image}}))
}

fn model() -> Value {
    object(
        &["id", "object", "created", "owned_by"],
        json!({
            "id": {"type": "string"},
            "object": {"const": "model"},
            "created": {"type": "integer"},
            "owned_by": {"type": "string"},
            "max_model_len": {"type": "integer", "description": "Longest prompt plus answer, tokens"},
            "arrcoc": object(&[], json!({
                "precision": {"type": "string"},
                "target": {"type": "string"},
                "token_budgets": {"type": "array", "items": {"type": "integer"}},
                "max_images": {"type": "integer"},
                "images_first": {
                    "type": "boolean",
                    "description": "Whether images go before the text of their message",
                },
                "defaults": object(&[], json!({
                    "temperature": {"type": "number"},
                    "top_p": {"type": "number"},
                    "top_k": {"type": "integer"},
                    "min_p": {"type": "number"},
                    "repetition_penalty": {"type": "number"},
                    "max_tokens": {"type": ["integer", "null"]},
                })),
            })),
        }),
    )
}

fn engine() -> Value {
    object(
        &["state"],
        json!({
            "model": {"type": "string"},
            "precision": {"type": "string"},
            "target": {"type": "string"},
            "runtime": {"type": "string"},
            "checkpoint_sha256": {"type": "string"},
            "state": {"enum": [
                "loading", "ready", "draining", "unhealthy", "kept", "unloading", "available", "unusable",
            ]},
            "since": {"type": "integer", "description": "Seconds since 1970"},
            "directory": {"type": ["string", "null"], "description": "Of an engine that is not loaded"},
            "reason": {"type": "string", "description": "Why an engine cannot be used"},
            "context_length": {"type": "integer"},
            "token_budgets": {"type": "array", "items": {"type": "integer"}},
            "kv_slots": {"type": "integer"},
            "memory": object(&[], json!({
                "weight_bytes": {"type": "integer"},
                "kv_bytes": {"type": "integer"},
            })),
            "load": object(&[], json!({
                "running": {"type": "integer"},
                "waiting": {"type": "integer"},
                "kv_usage": {"type": "number"},
            })),
        }),
    )
}

fn swap_request() -> Value {
    let mut request = object(
        &["precision"],
        json!({
            "model": {"type": ["string", "null"], "description": "The model's name in its bundle; the one in service unless given"},
            "precision": {"enum": Precision::ALL},
        }),
    );
    request["additionalProperties"] = false.into();
    request
}

fn swap() -> Value {
    object(
        &["changed", "seconds", "engine"],
        json!({
            "changed": {"type": "boolean", "description": "False when it was in service already"},
            "seconds": {"type": "number", "description": "From the order to the switch"},
            "engine": schema("Engine"),
        }),
    )
}

//! Names of fields of completions that are not read: refused ones, and ones without effect.

use crate::fields::{Refused, refused};

const OTHER_FORM: &str = "it is `response_format` or `structured_outputs` here";
const NO_IMAGES: &str =
    "send images as parts of a message: {\"type\": \"image_url\", \"image_url\": {\"url\": \"data:...\"}}";
const NO_TEMPLATE: &str = "the prompt is written by the model's own template; leave it out";
const NO_TEMPLATE_HERE: &str = "the prompt of a text is its own template, and its answer is not taken apart; /v1/chat/completions is for chats";
const NO_TOOLS_HERE: &str = "/v1/chat/completions takes tools";
const NO_THINK: &str = "it is `enable_thinking` or `reasoning_effort` here";
const NO_SAMPLER: &str = "leave it out; temperature, top_p, top_k, min_p and the penalties are there";
const NO_OTHER_NAME: &str = "this is not its name here";

/// Of both kinds of completion.
#[rustfmt::skip]
pub(super) const REFUSED: &[Refused] = &[
    refused("grammar", &[], OTHER_FORM),
    refused("json_schema", &[], OTHER_FORM),
    refused("format", &[], OTHER_FORM),
    refused("bad_words", &[], NO_SAMPLER),
    refused("allowed_token_ids", &[], NO_SAMPLER),
    refused("logits_processors", &[], NO_SAMPLER),
    refused("use_beam_search", &[], NO_SAMPLER),
    refused("length_penalty", &["1", "1.0"], NO_SAMPLER),
    refused("typical_p", &["1", "1.0"], NO_SAMPLER),
    refused("mirostat", &["0"], NO_SAMPLER),
    refused("xtc_probability", &["0", "0.0"], NO_SAMPLER),
    refused("dry_multiplier", &["0", "0.0"], NO_SAMPLER),
    refused("repeat_penalty", &["1", "1.0"], "it is `repetition_penalty` here"),
    refused("max_new_tokens", &[], "it is `max_tokens` here"),
    refused("max_output_tokens", &[], "it is `max_tokens` here"),
    refused("max_length", &[], "`max_tokens` is the length of the answer"),
    refused("stop_sequences", &["[]"], "it is `stop` here"),
    refused("do_sample", &[], "`temperature` above 0 samples, 0 does not"),
    refused("num_beams", &["1"], NO_SAMPLER),
    refused("num_ctx", &[], "the context is the server's (engine.context_length)"),
    refused("tfs_z", &["1", "1.0"], NO_SAMPLER),
    refused("top_a", &["0", "0.0"], NO_SAMPLER),
    refused("samplers", &[], NO_SAMPLER),
    refused("detokenize", &["true"], "answers are text; `logprobs` names the tokens"),
    refused("n_predict", &[], "it is `max_tokens` here"),
    refused("num_predict", &[], "it is `max_tokens` here"),
    refused("options", &[], "send what it holds as fields of the request, under their OpenAI names"),
    refused("extra_body", &[], "send what it holds as fields of the request"),
    refused("images", &[], NO_IMAGES),
    refused("image", &[], NO_IMAGES),
    refused("image_url", &[], NO_IMAGES),
    refused("prompt_logprobs", &[], "`logprobs` gives those of the answer"),
    refused("truncate_prompt_tokens", &[], "shorten the prompt yourself"),
    refused("include_stop_str_in_output", &[], "append the stop string yourself"),
    refused("skip_special_tokens", &["true"], "control tokens are no text here"),
    refused("return_token_ids", &[], "`logprobs` names the tokens"),
    refused("return_tokens_as_token_ids", &[], "`logprobs` names the tokens"),
    refused("suffix", &["\"\""], "the model only goes on from the prompt's end"),
];

/// Of chats alone.
#[rustfmt::skip]
pub(super) const REFUSED_IN_CHATS: &[Refused] = &[
    refused("best_of", &["1"], "ask for `n` answers and choose among them"),
    refused("echo", &[], "/v1/completions has it"),
    refused("modalities", &["[\"text\"]"], "only [\"text\"] is"),
    refused("audio", &[], "answers are text"),
    refused("web_search_options", &[], "leave it out"),
    refused("continue_final_message", &[], NO_TEMPLATE),
    refused("add_generation_prompt", &["true"], NO_TEMPLATE),
    refused("chat_template", &[], NO_TEMPLATE),
    refused("documents", &[], "write the documents into a message"),
    refused("add_special_tokens", &[], NO_TEMPLATE),
    refused("prompt", &[], "chats have `messages`; /v1/completions takes a prompt"),
    refused("input", &[], "chats have `messages`"),
    refused("system", &[], "send a message of the role system"),
    refused("think", &[], NO_THINK),
    refused("reasoning", &[], NO_THINK),
    refused("thinking_budget", &[], "`max_tokens` counts thoughts too"),
    refused("thinking_token_budget", &[], "`max_tokens` counts thoughts too"),
    refused("separate_reasoning", &["true"], "thoughts come in `reasoning_content`, or not at all: `include_reasoning`"),
    refused("include_thinking", &["true"], "it is `include_reasoning` here"),
    refused("budget", &[], "it is `arrcoc.budget`: {\"arrcoc\": {\"budget\": 64}}"),
    refused("explain", &[], "it is `arrcoc.explain`: {\"arrcoc\": {\"explain\": true}}"),
];

/// Of text completions alone.
pub(super) const REFUSED_IN_TEXTS: &[Refused] = &[
    refused("messages", &[], "/v1/chat/completions takes messages"),
    refused("tools", &[], NO_TOOLS_HERE),
    refused("tool_choice", &["\"none\"", "\"auto\""], NO_TOOLS_HERE),
    refused("functions", &[], NO_TOOLS_HERE),
    refused("function_call", &["\"none\"", "\"auto\""], NO_TOOLS_HERE),
    refused("add_special_tokens", &["true"], "control tokens in the prompt count; leave it out"),
    refused("max_completion_tokens", &[], NO_OTHER_NAME),
    refused("arrcoc", &[], "a text has no images"),
    refused("mm_processor_kwargs", &[], "a text has no images"),
    refused("chat_template_kwargs", &[], NO_TEMPLATE_HERE),
    refused("enable_thinking", &[], NO_TEMPLATE_HERE),
    refused("thinking", &[], NO_TEMPLATE_HERE),
    refused("include_reasoning", &["true"], NO_TEMPLATE_HERE),
];

/// Fields that are taken and change no answer.
#[rustfmt::skip]
pub(super) const WITHOUT_EFFECT: &[&str] = &[
    // Who asks, for the provider's own books.
    "user", "metadata", "store", "safety_identifier", "request_id", "safe_prompt",
    // How soon and where it is computed.
    "service_tier", "priority", "cache_salt", "cache_prompt", "prompt_cache_key", "prompt_cache_retention", "keep_alive",
    "prediction", "kv_transfer_params", "timings_per_token",
    // For models that know of it.
    "verbosity",
    // What /tokenize takes beside a chat.
    "return_token_strs",
    // How answers are bound to a form elsewhere.
    "guided_decoding_backend", "spaces_between_special_tokens",
];

/// Fields of other APIs that would change an answer, for those that do not have them.
#[rustfmt::skip]
pub(crate) const ELSEWHERE: &[Refused] = &[
    refused("guided_json", &[], ELSE), refused("guided_regex", &[], ELSE), refused("guided_choice", &[], ELSE),
    refused("guided_grammar", &[], ELSE), refused("structured_outputs", &[], ELSE), refused("bad_words", &[], ELSE),
    refused("continue_final_message", &[], ELSE), refused("echo", &[], ELSE), refused("prompt_logprobs", &[], ELSE),
    refused("best_of", &["1"], ELSE), refused("functions", &[], ELSE), refused("function_call", &[], ELSE),
    refused("chat_template", &[], ELSE), refused("chat_template_kwargs", &[], ELSE), refused("mm_processor_kwargs", &[], ELSE),
    refused("suffix", &["\"\""], ELSE), refused("grammar", &[], ELSE), refused("json_schema", &[], ELSE),
];

/// Sampling fields that only OpenAI's APIs have.
#[rustfmt::skip]
pub(crate) const SAMPLING_ELSEWHERE: &[Refused] = &[
    refused("ignore_eos", &[], ELSE), refused("min_tokens", &["0"], ELSE), refused("stop_token_ids", &[], ELSE),
    refused("logit_bias", &[], ELSE), refused("repetition_penalty", &["1", "1.0"], ELSE), refused("min_p", &["0", "0.0"], ELSE),
    refused("presence_penalty", &["0", "0.0"], ELSE), refused("frequency_penalty", &["0", "0.0"], ELSE),
];

const ELSE: &str = "/v1/chat/completions and /v1/completions are where it may be";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::sampling::Shared;

    #[test]
    fn no_name_is_in_two_lists() {
        for of_one_kind in [REFUSED_IN_CHATS, REFUSED_IN_TEXTS] {
            let mut names: Vec<&str> =
                REFUSED.iter().chain(of_one_kind).map(|refused| refused.name).collect();
            names.extend(WITHOUT_EFFECT);
            names.extend(Shared::NAMES);
            names.sort_unstable();
            let twice = names.windows(2).find(|pair| pair[0] == pair[1]);
            assert_eq!(twice, None);
        }
    }
}

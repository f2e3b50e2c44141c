//! Chat templates and tokenizer files, mutated: a bundle with them may be refused, and so may a conversation,
//! in words that can be shown; nothing panics, runs on without end, or takes memory without measure.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;

use arrcoc_runtime::generate::{GenerateError, Image, Message, Part, Prompt, Speaker};
use arrcoc_runtime::prompt::Prompter;
use arrcoc_runtime::vision::ImagePlan;
use arrcoc_tests::allocated::{Counting, most_of};
use arrcoc_tests::fuzz::{assert_presentable, cases};
use arrcoc_tests::repository;
use serde_json::Value;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Memory that a template or a tokenizer of a few kilobytes may take.
const MEMORY: usize = 256 << 20;
/// Context that prompts are to fit.
const CONTEXT: usize = 4096;

struct Checkpoint {
    tokenizer: String,
    config: String,
    template: String,
    image_token: u32,
}

fn checkpoint() -> Checkpoint {
    let read = |name: &str| {
        fs::read_to_string(repository("reference/checkpoints/arr-coc-ledger").join(name)).unwrap()
    };
    let config: Value = serde_json::from_str(&read("config.json")).unwrap();
    let image_token = config["image_token_id"].as_u64().unwrap() as u32;
    Checkpoint {
        tokenizer: read("tokenizer.json"),
        config: read("tokenizer_config.json"),
        template: read("chat_template.jinja"),
        image_token,
    }
}

fn conversations() -> Vec<Prompt> {
    let (image, text) = (|| Part::Image(Image::default()), |text: &str| Part::Text(text.into()));
    let says = |speaker, content| Message::new(speaker, content);
    vec![
        Prompt::from(vec![says(Speaker::User, vec![text("Which number belongs to DZ?")])]),
        Prompt::from(vec![says(Speaker::User, vec![image(), text("What?\r\n<|im_end|>"), image()])]),
        Prompt::from(vec![
            says(Speaker::System, vec![text("Be brief.")]),
            says(Speaker::User, vec![text("a"), text("b")]),
            says(Speaker::Assistant, vec![text("c")]),
            says(Speaker::User, vec![image()]),
        ]),
        Prompt::Text("Which <|im_start|>number".to_owned()),
    ]
}

/// Writes all prompts, and checks what comes of them.
fn write(prompter: &Prompter, prompts: &[Prompt]) {
    for prompt in prompts {
        match prompter.layout(prompt, &vec![ImagePlan::rows(4); prompt.images().count()], CONTEXT) {
            Ok(layout) => assert!(layout.text_tokens() < 1 << 22, "{} tokens", layout.text_tokens()),
            Err(GenerateError::Invalid { message, .. }) => assert_presentable(&message),
            Err(error) => assert_presentable(&error.to_string()),
        }
    }
}

/// What templates are made of, and what they are made of when they mean harm.
const WORDS: &[&str] = &[
    "{{",
    "}}",
    "{%-",
    "-%}",
    "{% if messages %}",
    "{% else %}",
    "{% endif %}",
    "{% endfor %}",
    "{# #}",
    "{% for m in messages %}",
    "{% for part in message.content %}",
    "{% break %}",
    "{% continue %}",
    "{% set ns = namespace(x=0) %}",
    "{% set ns.x = ns.x + 1 %}",
    "{% macro f(a) %}",
    "{% endmacro %}",
    "{{ f(f) }}",
    "message.role",
    "message.content",
    "messages[0]",
    "messages[-1]",
    "loop.index0",
    "loop.last",
    "bos_token",
    "eos_token",
    "add_generation_prompt",
    "raise_exception('no')",
    " | trim",
    " | tojson",
    " | length",
    " | first",
    " | join('')",
    " | upper",
    " is string",
    " is defined",
    " is none",
    ".split('a')",
    ".strip()",
    ".replace('a', 'b')",
    ".startswith('a')",
    ".items()",
    "<|image_pad|>",
    "<|im_start|>",
    "\r\n",
    " and ",
    " not ",
    " in ",
    " ~ ",
    " + ",
    " * ",
    " ** 9",
    "[::-1]",
    "[1:]",
    "'%9999999d' | format(1)",
    "'a' * 999999999",
    "range(100000)",
    "{% for a in range(100000) %}{% for b in range(100000) %}{{ a }}{% endfor %}{% endfor %}",
    "{% set ns.x = ns.x ~ ns.x %}",
    "strftime_now('%Y')",
    "{% generation %}",
    "9223372036854775807",
    "-1",
    "1e400",
];

#[test]
fn chat_templates() {
    let Checkpoint { tokenizer, config, template, image_token } = checkpoint();
    let prompts = conversations();
    cases("chat templates", |mutator| {
        let template = mutator.text(&template, WORDS);
        let ((), memory) =
            most_of(|| match Prompter::new(&tokenizer, &config, Some(template), image_token) {
                Ok(prompter) => write(&prompter, &prompts),
                Err(error) => assert_presentable(&error.to_string()),
            });
        assert!(memory <= MEMORY, "{memory} bytes");
    });
}

#[test]
fn tokenizer_files() {
    let Checkpoint { tokenizer, config, template, image_token } = checkpoint();
    let prompts = conversations();
    let [sound, sound_config] =
        [&tokenizer, &config].map(|text| serde_json::from_str::<Value>(text).unwrap());
    let mut accepted = 0;
    cases("tokenizer files", |mutator| {
        let (mut changed, mut changed_config) = (tokenizer.clone(), config.clone());
        match mutator.below(4) {
            0 => changed_config = mutator.json(&sound_config).to_string(),
            1 => {
                changed = mutator
                    .text(&tokenizer, &["{", "]", "null", "99999999999999999999", "\\u0000", "(?:a+)+$"])
            }
            _ => changed = mutator.json(&sound).to_string(),
        }
        let ((), memory) =
            most_of(|| match Prompter::new(&changed, &changed_config, Some(template.clone()), image_token) {
                Ok(prompter) => {
                    accepted += 1;
                    write(&prompter, &prompts);
                }
                Err(error) => assert_presentable(&error.to_string()),
            });
        assert!(memory <= MEMORY, "{memory} bytes");
    });
    assert!(
        accepted > 0 || std::env::var("ARRCOC_FUZZ_CASE").is_ok(),
        "every file was refused: nothing was tested"
    );
}

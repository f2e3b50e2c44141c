//! Prompts held against transformers: many templates times many conversations
//! (`reference/prompts/make_table.py`).

use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use super::jinja::Moment;
use super::template::Reads;
use super::*;
use crate::generate::{Function, Image, Message, Part, Speaker, ToolCall, Tools};

/// The reference's clock; the test checks that it is the table's.
const NOW: i64 = 1_770_091_506;

fn part(part: &Json) -> Part {
    match part["text"].as_str() {
        Some(text) => Part::Text(text.into()),
        None => Part::Image(Image::default()),
    }
}

fn message(message: &Json) -> Message {
    let speaker = match message["role"].as_str() {
        Some("system") => Speaker::System,
        Some("assistant") => Speaker::Assistant,
        Some("tool") => Speaker::Tool,
        _ => Speaker::User,
    };
    let content = match &message["content"] {
        Json::String(text) => vec![Part::Text(text.clone())],
        parts => parts.as_array().unwrap().iter().map(part).collect(),
    };
    let reasoning = message["reasoning_content"].as_str().map(str::to_owned);
    let text = |json: &Json| json.as_str().map(str::to_owned);
    let call = |call: &Json| ToolCall {
        id: text(&call["id"]),
        name: text(&call["function"]["name"]).unwrap(),
        arguments: call["function"]["arguments"].clone(),
    };
    let calls = message["tool_calls"].as_array().into_iter().flatten().map(call).collect();
    let (call_id, name) = (text(&message["tool_call_id"]), text(&message["name"]));
    Message { reasoning, calls, call_id, name, ..Message::new(speaker, content) }
}

/// Tools as a request has them.
fn tools(list: &Json) -> Tools {
    let function = |tool: &Json| Function {
        name: tool["function"]["name"].as_str().unwrap().into(),
        parameters: Some(tool["function"]["parameters"].clone()),
        described: tool.clone(),
    };
    Tools { functions: list.as_array().unwrap().iter().map(function).collect(), ..Tools::default() }
}

fn digest(ids: &[u32]) -> String {
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    arrcoc_bundle::hex(&Sha256::digest(bytes))[..12].to_owned()
}

/// What one cell of the table is here.
#[derive(Default)]
struct Counts {
    equal: usize,
    errors_in_both: usize,
    ids_equal: usize,
    differing: Vec<String>,
}

fn check(counts: &mut Counts, prompters: &[Prompter], conversation: &Conversation, cell: &Json, place: &str) {
    let rendered = prompters[0].template.render(conversation);
    let (rendered, expected) = match (rendered, cell["prompt"].as_str()) {
        (Ok(rendered), Some(expected)) => (rendered, expected),
        (Err(_), None) => return counts.errors_in_both += 1,
        (Err(error), Some(expected)) => {
            return counts.differing.push(format!("{place}: {error}; transformers writes {expected:?}"));
        }
        (Ok(rendered), None) => {
            let error = &cell["error"];
            return counts
                .differing
                .push(format!("{place}: {:?}; transformers has {error}", rendered.as_str()));
        }
    };
    if rendered.as_str() != expected {
        return counts.differing.push(format!("{place}:\n  {:?}\n  {expected:?}", rendered.as_str()));
    }
    counts.equal += 1;
    for (prompter, (backend, expected)) in
        prompters.iter().zip(cell["ids"].as_array().unwrap().iter().enumerate())
    {
        let begun =
            prompter.template.token("bos_token").is_some_and(|bos| rendered.as_str().starts_with(bos));
        let ids = prompter.tokenizer.encode_rendered(rendered.as_str(), rendered.ranges(), !begun).unwrap();
        if digest(&ids) == expected.as_str().unwrap() {
            counts.ids_equal += 1;
        } else {
            counts
                .differing
                .push(format!("{place}, tokenizer {backend}: {ids:?} for {:?}", rendered.as_str()));
        }
    }
}

#[test]
fn prompts_equal_transformers() {
    let table: Json = serde_json::from_str(include_str!("table.json")).unwrap();
    assert_eq!(table["now"].as_i64().unwrap(), NOW);
    let conversations: Vec<(&str, Conversation)> = table["conversations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|conversation| {
            let messages = conversation["messages"].as_array().unwrap().iter().map(message).collect();
            let variables = conversation["variables"].as_object().unwrap().clone();
            (
                conversation["title"].as_str().unwrap(),
                Conversation { messages, variables, ..Conversation::default() },
            )
        })
        .collect();
    let calling: Vec<(&str, Conversation)> = table["tool_conversations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|conversation| {
            let messages = conversation["messages"].as_array().unwrap().iter().map(message).collect();
            let tools = tools(&conversation["tools"]);
            (
                conversation["title"].as_str().unwrap(),
                Conversation { messages, tools, ..Conversation::default() },
            )
        })
        .collect();
    let backends: Vec<String> = table["backends"].as_array().unwrap().iter().map(Json::to_string).collect();
    let (mut counts, mut refused, mut templates) = (Counts::default(), Vec::new(), 0);
    for row in table["templates"].as_array().unwrap() {
        let name = row["name"].as_str().unwrap();
        let load = |backend: &String| {
            let image_token = row["image"].as_str().unwrap();
            let image = Tokenizer::from_bytes(backend).unwrap().token_to_id(image_token).unwrap();
            let template = row["template"].as_str().unwrap().to_owned();
            let mut prompter = Prompter::new(backend, &row["config"].to_string(), Some(template), image)?;
            prompter.template.set_clock(|| Moment(NOW));
            Ok::<_, LoadError>(prompter)
        };
        let prompters = match backends.iter().map(load).collect::<Result<Vec<_>, _>>() {
            Ok(prompters) => prompters,
            Err(error) => {
                refused.push(format!("{name}: {error}"));
                continue;
            }
        };
        templates += 1;
        let reads = match row["reads"].as_str() {
            Some("strings") => Reads { strings: true, lists: false },
            Some("lists") => Reads { strings: false, lists: true },
            _ => Reads { strings: true, lists: true },
        };
        if prompters[0].template.reads != reads {
            counts.differing.push(format!("{name}: {:?}, expected {reads:?}", prompters[0].template.reads));
        }
        for ((title, conversation), cell) in conversations.iter().zip(row["cells"].as_array().unwrap()) {
            check(&mut counts, &prompters, conversation, cell, &format!("{name}, {title}"));
        }
        let Some(cells) = row["tool_cells"].as_array() else { continue };
        let syntax = serde_json::to_value(prompters[0].tool_syntax()).unwrap();
        if syntax != row["syntax"] {
            counts
                .differing
                .push(format!("{name}: calls in the syntax {syntax}, expected {}", row["syntax"]));
        }
        for ((title, conversation), cell) in calling.iter().zip(cells) {
            check(&mut counts, &prompters, conversation, cell, &format!("{name}, {title}"));
        }
    }
    let Counts { equal, errors_in_both, ids_equal, differing } = &counts;
    println!("transformers {}, jinja2 {}", table["transformers"], table["jinja2"]);
    println!(
        "| templates | prompts equal | refused by both | token ids equal | differ | refused when loaded |"
    );
    println!("|---|---|---|---|---|---|");
    println!(
        "| {templates} | {equal} | {errors_in_both} | {ids_equal} | {} | {} |",
        differing.len(),
        refused.len()
    );
    println!("{}", refused.join("\n"));
    assert!(differing.is_empty(), "{} differ:\n{}", differing.len(), differing.join("\n"));
    assert!(refused.is_empty(), "{refused:?}");
}

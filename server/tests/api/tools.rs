//! Tools: what clients say of them reaches the engine, what the engine calls reaches clients, and slips are
//! refused by name.

use arrcoc_runtime::generate::{CallPiece, Conversation, Event, FinishReason, Prompt, Speaker, ToolChoice};
use serde_json::{Value, json};

use crate::fake::{Fake, Service, Step, done, finished, hello, service, started, token};

fn tool(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name, "description": "d", "parameters": {"type": "object"}}})
}

async fn conversation(service: &Service, fields: &Value) -> Conversation {
    let reply = service.chat(fields.clone()).await;
    assert_eq!(reply.status, 200, "{fields}: {}", reply.text);
    match service.engine.last_request().prompt {
        Prompt::Chat(conversation) => conversation,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn tools_reach_the_engine() {
    let service = service(Fake::new(hello), &[]);
    let two = json!([tool("weather"), tool("now")]);
    let functions = json!([{"name": "weather", "parameters": {"type": "object"}}, {"name": "now"}]);
    let named = json!({"type": "function", "function": {"name": "now"}});
    let allowed =
        |mode: &str| json!({"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named]}});
    for (fields, names, choice, single) in [
        (json!({}), vec![], ToolChoice::Auto, false),
        (json!({"tools": null, "tool_choice": null}), vec![], ToolChoice::Auto, false),
        (json!({"tools": [], "tool_choice": "none"}), vec![], ToolChoice::Auto, false),
        (json!({"tools": two}), vec!["weather", "now"], ToolChoice::Auto, false),
        (json!({"tools": two, "tool_choice": "none"}), vec![], ToolChoice::Auto, false),
        (
            json!({"tools": two, "tool_choice": "required", "parallel_tool_calls": false}),
            vec!["weather", "now"],
            ToolChoice::Required,
            true,
        ),
        (json!({"tools": two, "tool_choice": named}), vec!["weather", "now"], ToolChoice::Function(1), true),
        (json!({"tools": two, "tool_choice": allowed("auto")}), vec!["now"], ToolChoice::Auto, false),
        (json!({"tools": two, "tool_choice": allowed("required")}), vec!["now"], ToolChoice::Required, false),
        (
            json!({"functions": functions, "function_call": {"name": "weather"}}),
            vec!["weather", "now"],
            ToolChoice::Function(0),
            true,
        ),
    ] {
        let tools = conversation(&service, &fields).await.tools;
        let found: Vec<&str> = tools.functions.iter().map(|function| function.name.as_str()).collect();
        assert_eq!((found, tools.choice, tools.single), (names, choice, single), "{fields}");
    }
    let tools = conversation(&service, &json!({"tools": two})).await.tools;
    assert_eq!(tools.functions[0].described, tool("weather"), "templates get the tool as it was sent");
    let tools = conversation(&service, &json!({"functions": functions})).await.tools;
    assert_eq!(tools.functions[1].described, json!({"type": "function", "function": {"name": "now"}}));
}

#[tokio::test]
async fn calls_and_results_of_earlier_turns_reach_the_engine() {
    let service = service(Fake::new(hello), &[]);
    let call = |arguments: Value| json!({"id": "a1", "type": "function", "function": {"name": "now", "arguments": arguments}});
    let image = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAEC"}});
    let messages = json!([
        {"role": "user", "content": "when?"},
        {"role": "assistant", "content": null, "tool_calls": [call(json!("{\"a\": 1}")), call(json!({"b": 2})), call(json!(" ")), call(json!("{no"))]},
        {"role": "tool", "tool_call_id": "a1", "content": [{"type": "text", "text": "noon"}, image]},
        {"role": "assistant", "content": "so", "function_call": {"name": "now", "arguments": "{}"}},
        {"role": "function", "name": "now", "content": "one"},
    ]);
    let messages = conversation(&service, &json!({"messages": messages})).await.messages;
    let arguments: Vec<&Value> = messages[1].calls.iter().map(|call| &call.arguments).collect();
    assert_eq!(arguments, [&json!({"a": 1}), &json!({"b": 2}), &json!({}), &json!("{no")]);
    assert_eq!(messages[1].content.len(), 1);
    // Ids of other servers become nine letters and digits, which all templates take.
    assert_eq!(messages[1].calls[0].id.as_ref().unwrap().len(), 9);
    assert_eq!((messages[2].speaker, &messages[2].call_id), (Speaker::Tool, &messages[1].calls[0].id));
    assert_eq!(messages[2].name.as_deref(), Some("now"));
    assert_eq!(messages[2].content.len(), 2);
    assert_eq!(messages[3].calls[0].name, "now");
    assert_eq!((messages[4].speaker, messages[4].name.as_deref()), (Speaker::Tool, Some("now")));
}

#[tokio::test]
async fn slips_are_refused_by_name() {
    let service = service(Fake::new(hello), &[]);
    let two = json!([tool("weather"), tool("now")]);
    let many: Vec<Value> = (0..129).map(|index| tool(&format!("f{index}"))).collect();
    let none = json!({"type": "function", "function": {"name": "other"}});
    for (fields, param, words) in [
        (json!({"tools": {}}), "tools", "a list of tools"),
        (json!({"tools": many}), "tools", "128"),
        (json!({"tools": [{"type": "web_search"}]}), "tools[0].type", "functions"),
        (json!({"tools": [{"function": {"name": "a"}}]}), "tools[0]", "type"),
        (json!({"tools": [{"type": "function", "function": {}}]}), "tools[0].function.name", "a name"),
        (
            json!({"tools": [{"type": "function", "function": {"name": "a b"}}]}),
            "tools[0].function.name",
            "letters",
        ),
        (
            json!({"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]}),
            "tools[0].function.parameters",
            "a JSON schema",
        ),
        (json!({"tools": [tool("a"), tool("a")]}), "tools", "twice"),
        (json!({"tools": two, "functions": [{"name": "a"}]}), "functions", "either"),
        (json!({"tools": two, "tool_choice": "must"}), "tool_choice", "required"),
        (json!({"tools": two, "tool_choice": none}), "tool_choice", "weather, now"),
        (json!({"tool_choice": "required"}), "tool_choice", "no functions"),
        (json!({"tool_choice": none}), "tool_choice", "no functions"),
        (
            json!({"messages": [{"role": "assistant", "tool_calls": [{"id": "x"}]}]}),
            "messages[0].tool_calls[0].function",
            "name",
        ),
        (json!({"messages": [{"role": "tool"}]}), "messages[0].content", "string"),
    ] {
        let reply = service.chat(fields.clone()).await;
        assert_eq!(reply.status, 400, "{fields}: {}", reply.text);
        let error = &reply.json()["error"];
        assert_eq!(error["param"], param, "{fields}: {}", reply.text);
        assert!(error["message"].as_str().unwrap().contains(words), "{}", reply.text);
    }
    let reply = service.post("/v1/completions", &json!({"prompt": "a", "tools": two})).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["param"]), (400, &json!("tools")));
}

fn call(index: usize, name: Option<&str>, arguments: &str) -> Step {
    let piece = CallPiece { index, name: name.map(str::to_owned), arguments: arguments.to_owned() };
    let (text, calls) = (String::new(), vec![piece]);
    Step::Emit(Event::Token { choice: 0, text, calls, reasoning: None, logprob: None, id: 1 })
}

/// Two calls behind a word, or alone.
fn calling(word: &'static str) -> std::sync::Arc<Fake> {
    Fake::new(move |_| {
        let mut steps = vec![started()];
        steps.extend((!word.is_empty()).then(|| token(0, word)));
        steps.extend([
            call(0, Some("weather"), ""),
            call(0, None, "{\"city\": "),
            call(0, None, "\"Oslo\"}"),
            call(1, Some("now"), "{}"),
            finished(0, "", FinishReason::Stop),
            done(5),
        ]);
        steps
    })
}

#[tokio::test]
async fn calls_are_answered_as_openai_does() {
    let service = service(calling(""), &[]);
    let body = service.chat(json!({"tools": [tool("weather"), tool("now")]})).await.json();
    let choice = &body["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], Value::Null);
    let calls = choice["message"]["tool_calls"].as_array().unwrap();
    let functions: Vec<&Value> = calls.iter().map(|call| &call["function"]).collect();
    assert_eq!(
        functions,
        [
            &json!({"name": "weather", "arguments": "{\"city\": \"Oslo\"}"}),
            &json!({"name": "now", "arguments": "{}"})
        ]
    );
    let ids: Vec<&str> = calls.iter().map(|call| call["id"].as_str().unwrap()).collect();
    assert!(ids[0] != ids[1] && ids.iter().all(|id| id.len() == 9 && id.chars().all(char::is_alphanumeric)));
    assert!(calls.iter().all(|call| call["type"] == "function"));

    let body = service.chat(json!({"functions": [{"name": "weather"}]})).await.json();
    let choice = &body["choices"][0];
    assert_eq!(choice["finish_reason"], "function_call");
    assert_eq!(choice["message"]["function_call"]["name"], "weather");
}

#[tokio::test]
async fn words_before_a_call_are_kept() {
    let service = service(calling("Well."), &[]);
    let body = service.chat(json!({"tools": [tool("weather")]})).await.json();
    assert_eq!(body["choices"][0]["message"]["content"], "Well.");
    assert_eq!(body["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "weather");
}

#[tokio::test]
async fn calls_are_streamed_as_openai_does() {
    let service = service(calling(""), &[]);
    let chunks = service.chat(json!({"tools": [tool("weather")], "stream": true})).await.chunks();
    let choices = chunks.iter().map(|chunk| &chunk["choices"][0]);
    let deltas: Vec<&Value> =
        choices.clone().filter_map(|choice| choice["delta"]["tool_calls"].get(0)).collect();
    assert_eq!(deltas.len(), 4);
    assert_eq!(
        (&deltas[0]["index"], &deltas[0]["type"], &deltas[0]["function"]),
        (&json!(0), &json!("function"), &json!({"name": "weather", "arguments": ""}))
    );
    assert_eq!(deltas[1], &json!({"index": 0, "function": {"arguments": "{\"city\": "}}));
    assert_eq!(deltas[3]["index"], 1);
    assert!(deltas[3]["id"].is_string() && deltas[1].get("id").is_none());
    let reasons: Vec<&Value> =
        choices.map(|choice| &choice["finish_reason"]).filter(|it| !it.is_null()).collect();
    assert_eq!(reasons, ["tool_calls"]);

    let chunks = service.chat(json!({"functions": [{"name": "weather"}], "stream": true})).await.chunks();
    let first = chunks.iter().find_map(|chunk| chunk["choices"][0]["delta"].get("function_call"));
    assert_eq!(first, Some(&json!({"name": "weather", "arguments": ""})));
}

//! Fields of requests: those that are honoured or refused by name, those that are let through, and contents
//! as clients send them.

use arrcoc_runtime::generate::{
    Budget, Conversation, Depth, Part, Prompt, Selection, Selector, Share, Sizing, Tensions,
};
use serde_json::{Value, json};

use crate::fake::{Fake, Service, hello, service};

const IMAGE: &str = "data:image/png;base64,AAEC";

fn user(content: Value) -> Value {
    json!({"messages": [{"role": "user", "content": content}]})
}

/// What the engine was asked, part by part: texts as they are, images as the bytes of their files.
fn parts(service: &Service) -> Vec<Vec<String>> {
    let Prompt::Chat(Conversation { messages, .. }) = service.engine.last_request().prompt else {
        panic!("not a chat")
    };
    let text = |part: &Part| match part {
        Part::Text(text) => text.clone(),
        Part::Image(image) => format!("{:?}", &image.file[..]),
    };
    messages.iter().map(|message| message.content.iter().map(text).collect()).collect()
}

#[tokio::test]
async fn what_would_change_the_answer_is_refused_by_name() {
    let service = service(Fake::new(hello), &[]);
    for (name, value) in [
        ("grammar", json!("root ::= x")),
        ("bad_words", json!(["no"])),
        ("continue_final_message", json!(true)),
        ("add_generation_prompt", json!(false)),
        ("prompt_logprobs", json!(1)),
        ("prompt_logprobs", json!(0)),
        ("images", json!(["aGk="])),
        ("think", json!(true)),
        ("reasoning", json!({"effort": "low"})),
        ("chat_template", json!("{{ x }}")),
        ("best_of", json!(2)),
        ("echo", json!(true)),
        ("suffix", json!("z")),
        ("use_beam_search", json!(true)),
        ("skip_special_tokens", json!(false)),
        ("options", json!({"temperature": 0})),
        ("format", json!("json")),
        ("json_schema", json!({"type": "object"})),
        ("extra_body", json!({"min_p": 0.5})),
    ] {
        let (param, code) = service.chat(json!({name: value})).await.error(400);
        assert_eq!((param.as_deref(), code.as_str()), (Some(name), "unsupported_parameter"));
    }
    for (name, value) in [
        ("min_p", json!(7)),
        ("min_tokens", json!(-1)),
        ("ignore_eos", json!("yes")),
        ("stop_token_ids", json!([-1])),
        ("stop_token_ids", json!(5)),
        ("chat_template_kwargs", json!("no")),
        ("chat_template_kwargs", json!({"text": "x".repeat(20_000)})),
        ("enable_thinking", json!("no")),
        ("thinking", json!({"type": "sometimes"})),
        ("thinking", json!({"type": "enabled", "budget_tokens": 100})),
        ("reasoning_effort", json!("huge")),
        ("include_reasoning", json!(1)),
        ("mm_processor_kwargs", json!([])),
        ("mm_processor_kwargs", json!({"max_pixels": 0})),
        ("mm_processor_kwargs", json!({"max_pixel": 100})),
        ("mm_processor_kwargs", json!({"size": {"height": 100}})),
        ("mm_processor_kwargs", json!({"size": 100})),
        ("mm_processor_kwargs", json!({"do_image_splitting": 1})),
    ] {
        let (param, code) = service.chat(json!({name: value})).await.error(400);
        assert!(param.is_some_and(|param| param.starts_with(name)), "{name}");
        assert_eq!(code, "invalid_value");
    }
    assert!(service.engine.requests.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_asks_for_nothing_passes() {
    let service = service(Fake::new(hello), &[]);
    let nothing = json!({
        "guided_json": null, "guided_choice": [], "guided_regex": "", "guided_grammar": "", "structured_outputs": {}, "bad_words": [], "grammar": "",
        "continue_final_message": false, "add_generation_prompt": true, "prompt_logprobs": null, "images": [],
        "mm_processor_kwargs": {}, "chat_template_kwargs": {}, "best_of": 1, "echo": false, "suffix": "",
        "tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "modalities": ["text"],
        "skip_special_tokens": true,
    });
    let without_effect = json!({
        "user": "u", "metadata": {"a": "b"}, "store": false, "service_tier": "auto", "parallel_tool_calls": true,
        "verbosity": "low", "provider": {"order": []},
    });
    let mut nulls = json!({});
    for name in [
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "n",
        "seed",
        "stop",
        "stop_token_ids",
        "min_tokens",
        "ignore_eos",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "logprobs",
        "top_logprobs",
        "arrcoc",
        "model",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "tools",
        "echo",
        "response_format",
    ] {
        nulls[name] = Value::Null;
    }
    for fields in [nothing, without_effect, nulls] {
        let reply = service.chat(fields).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
    }
}

/// Names that the same things have with other servers, and our own in the wrong place.
#[tokio::test]
async fn names_of_other_servers_are_refused_with_ours() {
    let service = service(Fake::new(hello), &[]);
    for (name, ours) in [
        ("max_new_tokens", "`max_tokens`"),
        ("stop_sequences", "`stop`"),
        ("do_sample", "`temperature`"),
        ("image_url", "image_url"),
        ("budget", "`arrcoc.budget`"),
        ("explain", "`arrcoc.explain`"),
    ] {
        let reply = service.chat(json!({name: 2})).await;
        assert_eq!(reply.error(400), (Some(name.to_owned()), "unsupported_parameter".to_owned()), "{name}");
        assert!(reply.text.contains(ours), "{}", reply.text);
    }
}

#[tokio::test]
async fn slips_are_refused_with_the_name_that_was_meant() {
    let service = service(Fake::new(hello), &[]);
    for (slip, meant) in [
        ("temprature", "temperature"),
        ("maxTokens", "max_tokens"),
        ("max_completions_tokens", "max_completion_tokens"),
        ("colour_of_the_sky", ""),
        ("tool_choices", "tool_choice"),
        ("mesages", "messages"),
        ("arcoc", "arrcoc"),
    ] {
        let reply = service.chat(json!({slip: 1})).await;
        if meant.is_empty() {
            assert_eq!(reply.status, 200, "{slip}: {}", reply.text);
            continue;
        }
        assert_eq!(reply.error(400), (Some(meant.to_owned()), "unknown_parameter".to_owned()), "{slip}");
        assert!(reply.text.contains(slip) && reply.text.contains("did you mean"), "{}", reply.text);
    }
    let ours = service.chat(json!({"arrcoc": {"bugdet": 64}})).await;
    assert_eq!(ours.error(400).0.as_deref(), Some("arrcoc"));
    assert!(ours.text.contains("did you mean `budget`"), "{}", ours.text);
    let ours = service.chat(json!({"arrcoc": {"colour": "blue"}})).await;
    assert!(
        ours.error(400).0.as_deref() == Some("arrcoc") && ours.text.contains("`explain`"),
        "{}",
        ours.text
    );
    let budget = service.chat(json!({"arrcoc": {"budget": "64"}})).await;
    assert!(
        budget.error(400).0.as_deref() == Some("arrcoc.budget")
            && budget.text.contains("a share of all above 0 and below 1")
    );
    let text = service.post("/v1/completions", &json!({"prompt": "a", "temprature": 0})).await;
    assert_eq!(text.error(400).0.as_deref(), Some("temperature"));
    for (content, param) in [
        (json!([{"type": "text", "txet": "a", "text": "b"}]), "messages[0].content[0]"),
        (
            json!([{"type": "image_url", "image_url": {"url": IMAGE, "detial": "low"}}]),
            "messages[0].content[0].image_url",
        ),
    ] {
        assert_eq!(service.chat(user(content)).await.error(400).0.as_deref(), Some(param));
    }
}

#[tokio::test]
async fn null_and_empty_contents_are_what_clients_replay() {
    let service = service(Fake::new(hello), &[]);
    let turns = |assistant: Value| {
        let user = |text: &str| json!({"role": "user", "content": text});
        json!({"messages": [user("a"), assistant, user("b")]})
    };
    for assistant in [
        json!({"role": "assistant", "content": null}),
        json!({"role": "assistant"}),
        json!({"role": "assistant", "content": ""}),
        json!({"role": "assistant", "content": null, "tool_calls": null, "function_call": null}),
        json!({"role": "assistant", "content": null, "tool_calls": [], "refusal": null, "audio": null,
               "annotations": [], "name": "n", "reasoning_content": null, "reasoning": null}),
    ] {
        let reply = service.chat(turns(assistant.clone())).await;
        assert_eq!(reply.status, 200, "{assistant} {}", reply.text);
        assert_eq!(parts(&service), [vec!["a"], vec![""], vec!["b"]], "{assistant}");
    }
    let reply = service.chat(turns(json!({"role": "assistant", "content": []}))).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(service.chat(user(json!([]))).await.status, 200);
    let part =
        json!([{"type": "text", "text": "", "image_url": null, "cache_control": {"type": "ephemeral"}}]);
    assert_eq!(service.chat(user(part)).await.status, 200);
    for (messages, param) in [
        (json!([{"role": "user", "content": null}]), "messages[0].content"),
        (
            json!([{"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]}]),
            "messages[0].tool_calls[0].function",
        ),
        (json!([{"role": "user", "content": "a", "images": ["aGk="]}]), "messages[0].images"),
        (json!([null]), "messages[0]"),
    ] {
        let reply = service.chat(json!({"messages": messages})).await;
        assert_eq!(reply.error(400).0.as_deref(), Some(param), "{}", reply.text);
    }
}

#[tokio::test]
async fn an_image_url_may_be_a_string() {
    let service = service(Fake::new(hello), &[]);
    let part = |url: Value| user(json!([{"type": "image_url", "image_url": url}]));
    assert_eq!(service.chat(part(json!(IMAGE))).await.status, 200);
    assert_eq!(parts(&service), [["[0, 1, 2]"]]);
    let reply = service.chat(part(json!("nonsense"))).await;
    assert_eq!(reply.error(400).0.as_deref(), Some("messages[0].content[0].image_url"));
    for wrong in [json!(5), json!(["x"]), json!({"uri": "x"})] {
        let reply = service.chat(part(wrong)).await;
        assert!(
            reply.error(400).0.is_some_and(|param| param.starts_with("messages[0].content[0].image_url"))
        );
        assert!(reply.text.contains("url"), "{}", reply.text);
    }
}

#[tokio::test]
async fn detail_is_the_smallest_budget_or_the_default() {
    let service = service(Fake::new(hello), &[]);
    let image = |detail: Value| json!({"type": "image_url", "image_url": {"url": IMAGE, "detail": detail}});
    let text = json!({"type": "text", "text": "a"});
    for (details, budget, expected) in [
        (vec![json!("low")], json!(null), Budget::Tokens(64)),
        (vec![json!("low"), json!("low")], json!(null), Budget::Tokens(64)),
        (vec![json!("low"), json!("high")], json!(null), Budget::Auto),
        (vec![json!("auto")], json!(null), Budget::Auto),
        (vec![json!("high")], json!(null), Budget::Auto),
        (vec![json!(null)], json!(null), Budget::Auto),
        (vec![], json!(null), Budget::Auto),
        (vec![json!("low")], json!(256), Budget::Tokens(256)),
        (vec![json!("low")], json!("auto"), Budget::Auto),
    ] {
        let content: Vec<Value> = details.iter().cloned().map(image).chain([text.clone()]).collect();
        let mut fields = user(json!(content));
        fields["arrcoc"] = json!({"budget": budget});
        let reply = service.chat(fields).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert_eq!(service.engine.last_request().budget, expected, "{details:?} {budget}");
    }
    let reply = service.chat(user(json!([image(json!("bogus"))]))).await;
    assert_eq!(reply.error(400).0.as_deref(), Some("messages[0].content[0].image_url.detail"));
}

#[tokio::test]
async fn how_tokens_are_chosen_is_read_and_wrong_values_are_named() {
    let service = service(Fake::new(hello), &[]);
    let ask = |arrcoc: Value| json!({"arrcoc": arrcoc});
    let chosen = json!({
        "budget": 0.25, "selector": "mmtok", "depth": "relevant",
        "tensions": {"participatory": 1, "explore": 0, "particularize": 0.75},
    });
    assert_eq!(service.chat(ask(chosen)).await.status, 200);
    let request = service.engine.last_request();
    assert_eq!(request.budget, Budget::Share(Share::new(0.25).unwrap()));
    let default = Tensions::default();
    let [propositional, perspectival, _] = default.knowing;
    let tensions = Tensions {
        knowing: [propositional, perspectival, 1.0],
        explore: 0.0,
        particularize: 0.75,
        ..default
    };
    let selection =
        Selection { selector: Some(Selector::MmTok), tensions: Some(tensions), depth: Some(Depth::Relevant) };
    assert_eq!(request.selection, selection);

    // Who says how, and not how many, leaves the number to the question.
    for (arrcoc, budget) in [
        (json!({"selector": "top-k"}), Budget::Auto),
        (json!({"tensions": {}}), Budget::Auto),
        (json!({"selector": "top-k", "budget": "full"}), Budget::Full),
        (json!({"budget": null, "selector": null, "tensions": null, "depth": null}), Budget::Auto),
        (json!({"budget": 0.999_999}), Budget::Share(Share::new(0.999_999).unwrap())),
    ] {
        assert_eq!(service.chat(ask(arrcoc.clone())).await.status, 200);
        assert_eq!(service.engine.last_request().budget, budget, "{arrcoc}");
    }
    for (arrcoc, param, expected) in [
        (json!({"selector": "best"}), "arrcoc.selector", "balanced, mmtok, scope"),
        (json!({"selector": 3}), "arrcoc.selector", "balanced, mmtok, scope"),
        (json!({"depth": "deep"}), "arrcoc.depth", "all, relevant"),
        (json!({"tensions": 1}), "arrcoc.tensions", "an object"),
        (json!({"tensions": {"explore": 1.5}}), "arrcoc.tensions.explore", "from 0 to 1"),
        (json!({"tensions": {"exlpore": 0.5}}), "arrcoc.tensions", "did you mean `explore`"),
        (
            json!({"tensions": {"propositional": 0, "perspectival": 0, "participatory": 0}}),
            "arrcoc.tensions",
            "above 0",
        ),
        (json!({"budget": 0}), "arrcoc.budget", "above 0"),
        (json!({"budget": 1.5}), "arrcoc.budget", "below 1"),
        (json!({"budget": -3}), "arrcoc.budget", "above 0"),
        (json!({"budget": "half"}), "arrcoc.budget", "\\\"full\\\""),
    ] {
        let reply = service.chat(ask(arrcoc.clone())).await;
        assert_eq!(reply.error(400).0.as_deref(), Some(param), "{arrcoc}: {}", reply.text);
        assert!(reply.text.contains(expected), "{arrcoc}: {}", reply.text);
    }
}

#[tokio::test]
async fn images_go_first_where_the_model_was_trained_so() {
    let other = "data:image/png;base64,AQID";
    let image = |url: &str| json!({"type": "image_url", "image_url": {"url": url}});
    let text = |text: &str| json!({"type": "text", "text": text});
    let orders = [
        [image(IMAGE), image(other), text("A"), text("B")],
        [text("A"), image(IMAGE), text("B"), image(other)],
        [text("A"), text("B"), image(IMAGE), image(other)],
    ];
    let trained_so = service(Fake::with(|info| info.images_first = true, hello), &[]);
    for order in &orders {
        assert_eq!(trained_so.chat(user(json!(order))).await.status, 200);
        assert_eq!(parts(&trained_so), [["[0, 1, 2]", "[1, 2, 3]", "A", "B"]]);
    }
    let otherwise = service(Fake::with(|info| info.images_first = false, hello), &[]);
    assert_eq!(otherwise.chat(user(json!(orders[1]))).await.status, 200);
    assert_eq!(parts(&otherwise), [["A", "[0, 1, 2]", "B", "[1, 2, 3]"]]);
    // An error names the place where the client wrote it.
    let reply = trained_so.chat(user(json!([text("A"), image("nonsense")]))).await;
    assert_eq!(reply.error(400).0.as_deref(), Some("messages[0].content[1].image_url.url"));
}

#[tokio::test]
async fn the_template_gets_its_variables() {
    let service = service(Fake::new(hello), &[]);
    for (fields, expected) in [
        (json!({}), json!({})),
        (json!({"enable_thinking": false}), json!({"enable_thinking": false})),
        (json!({"chat_template_kwargs": {"a": [1, "b"]}}), json!({"a": [1, "b"]})),
        (
            json!({"chat_template_kwargs": {"enable_thinking": true}, "enable_thinking": true}),
            json!({"enable_thinking": true}),
        ),
        (json!({"thinking": {"type": "disabled"}}), json!({"enable_thinking": false})),
        (json!({"reasoning_effort": "low"}), json!({"reasoning_effort": "low"})),
        (json!({"reasoning_effort": "none"}), json!({"reasoning_effort": "none", "enable_thinking": false})),
    ] {
        assert_eq!(service.chat(fields).await.status, 200);
        let Prompt::Chat(conversation) = service.engine.last_request().prompt else { panic!("not a chat") };
        assert_eq!(json!(conversation.variables), expected);
    }
    for fields in [
        json!({"chat_template_kwargs": {"enable_thinking": true}, "enable_thinking": false}),
        json!({"reasoning_effort": "none", "enable_thinking": true}),
    ] {
        let (param, code) = service.chat(fields).await.error(400);
        assert_eq!((param.as_deref(), code.as_str()), (Some("enable_thinking"), "invalid_value"));
    }
}

#[tokio::test]
async fn earlier_thoughts_are_the_assistants_alone() {
    let service = service(Fake::new(hello), &[]);
    let messages = json!([
        {"role": "user", "content": "why", "reasoning_content": "mine"},
        {"role": "assistant", "content": "so", "reasoning_content": "hm"},
        {"role": "assistant", "content": "so", "reasoning": "hm?"},
        {"role": "assistant", "content": "so", "reasoning_content": null, "thinking": "hm!"},
        {"role": "assistant", "content": "so", "reasoning_content": "", "reasoning": {"effort": "low"}},
        {"role": "user", "content": "ok"},
    ]);
    assert_eq!(service.chat(json!({"messages": messages})).await.status, 200);
    let Prompt::Chat(conversation) = service.engine.last_request().prompt else { panic!("not a chat") };
    let thoughts: Vec<_> = conversation.messages.iter().map(|message| message.reasoning.as_deref()).collect();
    assert_eq!(thoughts, [None, Some("hm"), Some("hm?"), Some("hm!"), None, None]);
}

#[tokio::test]
async fn every_image_has_its_size() {
    let service = service(Fake::new(hello), &[]);
    let sizes = |fields: Value| {
        let image =
            |detail: &str| json!({"type": "image_url", "image_url": {"url": IMAGE, "detail": detail}});
        let mut body = user(json!([image("low"), image("high"), {"type": "text", "text": "?"}]));
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        body
    };
    let own = Sizing { max_pixels: Some(9), longest_edge: Some(7), ..Sizing::default() };
    let kwargs = json!({"mm_processor_kwargs": {"max_pixels": 9, "size": {"longest_edge": 7}}});
    for (fields, expected) in [
        (json!({}), [Sizing { coarse: true, ..Sizing::default() }, Sizing::default()]),
        (json!({"arrcoc": {"budget": "full"}}), [Sizing::default(); 2]),
        (kwargs, [Sizing { coarse: true, ..own }, own]),
    ] {
        assert_eq!(service.chat(sizes(fields)).await.status, 200);
        let found: Vec<_> = service.engine.last_request().prompt.images().map(|image| image.sizing).collect();
        assert_eq!(found, expected);
    }
}

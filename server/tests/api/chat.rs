//! Chat completions, whole and streamed.

use std::time::Duration;

use arrcoc_runtime::generate::{
    Budget, Conversation, Event, FinishReason, GenerateError, MaxTokens, Part, Prompt, Request, Sampling,
    Speaker, Timings, Usage,
};
use serde_json::{Value, json};

use crate::fake::{Fake, Step, done, finished, hello, service, started, token};

#[tokio::test]
async fn answers_in_openais_shape() {
    let service = service(Fake::new(hello), &[]);
    let reply = service.chat(json!({})).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let answer = reply.json();
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "tiny");
    assert_eq!(answer["system_fingerprint"], "0123456789ab-fp32-cpu");
    assert!(answer["created"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(
        answer["choices"],
        json!([{
            "index": 0,
            "message": {"role": "assistant", "content": "Hello world", "refusal": null},
            "logprobs": null,
            "finish_reason": "stop",
        }])
    );
    assert_eq!(
        answer["usage"],
        json!({
            "prompt_tokens": 110,
            "completion_tokens": 2,
            "total_tokens": 112,
            "prompt_tokens_details": {"cached_tokens": 0, "image_tokens": 100, "visual_tokens": 100},
            "completion_tokens_details": {"reasoning_tokens": 0},
        })
    );
    assert_eq!(answer.get("arrcoc"), None);
    assert!(reply.headers.contains_key("x-request-id"));
}

#[tokio::test]
async fn every_field_reaches_the_engine() {
    let service = service(Fake::new(hello), &[]);
    let reply = service
        .chat(json!({
            "temperature": 0.5, "top_p": 0.75, "top_k": 40, "seed": -1, "stop": ["a", "b"],
            "max_tokens": 5, "max_completion_tokens": 7, "n": 2, "logprobs": true, "top_logprobs": 3,
            "min_p": 0.25, "min_tokens": 3, "ignore_eos": true, "stop_token_ids": [7, 8], "presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.25,
            "arrcoc": {"budget": 256, "explain": true}, "user": "someone", "tools": [], "tool_choice": "auto",
            "response_format": {"type": "text"}, "logit_bias": {}, "store": false, "something_new": [1],
        }))
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let request = service.engine.last_request();
    assert_eq!(
        request.sampling,
        Sampling {
            temperature: 0.5,
            top_p: 0.75,
            top_k: 40,
            min_p: 0.25,
            repetition_penalty: 1.25,
            presence_penalty: 1.0,
            frequency_penalty: -1.0,
            seed: Some(u64::MAX),
            min_tokens: 3,
            ignore_eos: true,
            stop_token_ids: vec![7, 8],
            logit_bias: Vec::new(),
        }
    );
    assert_eq!(
        (request.max_tokens, request.choices, request.top_logprobs),
        (MaxTokens::Exactly(7), 2, Some(3))
    );
    assert_eq!((request.budget, request.explain), (Budget::Tokens(256), true));
    assert_eq!(request.stop, ["a", "b"]);
}

#[tokio::test]
async fn messages_keep_their_order_and_roles() {
    let service = service(Fake::new(hello), &[]);
    let image =
        json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAEC", "detail": "high"}});
    let reply = service
        .chat(json!({"stop": "x", "messages": [
            {"role": "developer", "content": "Be brief", "name": "n"},
            {"role": "user", "content": [{"type": "text", "text": "A"}, image, {"type": "text", "text": "B"}, image]},
            {"role": "assistant", "content": "C", "tool_calls": []},
        ]}))
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let request = service.engine.last_request();
    let Prompt::Chat(Conversation { messages, .. }) = request.prompt else { panic!("not a chat") };
    let speakers: Vec<_> = messages.iter().map(|message| message.speaker).collect();
    assert_eq!(speakers, [Speaker::System, Speaker::User, Speaker::Assistant]);
    let parts: Vec<String> = messages[1]
        .content
        .iter()
        .map(|part| match part {
            Part::Text(text) => text.clone(),
            Part::Image(image) => format!("{:?}", &image.file[..]),
        })
        .collect();
    assert_eq!(parts, ["A", "[0, 1, 2]", "B", "[0, 1, 2]"]);
    assert_eq!(request.stop, ["x"]);
}

#[tokio::test]
async fn the_servers_token_limit_holds_for_requests_that_set_none() {
    // The context is smaller than the default limit: the answer may fill it, and the user hears of no limit.
    let roomy = service(Fake::new(hello), &[]);
    assert_eq!(roomy.chat(json!({})).await.status, 200);
    assert_eq!(roomy.engine.last_request().max_tokens, MaxTokens::AtMost(4096));
    for field in ["max_tokens", "max_completion_tokens"] {
        assert_eq!(roomy.chat(json!({field: 2049})).await.error(400).0.unwrap(), field);
    }
    assert_eq!(roomy.engine.requests.lock().unwrap().len(), 1);

    let service = service(Fake::new(hello), &[("limits.max_tokens", "100")]);
    service.chat(json!({})).await;
    assert_eq!(service.engine.last_request().max_tokens, MaxTokens::AtMost(100));
    assert_eq!(service.chat(json!({"max_tokens": 101})).await.error(400).0.unwrap(), "max_tokens");
}

#[tokio::test]
async fn several_choices_keep_apart() {
    let service = service(
        Fake::new(|_| {
            let mut steps = vec![started(), token(1, "b"), token(0, "a"), token(1, "B")];
            steps.extend([
                finished(1, "", FinishReason::Length),
                token(0, "A"),
                finished(0, "!", FinishReason::Stop),
            ]);
            steps.push(done(4));
            steps
        }),
        &[],
    );
    let answer = service.chat(json!({"n": 2})).await.json();
    let of = |index: usize| {
        let choice = &answer["choices"][index];
        (choice["message"]["content"].clone(), choice["finish_reason"].clone())
    };
    assert_eq!(of(0), (json!("aA!"), json!("stop")));
    assert_eq!(of(1), (json!("bB"), json!("length")));
}

#[tokio::test]
async fn logprobs_are_finite_and_name_bytes() {
    let service = service(Fake::new(hello), &[]);
    let answer = service.chat(json!({"logprobs": true, "top_logprobs": 2})).await.json();
    let content = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(content.len(), 2);
    assert_eq!(
        content[0],
        json!({
            "token": "Hello", "logprob": -0.5, "bytes": [72, 101, 108, 108, 111],
            "top_logprobs": [
                {"token": "Hello", "logprob": -0.5, "bytes": [72, 101, 108, 108, 111]},
                {"token": "bytes:\\xe2\\x82", "logprob": -9999.0, "bytes": [226, 130]},
            ],
        })
    );
}

#[tokio::test]
async fn explanations_come_when_asked_for() {
    let service = service(Fake::new(hello), &[]);
    let answer = service.chat(json!({"arrcoc": {"explain": true}})).await.json();
    let image = &answer["arrcoc"]["images"][0];
    assert_eq!((&image["tier"], &image["tokens"]), (&json!(1), &json!(100)));
    assert_eq!(image["tension_weights"]["propositional"], 0.5);
    assert_eq!(image["places"][0]["rect"], json!([0.0, 0.0, 16.0, 16.0]));

    let chunks = service.chat(json!({"stream": true, "n": 2, "arrcoc": {"explain": true}})).await.chunks();
    assert_eq!(chunks[0]["arrcoc"], answer["arrcoc"]);
    assert!(chunks[1..].iter().all(|chunk| chunk.get("arrcoc").is_none()));
}

#[tokio::test]
async fn streams_role_content_finish_usage_done() {
    let service = service(Fake::new(hello), &[]);
    let reply = service.chat(json!({"stream": true, "stream_options": {"include_usage": true}})).await;
    assert_eq!(reply.headers["content-type"], "text/event-stream");
    let chunks = reply.chunks();
    let deltas: Vec<&Value> = chunks[..5].iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
    assert_eq!(*deltas[0], json!({"role": "assistant", "content": ""}));
    assert_eq!(
        deltas[1..4],
        [&json!({"content": "Hello"}), &json!({"content": " wor"}), &json!({"content": "ld"})]
    );
    assert_eq!(*deltas[4], json!({}));
    assert_eq!(chunks[4]["choices"][0]["finish_reason"], "stop");
    assert!(chunks[..4].iter().all(|chunk| chunk["choices"][0]["finish_reason"].is_null()));
    assert!(chunks[..5].iter().all(|chunk| chunk["usage"].is_null() && chunk.get("usage").is_some()));
    assert_eq!(chunks.len(), 6);
    assert_eq!(chunks[5]["choices"], json!([]));
    assert_eq!(chunks[5]["usage"]["total_tokens"], 112);
    assert!(
        chunks
            .iter()
            .all(|chunk| chunk["id"] == chunks[0]["id"] && chunk["object"] == "chat.completion.chunk")
    );
}

#[tokio::test]
async fn a_stream_says_what_the_whole_says() {
    let service = service(Fake::new(hello), &[]);
    for extra in [json!({}), json!({"logprobs": true, "top_logprobs": 2})] {
        let whole = service.chat(extra.clone()).await.json();
        let mut fields = extra.clone();
        fields["stream"] = json!(true);
        let chunks = service.chat(fields).await.chunks();
        let text: String =
            chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(text, whole["choices"][0]["message"]["content"]);
        let logprobs: Vec<Value> = chunks
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array())
            .flatten()
            .cloned()
            .collect();
        let expected = whole["choices"][0]["logprobs"]["content"].as_array().cloned().unwrap_or_default();
        assert_eq!(logprobs, expected);
        assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
    }
}

#[tokio::test]
async fn a_token_without_text_is_a_chunk_too() {
    let service = service(
        Fake::new(|_| {
            let silent = Step::Emit(Event::Token {
                choice: 0,
                text: String::new(),
                calls: Vec::new(),
                reasoning: None,
                logprob: None,
                id: 1,
            });
            vec![started(), silent.clone(), silent, finished(0, "", FinishReason::Length), done(1)]
        }),
        &[],
    );
    let chunks = service.chat(json!({"stream": true})).await.chunks();
    let deltas: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
    let empty = json!({"content": ""});
    assert_eq!(deltas, [&json!({"role": "assistant", "content": ""}), &empty, &empty, &json!({})]);
    let body = json!({"prompt": "Once", "stream": true});
    let chunks = service.post("/v1/completions", &body).await.chunks();
    let texts: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["text"]).collect();
    assert_eq!(texts, [&json!(""), &json!(""), &json!("")]);
}

#[tokio::test]
async fn an_error_before_the_first_token_has_its_own_status_even_in_a_stream() {
    for stream in [false, true] {
        let cases = [
            (
                GenerateError::Invalid { field: "messages", message: "not an image".into() },
                400,
                "invalid_value",
            ),
            (GenerateError::Timeout(Duration::from_secs(1)), 504, "timeout"),
            (GenerateError::Internal("secret".into()), 500, "internal_error"),
        ];
        for (error, status, code) in cases {
            let service = service(Fake::new(move |_| vec![Step::Emit(Event::Failed(error.clone()))]), &[]);
            let reply = service.chat(json!({"stream": stream})).await;
            assert_eq!(reply.error(status).1, code);
            assert!(!reply.text.contains("secret"));
        }
    }
}

#[tokio::test]
async fn an_error_in_mid_stream_is_an_event() {
    let fail = || {
        vec![started(), token(0, "a"), Step::Emit(Event::Failed(GenerateError::Internal("secret".into())))]
    };
    let service = service(Fake::new(move |_| fail()), &[]);
    let reply = service.chat(json!({"stream": true})).await;
    assert_eq!(reply.status, 200);
    let last: Value = serde_json::from_str(reply.events().last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "internal_error");
    assert!(reply.text.contains("event: error\n") && !reply.text.contains("secret"));
    assert!(!reply.text.contains("[DONE]"));
    assert_eq!(service.chat(json!({})).await.error(500).1, "internal_error");
}

#[tokio::test]
async fn time_runs_out_even_when_the_engine_hangs() {
    let service =
        service(Fake::new(|_| vec![started(), token(0, "a"), Step::Hang]), &[("timeouts.request", "50ms")]);
    assert_eq!(service.chat(json!({})).await.error(504).1, "timeout");
    let reply = service.chat(json!({"stream": true})).await;
    assert!(reply.events().last().unwrap().contains("\"timeout\""));
}

#[tokio::test]
async fn an_engine_that_drops_a_request_is_an_error() {
    let service = service(Fake::new(|_| vec![started(), token(0, "a")]), &[]);
    assert_eq!(service.chat(json!({})).await.error(500).1, "internal_error");
}

#[tokio::test]
async fn thoughts_come_apart_from_the_answer() {
    let thinks = |_: &Request| {
        let said = |text: &str, reasoning: Option<&str>| {
            let reasoning = reasoning.map(str::to_owned);
            Step::Emit(Event::Token {
                choice: 0,
                text: text.into(),
                calls: Vec::new(),
                reasoning,
                logprob: None,
                id: 1,
            })
        };
        let usage = Usage { completion_tokens: 4, reasoning_tokens: 3, ..Usage::default() };
        let done = Step::Emit(Event::Done { usage, timings: Timings::default() });
        let tokens = [said("", Some("")), said("", Some("Hm")), said("", Some(""))];
        let mut steps = vec![started()];
        steps.extend(tokens);
        steps.extend([said("Ye", None), finished(0, "s", FinishReason::Stop), done]);
        steps
    };
    let service = service(Fake::new(thinks), &[]);
    let whole = service.chat(json!({})).await.json();
    let message = &whole["choices"][0]["message"];
    assert_eq!((&message["content"], &message["reasoning_content"]), (&json!("Yes"), &json!("Hm")));
    assert_eq!(whole["usage"]["completion_tokens_details"]["reasoning_tokens"], 3);

    let deltas = async |fields: Value| -> Vec<Value> {
        let chunks = service.chat(fields).await.chunks();
        chunks.iter().map(|chunk| chunk["choices"][0]["delta"].clone()).collect()
    };
    let thought = |text: &str| json!({"reasoning_content": text});
    let (first, last) = (json!({"role": "assistant", "content": ""}), json!({}));
    let answer = [json!({"content": "Ye"}), json!({"content": "s"}), last];
    let mut expected = vec![first.clone(), thought(""), thought("Hm"), thought("")];
    expected.extend(answer.clone());
    assert_eq!(deltas(json!({"stream": true})).await, expected);

    let without = service.chat(json!({"include_reasoning": false})).await.json();
    let message = &without["choices"][0]["message"];
    assert_eq!((&message["content"], message.get("reasoning_content")), (&json!("Yes"), None));
    let silent = json!({"content": ""});
    let mut expected = vec![first, silent.clone(), silent.clone(), silent];
    expected.extend(answer);
    assert_eq!(deltas(json!({"stream": true, "include_reasoning": false})).await, expected);
}

//! Every syntax: calls as models write them, whole and in pieces; what is no call stays text.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::generate::{Function, ToolChoice, Tools};

fn tools(single: bool) -> Tools {
    let parameters = json!({"type": "object", "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "exact": {"type": "boolean"},
        "near": {"type": ["array", "null"]},
    }});
    let function = |name: &str| Function {
        name: name.into(),
        parameters: Some(parameters.clone()),
        described: Value::Null,
    };
    Tools { functions: vec![function("weather"), function("time.now")], choice: ToolChoice::Auto, single }
}

/// Text, and calls with their arguments, of an answer that comes in these pieces.
fn read(syntax: ToolSyntax, pieces: &[&str], tools: &Tools) -> (String, Vec<(String, String)>) {
    let mut reader = Reader::new(Syntax::named(syntax), tools);
    let (mut text, mut calls): (String, Vec<(String, String)>) = (String::new(), Vec::new());
    let mut add = |heard: Heard| {
        text += &heard.text;
        for piece in heard.calls {
            if let Some(name) = piece.name {
                assert_eq!(piece.index, calls.len(), "indices count calls");
                calls.push((name, String::new()));
            }
            assert_eq!(piece.index + 1, calls.len());
            calls[piece.index].1 += &piece.arguments;
        }
        heard.complete
    };
    if !pieces.iter().any(|piece| add(reader.push(piece))) {
        add(reader.finish());
    }
    (text, calls)
}

fn called(calls: &[(String, String)]) -> Vec<(&str, Value)> {
    calls.iter().map(|(name, arguments)| (name.as_str(), serde_json::from_str(arguments).unwrap())).collect()
}

/// What a model writes, and what is read of it.
type Case = (ToolSyntax, &'static str, &'static str, Vec<(&'static str, Value)>);

fn cases() -> Vec<Case> {
    let weather = || ("weather", json!({"city": "Oslo", "days": 3}));
    let time = || ("time.now", json!({}));
    vec![
        (
            ToolSyntax::Hermes,
            "Let me look.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\", \"days\": 3}}\n</tool_call>",
            "Let me look.",
            vec![weather()],
        ),
        (
            ToolSyntax::Hermes,
            "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\", \"days\": 3}}\n</tool_call>\n<tool_call>\n\
             {\"name\": \"time.now\", \"arguments\": {}}\n</tool_call>\n",
            "",
            vec![weather(), time()],
        ),
        // Arguments before the name, as a string, or none at all.
        (
            ToolSyntax::Hermes,
            "<tool_call>{\"arguments\": {\"city\": \"Oslo\", \"days\": 3}, \"name\": \"weather\"}</tool_call>",
            "",
            vec![weather()],
        ),
        (
            ToolSyntax::Hermes,
            r#"<tool_call>{"name":"weather","arguments":"{\"city\": \"Oslo\", \"days\": 3}"}</tool_call><tool_call>{"name":"time.now"}</tool_call>"#,
            "",
            vec![weather(), time()],
        ),
        (
            ToolSyntax::QwenXml,
            "Well.\n\n<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
            "Well.",
            vec![weather()],
        ),
        // The outer tag forgotten, lines in a text, other types.
        (
            ToolSyntax::QwenXml,
            "<function=weather><parameter=city>\nA\n\nB <b>\n</parameter><parameter=exact>True</parameter><parameter=near>[1, 2]</parameter></function>\n\
             <tool_call>\n<function=time.now>\n</function>\n</tool_call>",
            "",
            vec![("weather", json!({"city": "A\n\nB <b>", "exact": true, "near": [1, 2]})), time()],
        ),
        (
            ToolSyntax::Llama,
            "{\"name\": \"weather\", \"parameters\": {\"city\": \"Oslo\", \"days\": 3}}; {\"name\": \"time.now\", \"parameters\": {}}",
            "",
            vec![weather(), time()],
        ),
        (
            ToolSyntax::Llama,
            "<|python_tag|>{\"name\": \"weather\", \"parameters\": {\"city\": \"Oslo\", \"days\": 3}}",
            "",
            vec![weather()],
        ),
        (
            ToolSyntax::Mistral,
            "[TOOL_CALLS][{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\", \"days\": 3}}, {\"name\": \"time.now\", \"arguments\": {}}]",
            "",
            vec![weather(), time()],
        ),
        (
            ToolSyntax::Mistral,
            "[TOOL_CALLS]weather[ARGS]{\"city\": \"Oslo\", \"days\": 3}[TOOL_CALLS]time.now[CALL_ID]abcdefghi[ARGS]{}",
            "",
            vec![weather(), time()],
        ),
        (
            ToolSyntax::Granite,
            "<|tool_call|>[{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\", \"days\": 3}}]",
            "",
            vec![weather()],
        ),
        (
            ToolSyntax::DeepSeek,
            "Now:<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{\"city\": \"Oslo\", \"days\": 3}\n```<｜tool▁call▁end｜>\n\
             <｜tool▁call▁begin｜>function<｜tool▁sep｜>time.now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            "Now:",
            vec![weather(), time()],
        ),
        (
            ToolSyntax::DeepSeek,
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"city\": \"Oslo\", \"days\": 3}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            "",
            vec![weather()],
        ),
    ]
}

#[test]
fn calls_are_read_as_models_write_them() {
    for (syntax, answer, text, calls) in cases() {
        let found = read(syntax, &[answer], &tools(false));
        assert_eq!((found.0.as_str(), called(&found.1)), (text, calls), "{syntax:?}: {answer}");
    }
}

/// However an answer is cut into tokens, what is read of it is the same.
#[test]
fn cuts_make_no_difference() {
    for (syntax, answer, ..) in cases() {
        let whole = read(syntax, &[answer], &tools(false));
        let characters: Vec<&str> = answer.split("").filter(|piece| !piece.is_empty()).collect();
        assert_eq!(read(syntax, &characters, &tools(false)), whole, "{syntax:?}: {answer}");
        for at in (0..=answer.len()).filter(|at| answer.is_char_boundary(*at)) {
            let (before, behind) = answer.split_at(at);
            assert_eq!(
                read(syntax, &[before, behind], &tools(false)),
                whole,
                "{syntax:?}: {before}|{behind}"
            );
        }
    }
}

#[test]
fn one_call_ends_an_answer_that_may_have_no_more() {
    for (syntax, answer, text, calls) in cases() {
        let found = read(syntax, &[answer], &tools(true));
        assert_eq!((found.0.as_str(), called(&found.1)), (text, calls[..1].to_vec()), "{syntax:?}: {answer}");
    }
}

#[test]
fn what_is_no_call_of_an_offered_function_is_text() {
    for (syntax, answer) in [
        (ToolSyntax::Hermes, "a < b, <tool_ and <tool_call"),
        (ToolSyntax::Hermes, "<tool_call>\n{\"name\": \"other\", \"arguments\": {}}\n</tool_call>"),
        (ToolSyntax::Hermes, "<tool_call>weather(Oslo)</tool_call> and on"),
        (ToolSyntax::Hermes, "<tool_call>{\"name\": \"wea"),
        (ToolSyntax::Hermes, "<tool_call>{\"arguments\": {}}</tool_call>"),
        (ToolSyntax::Hermes, "{\"name\": \"weather\", \"arguments\": {}}"),
        (ToolSyntax::Hermes, "line\n\n  "),
        (ToolSyntax::QwenXml, "<function=other>\n<parameter=a>\n1\n</parameter>\n</function>"),
        (ToolSyntax::QwenXml, "<tool_call>\n{\"name\": \"weather\"}</tool_call>"),
        (ToolSyntax::Llama, "{\"city\": \"Oslo\"} is JSON"),
        (ToolSyntax::Llama, "It is {\"name\": \"weather\", \"parameters\": {}}"),
        (ToolSyntax::Llama, " {\"a\": [1, 2]}"),
        (ToolSyntax::Mistral, "[TOOL_CALLS]other[ARGS]{}"),
        (ToolSyntax::Mistral, "[1, 2]"),
        (ToolSyntax::DeepSeek, "<｜tool▁call▁begin｜>function<｜tool▁sep｜>other\n```json\n{}\n```"),
    ] {
        assert_eq!(read(syntax, &[answer], &tools(false)), (answer.to_owned(), Vec::new()), "{syntax:?}");
    }
}

#[test]
fn a_marker_that_is_said_twice_begins_a_call() {
    let call = "<tool_call>\n<tool_call>\n{\"name\": \"time.now\", \"arguments\": {}}\n</tool_call>";
    let found = read(ToolSyntax::Hermes, &[call], &tools(false));
    assert_eq!(found, ("<tool_call>".into(), vec![("time.now".into(), "{}".into())]));
}

#[test]
fn what_stands_behind_a_call_is_text() {
    let call = "<tool_call>{\"name\": \"time.now\", \"arguments\": {}}</tool_call>";
    let found = read(ToolSyntax::Hermes, &[call, "\n", " so. ", call, "\n\n"], &tools(false));
    assert_eq!(found.0, "so.");
    assert_eq!(found.1.len(), 2);
    let broken = "<tool_call>{\"name\": \"time.now\", \"arguments\": {}, 7";
    let found = read(ToolSyntax::Hermes, &[broken, " ", call], &tools(false));
    assert_eq!(found.1, [("time.now".into(), "{}".into()), ("time.now".into(), "{}".into())]);
    assert_eq!(found.0, ", 7");
}

/// A length limit in the middle of arguments leaves what there is of them.
#[test]
fn calls_that_are_broken_off_are_calls() {
    for (syntax, answer) in [
        (ToolSyntax::Hermes, "<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"Os"),
        (ToolSyntax::Mistral, "[TOOL_CALLS]weather[ARGS]{\"city\": \"Os"),
    ] {
        let expected = vec![("weather".to_owned(), "{\"city\": \"Os".to_owned())];
        assert_eq!(read(syntax, &[answer], &tools(false)), (String::new(), expected));
    }
    let answer = "<function=weather>\n<parameter=days>\n3\n</parameter>\n<parameter=city>\nOs";
    let expected = vec![("weather".to_owned(), "{\"days\": 3, \"city\": \"Os\"}".to_owned())];
    assert_eq!(read(ToolSyntax::QwenXml, &[answer], &tools(false)), (String::new(), expected));
}

#[test]
fn templates_show_their_syntax() {
    let call = |answer: &str| answer.replace("weather", EXAMPLE).replace("city", "mirosi");
    for (syntax, answer, ..) in cases() {
        let shown = Syntax::shown_by(&call(answer)).map(|syntax| syntax.name);
        // Llama's bare objects are told by the order in which its template writes them.
        assert_eq!(shown, Some(syntax), "{answer}");
    }
    assert_eq!(Syntax::shown_by("kevuda(mirosi=dunari)"), None);
}

proptest! {
    /// Text that holds pieces of markers comes through to the letter, whatever its cuts.
    #[test]
    fn no_text_is_lost(
        pieces in prop::collection::vec("(<tool_call>|</tool_call>|<function=|\\{\"name\"|: |\"x\"|[a{}\\[\\]\" \n,<]|\\[TOOL_CALLS\\]|\\[ARGS\\]){0,4}", 0..12),
    ) {
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        for syntax in [ToolSyntax::Hermes, ToolSyntax::QwenXml, ToolSyntax::Llama, ToolSyntax::Mistral] {
            let (text, calls) = read(syntax, &pieces, &tools(false));
            prop_assert_eq!(calls.len(), 0);
            prop_assert_eq!(text, pieces.concat());
        }
    }
}

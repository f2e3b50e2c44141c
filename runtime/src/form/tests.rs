#![allow(clippy::unwrap_used)]

use arrcoc_bundle::ToolSyntax;
use serde_json::{Value, json};

use super::*;
use crate::generate::{CallPiece, Function, Tools};
use crate::text::Markers;
use crate::tools::{Reader, Syntax};
use crate::toy;

fn guide(expression: &str) -> Guide {
    let vocabulary = Vocabulary::new(&toy::tokenizer()).unwrap();
    let forms = Forms::new(vec![toy::IM_END]);
    let form = Form::Regex(expression.into());
    forms.compile(&form, &vocabulary, &Sampling::default()).unwrap()
}

fn allowed(guide: &mut Guide) -> Option<Vec<u32>> {
    let mask = guide.mask().unwrap()?;
    Some((0..400).filter(|id| mask.allows(*id)).collect())
}

#[test]
fn the_end_is_allowed_where_the_form_is_complete() {
    let mut guide = guide("ab?");
    assert_eq!(allowed(&mut guide), Some(vec![toy::byte_id(b'a')]));
    assert_eq!(guide.take(toy::byte_id(b'a')), Ok(Progress::Open));
    assert_eq!(allowed(&mut guide), Some(vec![toy::byte_id(b'b'), toy::IM_END]));
    let mut other = guide.clone();
    assert_eq!(guide.take(toy::byte_id(b'b')), Ok(Progress::Complete));
    assert!(other.take(toy::byte_id(b'a')).is_err(), "clones are apart, and keep their form");
}

#[test]
fn control_tokens_are_in_no_form() {
    let found = allowed(&mut guide("(?s:.)*")).unwrap();
    let special = [toy::ENDOFTEXT, toy::IM_START, toy::VISION_START, toy::VISION_END, toy::IMAGE_PAD];
    assert!(special.iter().all(|id| !found.contains(id)), "{found:?}");
    assert!(found.contains(&toy::IM_END) && found.contains(&toy::byte_id(b'\n')));
}

/// Two control tokens of the toy as the beginning and the end of thoughts.
#[test]
fn thoughts_come_first_and_free() {
    let (begin, end) = (toy::VISION_START, toy::VISION_END);
    let markers = Markers::from_ids(begin, end);
    let mut open = guide("a").behind(Some(markers.behind(&[])));
    assert_eq!(allowed(&mut open), Some(vec![toy::byte_id(b'a'), begin]), "either of the two");
    let mut answers = open.clone();
    assert_eq!(answers.take(toy::byte_id(b'a')), Ok(Progress::Complete));

    for mut thinks in [guide("a").behind(Some(markers.behind(&[begin]))), {
        open.take(begin).unwrap();
        open
    }] {
        for id in [toy::byte_id(b'z'), begin, toy::IM_START] {
            assert_eq!(allowed(&mut thinks), None);
            assert_eq!(thinks.take(id), Ok(Progress::Open));
        }
        assert_eq!(thinks.take(end), Ok(Progress::Open));
        assert_eq!(allowed(&mut thinks), Some(vec![toy::byte_id(b'a')]), "no thoughts twice");
        assert_eq!(thinks.take(toy::byte_id(b'a')), Ok(Progress::Complete));
    }
}

/// Answers that are bound to calls, drawn token by token: in every syntax they are read as calls whose
/// arguments keep the schema, and nothing else of them is left.
#[test]
fn bound_calls_are_read_as_calls() {
    let vocabulary = Vocabulary::new(&toy::tokenizer()).unwrap();
    let parameters = json!({
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "unit": {"enum": ["C", "F"]},
            "days": {"$ref": "#/$defs/count"},
            "near": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
        },
        "required": ["city", "days"],
        "$defs": {"count": {"type": "integer", "minimum": 1, "maximum": 40}},
    });
    let function = |name: &str, parameters: Option<Value>| Function {
        name: name.into(),
        parameters,
        described: Value::Null,
    };
    let functions =
        vec![function("weather", Some(parameters)), function("now", Some(json!({"properties": {}})))];
    let syntaxes = [
        ToolSyntax::Hermes,
        ToolSyntax::QwenXml,
        ToolSyntax::Llama,
        ToolSyntax::Mistral,
        ToolSyntax::Granite,
        ToolSyntax::DeepSeek,
    ];
    for syntax in syntaxes.map(Syntax::named) {
        for (choice, single) in
            [(ToolChoice::Required, false), (ToolChoice::Required, true), (ToolChoice::Function(0), false)]
        {
            let tools = Tools { functions: functions.clone(), choice, single };
            let calls = Calls { tools: &tools, written: &syntax.bound };
            let forms = Forms::new(vec![toy::IM_END]);
            let guide = forms.compile_beside(None, Some(calls), &vocabulary, &Sampling::default());
            let guide = guide.unwrap().unwrap();
            let mut read = 0;
            for seed in 0..12 {
                let Some(answer) = draw(guide.clone(), &vocabulary, seed) else { continue };
                let mut reader = Reader::new(syntax, &tools).bound();
                let (heard, rest) = (reader.push(&answer), reader.finish());
                assert_eq!(heard.text + &rest.text, "", "{:?}: {answer}", syntax.name);
                check_calls(&heard.calls, &tools, &answer);
                read += 1;
            }
            assert!(read >= 6, "{:?}, {choice:?}: {read} of 12 answers came to an end", syntax.name);
        }
    }
}

/// An answer of tokens that are drawn among those that may come next, ended where it may end.
fn draw(mut guide: Guide, vocabulary: &Vocabulary, seed: u64) -> Option<String> {
    let (mut state, mut bytes) = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, Vec::new());
    for _ in 0..3000 {
        guide.prepare();
        if guide.is_complete() {
            return String::from_utf8(bytes).ok();
        }
        let allowed = allowed(&mut guide)?;
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let drawn = (state >> 33) as usize;
        let id = match ends_soon(&bytes, drawn, &allowed) {
            _ if allowed.contains(&toy::IM_END) && !drawn.is_multiple_of(3) => toy::IM_END,
            Some(id) => id,
            None => allowed[drawn % allowed.len()],
        };
        if id == toy::IM_END {
            return String::from_utf8(bytes).ok();
        }
        let progress = guide.take(id).unwrap();
        bytes.extend_from_slice(vocabulary.bytes(id));
        if progress == Progress::Complete {
            return String::from_utf8(bytes).ok();
        }
    }
    None
}

/// Now and then what ends a string, in JSON or in an element: any byte may go on with it.
fn ends_soon(bytes: &[u8], drawn: usize, allowed: &[u32]) -> Option<u32> {
    let end = b"\n</parameter>\n";
    let begun = (0..end.len()).rev().find(|length| bytes.ends_with(&end[..*length]))?;
    let next = [if begun > 0 || drawn.is_multiple_of(4) { end[begun] } else { b'"' }, b'"'].map(toy::byte_id);
    next.into_iter().find(|id| allowed.contains(id)).filter(|_| begun > 1 || drawn.is_multiple_of(2))
}

fn check_calls(pieces: &[CallPiece], tools: &Tools, answer: &str) {
    let mut calls: Vec<(String, String)> = Vec::new();
    for piece in pieces {
        if let Some(name) = &piece.name {
            calls.push((name.clone(), String::new()));
        }
        calls.last_mut().unwrap().1 += &piece.arguments;
    }
    let one = tools.single || matches!(tools.choice, ToolChoice::Function(_));
    assert!(if one { calls.len() == 1 } else { !calls.is_empty() }, "{answer}");
    for (name, arguments) in &calls {
        let arguments: Value = serde_json::from_str(arguments).unwrap();
        let arguments = arguments.as_object().unwrap();
        if name == "now" {
            assert!(arguments.is_empty(), "{answer}");
            continue;
        }
        assert!(arguments["city"].is_string(), "{answer}");
        assert!((1..=40).contains(&arguments["days"].as_i64().unwrap()), "{answer}");
        assert!(arguments.get("unit").is_none_or(|unit| ["C", "F"].contains(&unit.as_str().unwrap())));
        assert!(arguments.get("near").is_none_or(|near| near.as_array().unwrap().len() <= 2), "{answer}");
    }
}

#[test]
fn arguments_that_cannot_be_kept_are_refused_with_their_place() {
    let vocabulary = Vocabulary::new(&toy::tokenizer()).unwrap();
    let parameters = json!({"type": "object", "properties": {"a": {"not": {}}}});
    let function =
        |name: &str, parameters| Function { name: name.into(), parameters, described: Value::Null };
    let functions = vec![function("f", None), function("g", Some(parameters))];
    for syntax in [ToolSyntax::Hermes, ToolSyntax::QwenXml].map(Syntax::named) {
        let refused = |choice| {
            let tools = Tools { functions: functions.clone(), choice, single: false };
            let calls = Calls { tools: &tools, written: &syntax.bound };
            Forms::new(vec![toy::IM_END]).compile_beside(None, Some(calls), &vocabulary, &Sampling::default())
        };
        let error = crate::generate::GenerateError::from(refused(ToolChoice::Required).unwrap_err());
        let message = error.to_string();
        assert!(message.contains("the arguments of `g`: at #/properties/a/not"), "{message}");
        assert!(matches!(error, crate::generate::GenerateError::Invalid { field: "tools", .. }));
        assert!(refused(ToolChoice::Auto).unwrap().is_none(), "what need not be called binds nothing");
        assert!(refused(ToolChoice::Function(0)).unwrap().is_some());
    }
}

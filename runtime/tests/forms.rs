//! Answers of a form, without a model: tokens are drawn from what a form allows, whatever a model would have
//! said, and the text must have the form. Over the tokens of the committed checkpoint.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::time::{Duration, Instant};

use arrcoc_runtime::form::{FormError, Forms, Progress};
use arrcoc_runtime::generate::{Form, JsonStyle, Sampling, WhiteSpace};
use arrcoc_runtime::prompt::Prompter;
use arrcoc_tests::fuzz::assert_presentable;
use arrcoc_tests::repository;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use serde_json::{Value, json};

/// The checkpoint's tokens, and forms over them.
struct Bench {
    prompter: Prompter,
    forms: Forms,
    end: u32,
}

fn bench() -> Bench {
    let checkpoint = repository("reference/checkpoints/arr-coc-ledger");
    let read = |name: &str| fs::read_to_string(checkpoint.join(name)).unwrap();
    let config: Value = serde_json::from_str(&read("config.json")).unwrap();
    let image_token = config["image_token_id"].as_u64().unwrap() as u32;
    let template = Some(read("chat_template.jinja"));
    let prompter =
        Prompter::new(&read("tokenizer.json"), &read("tokenizer_config.json"), template, image_token)
            .unwrap();
    let end = image_token;
    Bench { prompter, forms: Forms::new(vec![end]), end }
}

impl Bench {
    /// A text of a form, drawn token by token, and whether it came to an end within `most` tokens.
    fn draw(&self, form: &Form, seed: u64, most: usize) -> Result<(String, bool), FormError> {
        let mut random = ChaCha12Rng::seed_from_u64(seed);
        let vocabulary = self.prompter.vocabulary();
        let mut guide = self.forms.compile(form, vocabulary, &Sampling::default())?;
        let mut text = Vec::new();
        for _ in 0..most {
            guide.prepare();
            if guide.is_complete() {
                return Ok((String::from_utf8(text).unwrap(), true));
            }
            let mask = guide.mask()?.unwrap();
            if mask.allows(self.end) && random.random_bool(0.3) {
                return Ok((String::from_utf8(text).unwrap(), true));
            }
            let allowed: Vec<u32> =
                (0..vocabulary.ids() as u32).filter(|&id| id != self.end && mask.allows(id)).collect();
            // Strings come to an end now and then.
            let quote = allowed.iter().find(|&&id| vocabulary.bytes(id) == b"\"");
            let id = match (quote, allowed.len()) {
                (_, 0) => return Ok((String::from_utf8(text).unwrap(), true)),
                (Some(quote), _) if random.random_bool(0.2) => *quote,
                (_, count) => allowed[random.random_range(0..count)],
            };
            text.extend_from_slice(vocabulary.bytes(id));
            if guide.take(id)? == Progress::Complete {
                return Ok((String::from_utf8(text).unwrap(), true));
            }
        }
        Ok((String::from_utf8_lossy(&text).into_owned(), false))
    }
}

fn json_form(schema: Value) -> Form {
    Form::Json { schema, style: JsonStyle::default() }
}

#[test]
fn texts_match_expressions_choices_and_grammars() {
    let bench = bench();
    let drawn = |form: Form| (0..20).map(|seed| bench.draw(&form, seed, 400).unwrap()).collect::<Vec<_>>();
    for (text, ended) in drawn(Form::Regex(r"^(a|bc){2,4}-\d{3}(/é+)?$".into())) {
        let (head, tail) = text.split_once('-').unwrap_or_else(|| panic!("{text}"));
        assert!(head.replace("bc", "a").chars().all(|char| char == 'a'), "{text}");
        assert!(!ended || tail.chars().filter(|char| char.is_numeric()).count() == 3, "{text}");
    }
    let choices = ["yes", "no", "no\nnever \"mind\"\u{7f}", "yesterday"].map(String::from);
    let found = drawn(Form::Choice(choices.to_vec()));
    assert!(found.iter().all(|(text, ended)| *ended && choices.contains(text)), "{found:?}");
    assert!(found.iter().any(|(text, _)| *text != found[0].0), "all the same: {found:?}");
    for grammar in [
        "start: sum\nsum: term (\"+\" term)*\nterm: /[0-9]+/ | \"(\" sum \")\"\n",
        "root ::= term (\"+\" term)*\nterm ::= [0-9]+ | \"(\" root \")\"",
    ] {
        for (text, ended) in drawn(Form::Grammar(grammar.into())) {
            assert!(text.chars().all(|char| "0123456789+()".contains(char)), "{text}");
            let open = text.matches('(').count();
            assert!(!ended || open == text.matches(')').count(), "{text}");
        }
    }
}

#[test]
fn json_is_written_as_its_style_says() {
    let bench = bench();
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"enum": ["x", null]}},
        "required": ["a", "b"]});
    let texts = |white_space: WhiteSpace, closed| {
        let form = Form::Json { schema: schema.clone(), style: JsonStyle { white_space, closed } };
        let all: Vec<(String, bool)> = (0..30).map(|seed| bench.draw(&form, seed, 600).unwrap()).collect();
        all.into_iter().filter(|(_, ended)| *ended).map(|(text, _)| text).collect::<Vec<_>>()
    };
    for text in texts(WhiteSpace::None, true) {
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value.as_object().unwrap().len(), 2, "{text}");
        assert!(!text.contains(' ') && !text.contains('\n'), "{text}");
    }
    let spaced = texts(WhiteSpace::Some, true);
    let wide = |text: &String| text.lines().any(|line| line.trim_start().contains("  "));
    assert!(spaced.iter().any(|text| text.contains(' ')) && !spaced.iter().any(wide), "{spaced:?}");
    let tabs = texts(WhiteSpace::Pattern("\\t".into()), true);
    assert!(tabs.iter().any(|text| text.contains('\t')) && tabs.iter().all(|text| !text.contains(' ')));
    let open = texts(WhiteSpace::None, false);
    let open: Vec<Value> = open.iter().filter_map(|text| serde_json::from_str(text).ok()).collect();
    assert!(open.iter().any(|value| value.as_object().unwrap().len() > 2), "{open:?}");
}

#[test]
fn what_cannot_be_kept_is_refused_with_its_place() {
    let bench = bench();
    let of = |schema: Value| json!({"type": "object", "properties": {"a b/c": schema}});
    let here = "#/properties/a b~1c";
    for (schema, place) in [
        (of(json!({"not": {}})), format!("{here}/not")),
        (of(json!({"type": "text"})), format!("{here}/type")),
        (of(json!({"type": []})), format!("{here}/type")),
        (of(json!(7)), here.into()),
        (of(json!({"minimum": "1"})), format!("{here}/minimum")),
        (of(json!({"maximum": 1e300})), format!("{here}/maximum")),
        (of(json!({"exclusiveMinimum": 0, "maximum": 0.5})), format!("{here}/exclusiveMinimum")),
        (of(json!({"multipleOf": 0.001})), format!("{here}/multipleOf")),
        (of(json!({"const": 9_007_199_254_740_993_u64})), format!("{here}/const")),
        (of(json!({"enum": [[1], {"x": 1e200}]})), format!("{here}/enum")),
        (of(json!({"enum": "x"})), format!("{here}/enum")),
        (of(json!({"const": "a\u{1}"})), format!("{here}/const")),
        (of(json!({"properties": {"x": {}, "y": {}}, "maxProperties": 1})), format!("{here}/maxProperties")),
        (of(json!({"minLength": -1})), format!("{here}/minLength")),
        (of(json!({"minLength": 3, "maxLength": 2})), format!("{here}/minLength")),
        (of(json!({"pattern": "(?=a)"})), format!("{here}/pattern")),
        (of(json!({"pattern": "("})), format!("{here}/pattern")),
        (of(json!({"patternProperties": {"[": {}}})), format!("{here}/patternProperties/[")),
        (of(json!({"uniqueItems": true})), format!("{here}/uniqueItems")),
        (of(json!({"prefixItems": {}})), format!("{here}/prefixItems")),
        (of(json!({"items": [{}, {"contains": {}}]})), format!("{here}/items/1/contains")),
        (of(json!({"required": true})), format!("{here}/required")),
        (of(json!({"minProperties": 2})), format!("{here}/minProperties")),
        (of(json!({"allOf": {}})), format!("{here}/allOf")),
        (of(json!({"anyOf": [{}, {"if": {}}]})), format!("{here}/anyOf/1/if")),
        (of(json!({"oneOf": [{"type": "number"}, {"type": "integer"}]})), format!("{here}/oneOf")),
        (of(json!({"$ref": "https://example.org/schema.json"})), format!("{here}/$ref")),
        (of(json!({"$ref": "other.json#/x"})), format!("{here}/$ref")),
        (of(json!({"$ref": "#name"})), format!("{here}/$ref")),
        (of(json!({"$ref": "#/$defs/none"})), format!("{here}/$ref")),
        (json!({"$ref": "#/$defs/x", "$defs": {"x": {"items": {"not": {}}}}}), "#/$defs/x/items/not".into()),
        (json!(false), "#".into()),
        (
            json!({"$ref": "#/x/y", "x": {"y": {"type": "array", "items": {"$ref": "#/x/y", "maxItems": 1}}}}),
            "#/x/y".into(),
        ),
        (json!({"$ref": "#"}), "#".into()),
        (json!({"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]}), "#".into()),
        (json!({"type": "array", "items": {"$ref": "#"}, "minItems": 1}), "#".into()),
        (json!({"type": "string", "enum": [1, 2]}), "#".into()),
    ] {
        let error = bench.forms.compile(
            &json_form(schema.clone()),
            bench.prompter.vocabulary(),
            &Sampling::default(),
        );
        match error {
            Err(error @ FormError::Schema { .. }) => {
                let text = error.to_string();
                assert_presentable(&text);
                assert!(text.starts_with(&format!("at {place}: ")), "{schema}: {text}");
            }
            other => panic!("{schema}: {other:?}"),
        }
    }
}

#[test]
fn what_is_no_expression_choice_or_grammar_is_refused() {
    let bench = bench();
    for form in [
        Form::Regex(String::new()),
        Form::Regex("(".into()),
        Form::Regex("a\\".into()),
        Form::Regex("(?!a)b".into()),
        Form::Regex("a\\bc".into()),
        Form::Regex("[^\\x00-\\x{10ffff}]".into()),
        Form::Choice(Vec::new()),
        Form::Grammar(String::new()),
        Form::Grammar("start: nothing".into()),
        Form::Grammar("start: \"a".into()),
        Form::Grammar("start: <|im_end|>".into()),
        Form::Grammar("start: %json {\"not\": {}}".into()),
        Form::Grammar("%llguidance {}\nstart: \"a\"".into()),
        Form::Grammar("start: start".into()),
        Form::Grammar("root ::= other".into()),
        Form::Grammar("root ::= root".into()),
    ] {
        let refused = bench.forms.compile(&form, bench.prompter.vocabulary(), &Sampling::default());
        let refused = refused.expect_err(&format!("{form:?}")).to_string();
        assert_presentable(&refused);
    }
}

/// What is written to take time, stack or memory without end.
fn hostile() -> Vec<(&'static str, Form)> {
    let many = |count: usize| json!({"anyOf": (0..count).map(|n| json!({"const": n})).collect::<Vec<_>>()});
    let chain = |count: usize| {
        let definitions = (0..count).map(|n| (format!("{n}"), json!({"$ref": format!("#/$defs/{}", n + 1)})));
        let mut definitions: serde_json::Map<_, _> = definitions.collect();
        definitions.insert(count.to_string(), json!({"type": "null"}));
        json!({"$ref": "#/$defs/0", "$defs": definitions})
    };
    let deep = |count: usize| (0..count).fold(json!({}), |inner, _| json!({"items": inner}));
    let products = |count: usize| {
        let either = |n: usize| json!({"anyOf": [{"properties": {format!("a{n}"): {"type": "string"}}}, {"properties": {format!("b{n}"): {"type": "null"}}}]});
        json!({"allOf": (0..count).map(either).collect::<Vec<_>>()})
    };
    let optional = |count: usize| {
        let all = (0..count).map(|n| (format!("p{n}"), json!({"type": "string", "maxLength": n})));
        json!({"type": "object", "properties": all.collect::<serde_json::Map<_, _>>()})
    };
    let rules = |count: usize| (0..count).map(|n| format!("r{n}: r{}\n", n + 1)).collect::<String>();
    vec![
        ("100,000 nodes", json_form(many(100_000))),
        ("a chain of 3,900 references", json_form(chain(3_900))),
        ("a chain of 9,000 references", json_form(chain(9_000))),
        ("120 lists deep", json_form(deep(120))),
        ("2^20 products", json_form(products(20))),
        ("2^200 products", json_form(products(200))),
        ("1,000 optional properties", json_form(optional(1_000))),
        ("3,000 optional properties", json_form(optional(3_000))),
        ("5,000 constants", json_form(many(5_000))),
        (
            "recursion",
            json_form(json!({"anyOf": [{"$ref": "#"}, {"type": "array", "items": {"$ref": "#"}}]})),
        ),
        ("a catastrophic expression", Form::Regex("(((a*)*)*)*b".into())),
        ("nested counts", Form::Regex("((((a{1,50}){1,50}){1,50}){1,50}){1,50}".into())),
        ("an intersection of counts", Form::Regex("(.*a.{1000}|.*b.{999}|.*c.{998})+".into())),
        ("many classes", Form::Regex("(\\w\\W\\s\\p{L}){1000}x".repeat(60))),
        ("brackets", Form::Regex(format!("{}a{}", "(".repeat(30_000), ")".repeat(30_000)))),
        (
            "a pattern of counts",
            json_form(json!({"type": "string", "pattern": "(.*a.{200}){50}", "maxLength": 5000})),
        ),
        ("a chain of rules", Form::Grammar(format!("start: r0\n{}r4000: \"a\"\n", rules(4_000)))),
        ("brackets of a grammar", Form::Grammar(format!("start: {}", "(".repeat(30_000)))),
        ("ambiguity", Form::Grammar("start: x x x x x x x x\nx: \"a\"* | x x | \"\"\n".into())),
        ("brackets of GBNF", Form::Grammar(format!("root ::= {}", "(".repeat(30_000)))),
        ("counts of a grammar", Form::Grammar("root ::= (((\"a\"{99999}){99999}){99999}){99999}".into())),
    ]
}

/// A busy machine gets its time: on an idle one none of them takes a tenth of it.
const PATIENCE: Duration = Duration::from_secs(2);
/// All forms of this file together, MiB.
const MEMORY: usize = 1024;

#[test]
fn hostile_forms_take_neither_long_nor_much() {
    let bench = bench();
    let simple = Form::Regex("a".into());
    bench.forms.compile(&simple, bench.prompter.vocabulary(), &Sampling::default()).unwrap();
    let mut refused = 0;
    for (name, form) in hostile() {
        let started = Instant::now();
        let outcome = bench.forms.compile(&form, bench.prompter.vocabulary(), &Sampling::default());
        let took = started.elapsed();
        assert!(took < PATIENCE, "{name}: {took:?}");
        if let Err(error) = outcome {
            refused += 1;
            assert_presentable(&error.to_string());
            continue;
        }
        // What is let in costs its limits at most with every token, or ends.
        let started = Instant::now();
        let most = 50;
        let outcome = bench.draw(&form, 1, most);
        let took = started.elapsed();
        assert!(took < PATIENCE * most as u32 / 10, "{name}: {took:?} {outcome:?}");
        assert!(peak() < MEMORY, "{name}: {} MiB", peak());
    }
    assert!(refused > 8, "{refused} refused");
}

/// The most memory that this process has held, MiB.
fn peak() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() >> 10
}

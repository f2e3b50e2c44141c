#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use super::given::Given;
use super::meter::Meter;
use super::*;

const LIMITS: Limits = Limits { steps: 1 << 20, bytes: 1 << 20, time: Duration::from_secs(60) };

fn rendered(source: &str) -> Result<String, RenderError> {
    let variables = vec![("said", Value::said("x"))];
    let text = Template::parse(source).unwrap().render(variables, LIMITS, Moment(0))?;
    Ok(text.as_str().to_owned())
}

/// The parser takes the names in the lists, and a `match` does the work: none may be in the first and not in
/// the second.
#[test]
fn every_name_does_something() {
    let meter = Meter::new(LIMITS);
    let value = Value::string("a");
    let said = |outcome: Result<(), Failure>| match outcome {
        Err(Failure::Failed(message)) => message,
        _ => String::new(),
    };
    for name in names::FILTERS {
        let message = said(filters::apply(name, &value, Given::default(), &meter).map(drop));
        assert!(!message.contains("no filter"), "{message}");
    }
    for name in names::TESTS {
        let message = said(predicates::ask(name, &value, Given::default(), &meter).map(drop));
        assert!(!message.contains("no test"), "{message}");
    }
    for name in names::STRING_METHODS {
        let message = said(strings::call(&Text::own("a"), name, Given::default(), &meter).map(drop));
        assert!(!message.contains("no method"), "{message}");
    }
    let list = Value::list(vec![value.clone()]).ok().unwrap();
    let dict = Value::object(vec![("a", value.clone())]);
    let tuple = Value::tuple(vec![value.clone()]).ok().unwrap();
    let of_types =
        [(&dict, &names::DICT_METHODS[..]), (&list, &names::LIST_METHODS), (&tuple, &names::TUPLE_METHODS)];
    for (of, methods) in of_types {
        for name in methods.iter().chain([&"nonsense"]) {
            let given = || Given { positional: vec![value.clone()], ..Given::default() };
            let message = [given(), Given::default()]
                .map(|given| said(methods::call(of, name, given, &meter).map(drop)))
                .into_iter()
                .find(|message| message.contains("no method"));
            assert_eq!(message.is_some(), *name == "nonsense", "{name}");
        }
    }
    for unknown in [
        said(filters::apply("nonsense", &value, Given::default(), &meter).map(drop)),
        said(predicates::ask("nonsense", &value, Given::default(), &meter).map(drop)),
        said(strings::call(&Text::own("a"), "nonsense", Given::default(), &meter).map(drop)),
    ] {
        assert!(unknown.contains("nonsense"), "{unknown}");
    }
}

/// What is written in pieces is paid for by what it writes, not by what it was made of.
#[test]
fn what_is_written_is_paid_for() {
    for source in [
        "{{ ('%(a)04096d' * 1000) % {'a': 1} }}",
        "{{ ('%4096s' * 1000) % (('a',) * 1000) }}",
        "{{ ('{0:=04096}' * 1000).format(1) }}",
        "{{ ('{0:>4096}' * 1000).format('a') }}",
        "{{ ([1] * 1000)|tojson(separators=['x' * 4096, ':']) }}",
        "{{ ([['x' * 4096] * 10] * 100)|join }}",
        "{{ strftime_now('%c' * 200000) }}",
        "{{ (said ~ 'x') * 100000 }}",
        "{% filter replace('x', 'y' * 4096) %}{{ 'x' * 1000 }}{% endfilter %}",
        "{% macro m() %}{{ varargs|length }}{% endmacro %}{{ m(*('x' * 500000)) }}",
    ] {
        let outcome = rendered(source);
        let exhausted = matches!(&outcome, Err(RenderError { failure: Failure::Exhausted(_), .. }));
        assert!(exhausted, "{source}: {:?}", outcome.map(|text| text.len()));
    }
}

/// Slices are cut without a list of their indices; here are Python's answers.
#[test]
fn slices_are_pythons() {
    for (source, expected) in [
        ("'äbcdef'[1:4]", "bcd"),
        ("'äbcdef'[::-1]", "fedcbä"),
        ("'äbcdef'[::2]", "äce"),
        ("'äbcdef'[-2:]", "ef"),
        ("'äbcdef'[4:1:-2]", "ec"),
        ("'äbcdef'[9:]", ""),
        ("'äbcdef'[:-9:-1]", "fedcbä"),
        ("'äbcdef'[3:1]", ""),
        ("''[::-1]", ""),
        ("[1, 2, 3, 4][::-3]", "[4, 1]"),
        ("[1, 2, 3, 4][9223372036854775807:]", "[]"),
        ("[1, 2, 3, 4][::9223372036854775807]", "[1]"),
        ("'äb'|first ~ 'äb'|last", "äb"),
        ("''|first is defined", "False"),
        ("'%(a)5d|%(b)-4s|%%' % {'a': 7, 'b': 'x'}", "    7|x   |%"),
        ("'a-b'.replace('', '.')", ".a.-.b."),
        ("'aaa'.replace('a', 'b', 2)", "bba"),
        ("'7'.zfill(3) ~ 'x'.center(4, '*')", "007*x**"),
    ] {
        assert_eq!(rendered(&format!("{{{{ {source} }}}}")).unwrap(), expected, "{source}");
    }
}

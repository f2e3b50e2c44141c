//! Files that import each other in a circle, for `cargo xtask tidy`.
//!
//! A folder's `mod.rs` and the files below it are one thought: a child may take its parent's types, and the
//! parent is the child's front. All other circles are found, in the crates where there are none left.

use std::collections::{BTreeMap, BTreeSet};

/// Crates without circles.
const CRATES: &[&str] = &[
    "bundle/src/",
    "eval/src/",
    "export/src/",
    "kernels/src/",
    "models/src/",
    "runtime/src/",
    "server/src/",
    "xtask/src/",
];

/// A module's path below its crate.
type Module = Vec<String>;

/// The circles among files, each told once. `files` are names from the root of the repository, and texts.
pub(super) fn circles(files: &BTreeMap<String, String>) -> Vec<String> {
    CRATES.iter().flat_map(|root| circles_of(root, files)).collect()
}

fn circles_of(root: &str, files: &BTreeMap<String, String>) -> Vec<String> {
    let of_crate = files.keys().filter_map(|file| Some((module(file.strip_prefix(root)?)?, file.as_str())));
    let modules: BTreeMap<Module, &str> = of_crate.collect();
    let imports: BTreeMap<&Module, BTreeSet<&Module>> = modules
        .iter()
        .map(|(module, file)| {
            let all = paths(&tokens(&files[*file]));
            let found = all.iter().filter_map(|path| resolve(module, path, &modules));
            (module, found.filter(|other| !related(module, other)).collect())
        })
        .collect();
    let reached: BTreeMap<&Module, BTreeSet<&Module>> =
        modules.keys().map(|module| (module, reach(module, &imports))).collect();
    let mut told = BTreeSet::new();
    for module in modules.keys() {
        let circle: Vec<&str> = modules
            .iter()
            .filter(|(other, _)| reached[module].contains(other) && reached[other].contains(module))
            .map(|(_, file)| *file)
            .collect();
        if !circle.is_empty() {
            told.insert(format!("{} import each other in a circle", circle.join(", ")));
        }
    }
    told.into_iter().collect()
}

/// `config/load.rs` is `config::load`; files of tests are none of ours.
fn module(file: &str) -> Option<Module> {
    let mut parts: Module = file.strip_suffix(".rs")?.split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| matches!(last.as_str(), "mod" | "lib" | "main")) {
        parts.pop();
    }
    (!parts.iter().any(|part| part == "tests")).then_some(parts)
}

fn related(one: &[String], other: &[String]) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// All that a module imports, directly or through others.
fn reach<'a>(from: &Module, imports: &BTreeMap<&Module, BTreeSet<&'a Module>>) -> BTreeSet<&'a Module> {
    let mut seen = BTreeSet::new();
    let mut open: Vec<&'a Module> = imports[from].iter().copied().collect();
    while let Some(next) = open.pop() {
        if seen.insert(next) {
            open.extend(&imports[next]);
        }
    }
    seen
}

/// The module of this crate that a path leads into.
fn resolve<'a>(from: &[String], path: &[String], modules: &'a BTreeMap<Module, &str>) -> Option<&'a Module> {
    let (mut at, mut rest) = (from.to_vec(), path);
    match path.first()?.as_str() {
        "crate" => (at, rest) = (Vec::new(), &path[1..]),
        "super" | "self" => {
            while let Some(step) = rest.first().filter(|step| matches!(step.as_str(), "super" | "self")) {
                if step == "super" {
                    at.pop();
                }
                rest = &rest[1..];
            }
        }
        // A child, or another crate.
        _ => {}
    }
    while let Some((next, more)) = rest.split_first() {
        at.push(next.clone());
        if !modules.contains_key(&at) {
            at.pop();
            break;
        }
        rest = more;
    }
    modules.get_key_value(&at).map(|(module, _)| module).filter(|module| module.as_slice() != from)
}

/// The paths that are imported or written out. What `pub use` hands on is the front of a folder, not an
/// import.
fn paths(tokens: &[&str]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let token = tokens[at];
        if token == "use" {
            let public = at > 0 && matches!(tokens[at - 1], "pub" | ")");
            let end = (at..tokens.len()).find(|&end| tokens[end] == ";").unwrap_or(tokens.len());
            if !public {
                tree(&mut tokens[at + 1..end].iter().copied(), &[], &mut found);
            }
            at = end;
        } else if matches!(token, "crate" | "super" | "self") && tokens.get(at + 1) == Some(&"::") {
            let mut path = vec![token.to_owned()];
            while let ["::", next, ..] = tokens[at + 1..] {
                path.push(next.to_owned());
                at += 2;
            }
            found.push(path);
        }
        at += 1;
    }
    found
}

/// The paths of a tree such as `a::{b, c::d}`, up to the end or to the brace that closes it.
fn tree<'a>(tokens: &mut impl Iterator<Item = &'a str>, prefix: &[String], found: &mut Vec<Vec<String>>) {
    let mut path = prefix.to_vec();
    let mut named = true;
    while let Some(token) = tokens.next() {
        match token {
            "::" => {}
            "{" => {
                branches(tokens, &path, found);
                return;
            }
            "as" => named = false,
            name if named => path.push(name.to_owned()),
            _ => {}
        }
    }
    found.push(path);
}

/// What stands between braces.
fn branches<'a>(tokens: &mut impl Iterator<Item = &'a str>, prefix: &[String], found: &mut Vec<Vec<String>>) {
    let (mut depth, mut branch) = (0, Vec::new());
    for token in tokens {
        match (token, depth) {
            ("}", 0) | (",", 0) => {
                if !branch.is_empty() {
                    tree(&mut std::mem::take(&mut branch).into_iter(), prefix, found);
                }
                if token == "}" {
                    return;
                }
                continue;
            }
            ("{", _) => depth += 1,
            ("}", _) => depth -= 1,
            _ => {}
        }
        branch.push(token);
    }
}

/// Names, `::` and marks of a text, without comments, strings and the tests at its end.
fn tokens(text: &str) -> Vec<&str> {
    let text =
        text.find("#[cfg(test)]\n").filter(|&at| inline_tests(&text[at..])).map_or(text, |at| &text[..at]);
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("r#\"") {
            rest.find("\"#").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("'\"'") {
            3
        } else if first == '"' {
            string(rest)
        } else if rest.starts_with("::") {
            tokens.push("::");
            2
        } else {
            let name = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let length = name.max(first.len_utf8());
            if !first.is_whitespace() {
                tokens.push(&rest[..length]);
            }
            length
        };
        rest = &rest[length..];
    }
    tokens
}

/// Whether a text behind `#[cfg(test)]` is a module with its body, and not one in a file of its own.
fn inline_tests(text: &str) -> bool {
    let head = text.split(['{', ';']).next().unwrap_or_default();
    head.contains("mod ") && text[head.len()..].starts_with('{')
}

/// Length of the string that a text begins with, quotes included.
fn string(text: &str) -> usize {
    let mut escaped = true;
    for (at, c) in text.char_indices() {
        match c {
            '"' if !escaped => return at + 1,
            '\\' if !escaped => escaped = true,
            _ => escaped = false,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let files = files.iter().map(|(name, text)| (format!("eval/src/{name}"), (*text).to_owned()));
        circles(&files.collect())
    }

    #[test]
    fn circles_are_found_through_trees_and_written_out_paths() {
        let circle = found(&[
            ("lib.rs", "mod a;\nmod b;\nmod c;\n"),
            ("a.rs", "use crate::{b::{Thing, Other as One}, c};\n"),
            ("b.rs", "fn f() { super::c::g(\"use crate::a;\") }\n"),
            ("c.rs", "// not crate::b\nfn g(a: crate::a::Name) {}\n"),
        ]);
        assert_eq!(circle, ["eval/src/a.rs, eval/src/b.rs, eval/src/c.rs import each other in a circle"]);
    }

    #[test]
    fn parents_fronts_and_tests_make_no_circle() {
        let none = found(&[
            ("lib.rs", "mod a;\nmod b;\npub use b::Thing;\n"),
            ("a/mod.rs", "mod child;\nuse child::Child;\npub(crate) use crate::b::Thing;\n"),
            ("a/child.rs", "use super::Parent;\n"),
            ("b.rs", "use crate::a::Parent;\n#[cfg(test)]\nmod tests {\n    use crate::c::C;\n}\n"),
            ("c.rs", "use crate::b::B;\n"),
        ]);
        assert_eq!(none, Vec::<String>::new());
    }
}

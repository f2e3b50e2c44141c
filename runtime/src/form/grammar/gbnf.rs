//! GBNF, the form of llama.cpp and XGrammar (`root ::= "a" | [0-9]+`), written in Lark's.
//!
//! Rules that refer to no recursive one become terminals: the library makes one expression of each, and is
//! exact and fast for these.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::{DEEPEST, refused};
use crate::form::error::FormError;

/// A piece of a grammar.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Name(String),
    /// `::=`.
    Is,
    /// A string or an expression, as Lark has it.
    Text(String),
    /// How often the piece before it comes.
    Repeat(String),
    Open,
    Close,
    Bar,
}

/// A rule: what it is called, and what it says.
struct Rule {
    name: String,
    body: Vec<Piece>,
}

/// Writes a grammar in Lark's form. Its first symbol is `root`.
pub(super) fn to_lark(text: &str) -> Result<String, FormError> {
    let rules = rules(pieces(text)?)?;
    let mut places = HashMap::new();
    for (index, rule) in rules.iter().enumerate() {
        if places.insert(rule.name.as_str(), index).is_some() {
            return Err(refused(format!("expected one rule `{}`, found two", rule.name)));
        }
    }
    let place =
        |name: &str| places.get(name).copied().ok_or_else(|| refused(format!("there is no rule `{name}`")));
    let root = place("root")?;
    let mut uses = Vec::new();
    for rule in &rules {
        let names = rule
            .body
            .iter()
            .filter_map(|piece| if let Piece::Name(name) = piece { Some(name) } else { None });
        uses.push(names.map(|name| place(name)).collect::<Result<Vec<usize>, _>>()?);
    }
    let terminal = terminals(&uses);
    let called = |index: usize| if terminal[index] { format!("T{index}") } else { format!("r{index}") };
    let mut lark = format!("start: {}\n", called(root));
    for (index, rule) in rules.iter().enumerate() {
        let _ = write!(lark, "{}:", called(index));
        write_body(&mut lark, rule, |name| called(places[name]))?;
        lark.push('\n');
    }
    Ok(lark)
}

/// Which rules lead to none that leads to itself.
fn terminals(uses: &[Vec<usize>]) -> Vec<bool> {
    let mut users = vec![Vec::new(); uses.len()];
    let mut open: Vec<usize> = uses.iter().map(Vec::len).collect();
    for (index, used) in uses.iter().enumerate() {
        used.iter().for_each(|used| users[*used].push(index));
    }
    let mut terminal = vec![false; uses.len()];
    let mut settled: Vec<usize> = (0..uses.len()).filter(|index| open[*index] == 0).collect();
    while let Some(index) = settled.pop() {
        terminal[index] = true;
        for &user in &users[index] {
            open[user] -= 1;
            if open[user] == 0 {
                settled.push(user);
            }
        }
    }
    terminal
}

fn write_body<'a>(
    lark: &mut String,
    rule: &'a Rule,
    called: impl Fn(&'a str) -> String,
) -> Result<(), FormError> {
    let (mut depth, mut empty) = (0_usize, true);
    for piece in &rule.body {
        // An alternative without a symbol is the empty text.
        if empty && matches!(piece, Piece::Bar | Piece::Close) {
            lark.push_str(" \"\"");
        }
        empty = matches!(piece, Piece::Bar | Piece::Open);
        match piece {
            Piece::Name(name) => _ = write!(lark, " {}", called(name)),
            Piece::Text(text) => _ = write!(lark, " {text}"),
            Piece::Repeat(sign) => lark.push_str(sign),
            Piece::Bar => lark.push_str(" |"),
            Piece::Open => {
                depth += 1;
                lark.push_str(" (");
            }
            Piece::Close => {
                depth = depth.checked_sub(1).ok_or_else(|| refused(unbalanced(rule)))?;
                lark.push_str(" )");
            }
            Piece::Is => return Err(refused(format!("expected one `::=` in the rule `{}`", rule.name))),
        }
        if depth > DEEPEST {
            return Err(refused(format!("expected brackets at most {DEEPEST} deep")));
        }
    }
    if depth > 0 {
        return Err(refused(unbalanced(rule)));
    }
    if empty {
        lark.push_str(" \"\"");
    }
    Ok(())
}

fn unbalanced(rule: &Rule) -> String {
    format!("the brackets of the rule `{}` do not match", rule.name)
}

/// Cuts pieces into rules: a name before `::=` begins one.
fn rules(pieces: Vec<Piece>) -> Result<Vec<Rule>, FormError> {
    let mut rules: Vec<Rule> = Vec::new();
    let mut pieces = pieces.into_iter().peekable();
    while let Some(piece) = pieces.next() {
        match (piece, rules.last_mut()) {
            (Piece::Name(name), _) if pieces.next_if_eq(&Piece::Is).is_some() => {
                rules.push(Rule { name, body: Vec::new() });
            }
            (piece, Some(rule)) => rule.body.push(piece),
            (_, None) => return Err(refused("expected a rule, `name ::= ...`, first".into())),
        }
    }
    Ok(rules)
}

fn pieces(text: &str) -> Result<Vec<Piece>, FormError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(char) = rest.chars().next() {
        let length = match char {
            char if char.is_whitespace() => char.len_utf8(),
            '#' => rest.find('\n').unwrap_or(rest.len()),
            ':' if rest.starts_with("::=") => {
                pieces.push(Piece::Is);
                3
            }
            '(' | ')' | '|' => {
                pieces.push(match char {
                    '(' => Piece::Open,
                    ')' => Piece::Close,
                    _ => Piece::Bar,
                });
                1
            }
            '"' | '[' => {
                let (literal, length) = quoted(rest)?;
                pieces.push(Piece::Text(literal));
                length
            }
            '.' => {
                pieces.push(Piece::Text("/(?s:.)/".into()));
                1
            }
            '*' | '+' | '?' | '{' => repetition(rest, &mut pieces)?,
            char if char.is_alphanumeric() || char == '_' => {
                let name = |char: char| char.is_alphanumeric() || matches!(char, '_' | '-');
                let length = rest.find(|char| !name(char)).unwrap_or(rest.len());
                pieces.push(Piece::Name(rest[..length].to_owned()));
                length
            }
            char => return Err(refused(format!("there is no `{}` in GBNF", char.escape_debug()))),
        };
        rest = &rest[length..];
    }
    Ok(pieces)
}

/// `*`, `+`, `?` or `{2,3}`, which belongs to what stands before it; returns its length.
fn repetition(rest: &str, pieces: &mut Vec<Piece>) -> Result<usize, FormError> {
    let length = if rest.starts_with('{') { rest.find('}').map_or(rest.len(), |end| end + 1) } else { 1 };
    let sign = &rest[..length];
    if !is_repetition(sign) {
        return Err(refused(format!("expected a repetition such as {{2,3}}, found `{}`", excerpt(sign))));
    }
    match pieces.last_mut() {
        // Within the expression: one symbol instead of many.
        Some(Piece::Text(text)) if text.ends_with("]/") || text.ends_with(")/") => {
            text.pop();
            text.push_str(sign);
            text.push('/');
        }
        Some(Piece::Text(_) | Piece::Name(_) | Piece::Close) => pieces.push(Piece::Repeat(sign.to_owned())),
        _ => return Err(refused(format!("there is nothing before `{}` to repeat", excerpt(sign)))),
    }
    Ok(length)
}

fn is_repetition(sign: &str) -> bool {
    let Some(counts) = sign.strip_prefix('{') else { return true };
    let Some(counts) = counts.strip_suffix('}') else { return false };
    let counts: Vec<&str> = counts.split(',').map(str::trim).collect();
    let number =
        |count: &&str| (1..=5).contains(&count.len()) && count.bytes().all(|byte| byte.is_ascii_digit());
    match counts.as_slice() {
        [count] => number(count),
        [least, most] => number(least) && (most.is_empty() || number(most)),
        _ => false,
    }
}

fn excerpt(text: &str) -> String {
    arrcoc_bundle::quote::one_line(text, 20)
}

/// A string or a class of characters in Lark's form, and how long it is in the grammar.
fn quoted(rest: &str) -> Result<(String, usize), FormError> {
    let end = if rest.starts_with('"') { '"' } else { ']' };
    let open = || refused(format!("expected `{end}` behind `{}`", excerpt(rest)));
    let mut chars = rest.char_indices().skip(1).peekable();
    let negated = end == ']' && chars.next_if(|(_, char)| *char == '^').is_some();
    let mut found: Vec<(char, bool)> = Vec::new();
    loop {
        let (at, char) = chars.next().ok_or_else(open)?;
        match char {
            char if char == end => {
                let text = if end == '"' { string(&found) } else { class(&found, negated)? };
                return Ok((text, at + 1));
            }
            '\\' => found.push((escaped(&mut chars).ok_or_else(open)?, true)),
            char => found.push((char, false)),
        }
    }
}

/// The character that an escape stands for.
fn escaped(chars: &mut impl Iterator<Item = (usize, char)>) -> Option<char> {
    let (_, char) = chars.next()?;
    let digits = match char {
        'n' => return Some('\n'),
        'r' => return Some('\r'),
        't' => return Some('\t'),
        'x' => 2,
        'u' => 4,
        'U' => 8,
        char => return Some(char),
    };
    let code: String = chars.take(digits).map(|(_, char)| char).collect();
    u32::from_str_radix(&code, 16).ok().and_then(char::from_u32)
}

fn string(chars: &[(char, bool)]) -> String {
    let text: String = chars.iter().map(|(char, _)| char).collect();
    super::literal(&text)
}

fn class(chars: &[(char, bool)], negated: bool) -> Result<String, FormError> {
    if chars.is_empty() {
        return Err(refused("expected characters in `[]`".into()));
    }
    let mut class = String::from(if negated { "/[^" } else { "/[" });
    let mut rest = chars;
    while let [(first, _), behind @ ..] = rest {
        let _ = write!(class, "\\u{{{:X}}}", u32::from(*first));
        rest = match behind {
            [('-', false), (last, _), behind @ ..] => {
                if last < first {
                    return Err(refused(format!(
                        "expected a range that ascends, found {first:?} to {last:?}"
                    )));
                }
                let _ = write!(class, "-\\u{{{:X}}}", u32::from(*last));
                behind
            }
            behind => behind,
        };
    }
    class.push_str("]/");
    Ok(class)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn rules_become_terminals_unless_they_recur() {
        let lark = to_lark(
            r#"
            root ::= "SELECT " column (", " column)* end # a comment
            column ::= [a-z_]+ | "\"" [^"\\]{1,3} "\""
            end ::= | "(" root ")"
            "#,
        );
        let expected = r#"start: r0
r0: "SELECT " T1 ( ", " T1 )* r2
T1: /[\u{61}-\u{7A}\u{5F}]+/ | "\"" /[^\u{22}\u{5C}]{1,3}/ "\""
r2: "" | "(" r0 ")"
"#;
        assert_eq!(lark.unwrap(), expected);
    }

    #[test]
    fn slips_are_refused() {
        for (text, reason) in [
            ("start ::= \"a\"", "no rule `root`"),
            ("root ::= other", "no rule `other`"),
            ("root ::= \"a", "expected `\"`"),
            ("root ::= [z-a]", "ascends"),
            ("root ::= [", "expected `]`"),
            ("root ::= []", "characters"),
            ("root ::= (\"a\"", "brackets"),
            ("root ::= \"a\")", "brackets"),
            ("root ::= * \"a\"", "nothing before"),
            ("root ::= \"a\"{x}", "repetition"),
            ("root ::= \"a\"{1", "repetition"),
            ("root ::= \"a\"\nroot ::= \"b\"", "found two"),
            ("\"a\" root ::= \"b\"", "first"),
            ("root ::= \"a\" ::= \"b\"", "one `::=`"),
            ("root ::= $", "no `$`"),
            (&format!("root ::= {}", "(".repeat(100)), "deep"),
        ] {
            let error = to_lark(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}

//! Grammars: Lark's form, which the library reads, and GBNF, which is written in it first.

use super::error::FormError;

mod gbnf;

/// Deepest nesting of brackets.
const DEEPEST: usize = 64;
/// What a grammar may say of itself, besides rules. The library has more: JSON schemas, control tokens and
/// grammars inside of grammars, which have limits of their own elsewhere.
const STATEMENTS: [&str; 2] = ["%ignore", "%import"];

/// Writes a grammar for the library.
///
/// # Errors
/// [`FormError::Text`] for what is not to be had.
pub(super) fn prepare(text: &str) -> Result<String, FormError> {
    let plain = outside_of_strings(text)?;
    if plain.contains("::=") {
        return gbnf::to_lark(text);
    }
    if let Some(statement) = plain.split('%').skip(1).find(|rest| !is_known(rest)) {
        let name: String = statement.chars().take_while(char::is_ascii_alphabetic).collect();
        return Err(refused(format!(
            "expected no statements but {}, found `%{name}`",
            STATEMENTS.join(" and ")
        )));
    }
    if plain.contains('<') || plain.contains('@') {
        return Err(refused("expected no control tokens (`<...>`) and no other grammars (`@...`)".into()));
    }
    Ok(text.to_owned())
}

/// A text as Lark writes it.
pub(super) fn literal(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    // JSON leaves this one as it is, Lark does not.
    quoted.replace('\u{7f}', "\\u007f")
}

fn is_known(rest: &str) -> bool {
    STATEMENTS.iter().any(|statement| rest.starts_with(&statement[1..]))
}

fn refused(reason: String) -> FormError {
    FormError::Text(format!("the grammar cannot be kept: {reason}"))
}

/// A grammar without strings, expressions and comments; its brackets are counted on the way.
fn outside_of_strings(text: &str) -> Result<String, FormError> {
    let (mut plain, mut depth) = (String::with_capacity(text.len()), 0_usize);
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        let quote = match (char, chars.peek()) {
            ('#', _) | ('/', Some('/')) => {
                while chars.next_if(|char| *char != '\n').is_some() {}
                continue;
            }
            ('"' | '/', _) => char,
            _ => {
                match char {
                    '(' | '[' | '{' => depth += 1,
                    ')' | ']' | '}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                if depth > DEEPEST {
                    return Err(refused(format!("expected brackets at most {DEEPEST} deep")));
                }
                plain.push(char);
                continue;
            }
        };
        // What follows a backslash ends nothing.
        while let Some(char) = chars.next() {
            match char {
                '\\' => _ = chars.next(),
                char if char == quote => break,
                _ => {}
            }
        }
    }
    Ok(plain)
}

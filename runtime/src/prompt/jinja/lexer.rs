//! Template source to tokens, with the white space rules of jinja2 under `trim_blocks` and `lstrip_blocks`.

use super::SyntaxError;
use super::value::is_space;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Data(String),
    BlockBegin,
    BlockEnd,
    OutputBegin,
    OutputEnd,
    Name(String),
    Str(String),
    Int(i64),
    Float(f64),
    Op(&'static str),
}

/// Longest first, so that the first that fits is meant.
const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<",
    "=", ".", ":", "|", ",", ";",
];

/// jinja2 reads every line end as `\n` and drops the last one.
pub(super) fn normalise(source: &str) -> String {
    let mut text = source.replace("\r\n", "\n").replace('\r', "\n");
    if text.ends_with('\n') {
        text.pop();
    }
    text
}

/// Tokens with the lines that they stand on.
pub(super) fn tokens(source: &str) -> Result<Vec<(Token, u32)>, SyntaxError> {
    let mut lexer = Lexer { source, at: 0, line: 1, counted: 0, line_starting: true, tokens: Vec::new() };
    while lexer.at < source.len() {
        lexer.root()?;
    }
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: u32,
    /// Up to where line ends have been counted.
    counted: usize,
    /// The last tag took a line end with it.
    line_starting: bool,
    tokens: Vec<(Token, u32)>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn line(&mut self) -> u32 {
        let newlines = self.source.as_bytes()[self.counted..self.at].iter().filter(|b| **b == b'\n').count();
        self.line += newlines as u32;
        self.counted = self.at;
        self.line
    }

    fn error<T>(&mut self, message: impl Into<String>) -> Result<T, SyntaxError> {
        Err(SyntaxError { line: self.line(), message: message.into() })
    }

    fn push(&mut self, token: Token) {
        let line = self.line();
        self.tokens.push((token, line));
    }

    fn data(&mut self, text: &str) {
        if !text.is_empty() {
            self.push(Token::Data(text.to_owned()));
        }
    }

    /// Text up to the next tag, and that tag.
    fn root(&mut self) -> Result<(), SyntaxError> {
        let rest = self.rest();
        let Some((length, tag)) = next_tag(rest) else {
            self.data(rest);
            self.at = self.source.len();
            return Ok(());
        };
        let text = &rest[..length];
        let mut after = &rest[length + 2..];
        let sign = after.chars().next().filter(|c| matches!(c, '-' | '+'));
        if sign.is_some() {
            after = &after[1..];
        }
        self.data(self.strip(text, sign, tag != "{{"));
        self.at += length + 2 + usize::from(sign.is_some());
        match tag {
            "{#" => self.comment(after),
            "{%" => match raw_begin(after) {
                Some(body) => self.raw(body),
                None => {
                    self.push(Token::BlockBegin);
                    self.expression("%}", Token::BlockEnd)
                }
            },
            _ => {
                self.push(Token::OutputBegin);
                self.expression("}}", Token::OutputEnd)
            }
        }
    }

    /// The text before a tag without what the tag's sign, or `lstrip_blocks`, takes from its end.
    fn strip<'t>(&self, text: &'t str, sign: Option<char>, block: bool) -> &'t str {
        match sign {
            Some('-') => text.trim_end_matches(is_space),
            Some(_) => text,
            None if block => {
                let line = text.rfind('\n').map_or(0, |at| at + 1);
                let starts = line > 0 || self.line_starting;
                if starts && text[line..].chars().all(is_space) { &text[..line] } else { text }
            }
            None => text,
        }
    }

    /// Takes the end of a tag, with the sign before it and the white space that goes with it.
    fn end(&mut self, close: &str, trims_newline: bool) -> bool {
        let rest = self.rest();
        let length = if let Some(after) = rest.strip_prefix('-').and_then(|rest| rest.strip_prefix(close)) {
            rest.len() - after.trim_start_matches(is_space).len()
        } else if trims_newline && rest.strip_prefix('+').is_some_and(|rest| rest.starts_with(close)) {
            1 + close.len()
        } else if let Some(after) = rest.strip_prefix(close) {
            close.len() + usize::from(trims_newline && after.starts_with('\n'))
        } else {
            return false;
        };
        self.line_starting = rest[..length].ends_with('\n');
        self.at += length;
        true
    }

    fn comment(&mut self, after: &str) -> Result<(), SyntaxError> {
        let Some(length) = after.find("#}") else { return self.error("expected `#}`, found the end") };
        let signed = after[..length].ends_with(['-', '+']);
        self.at += length - usize::from(signed);
        self.end("#}", true);
        Ok(())
    }

    /// `body` is the source behind `{% raw %}`.
    fn raw(&mut self, body: &'a str) -> Result<(), SyntaxError> {
        let mut from = 0;
        while let Some(found) = body[from..].find("{%") {
            let begin = from + found;
            let mut after = &body[begin + 2..];
            let sign = after.chars().next().filter(|c| matches!(c, '-' | '+'));
            if sign.is_some() {
                after = &after[1..];
            }
            let close = after.trim_start_matches(is_space).strip_prefix("endraw");
            let close = close.map(|close| close.trim_start_matches(is_space));
            if let Some(close) =
                close.filter(|close| ["%}", "-%}", "+%}"].iter().any(|end| close.starts_with(end)))
            {
                self.line_starting = false;
                self.data(self.strip(&body[..begin], sign, true));
                self.at = self.source.len() - close.len();
                self.end("%}", true);
                return Ok(());
            }
            from = begin + 2;
        }
        self.error("expected `{% endraw %}`, found the end")
    }

    /// Tokens of one tag, its end included.
    fn expression(&mut self, close: &'static str, end: Token) -> Result<(), SyntaxError> {
        let mut open = Vec::new();
        loop {
            let skipped = self.rest().trim_start_matches(is_space);
            self.at = self.source.len() - skipped.len();
            let Some(c) = skipped.chars().next() else {
                return self.error(format!("expected `{close}`, found the end"));
            };
            if open.is_empty() && self.end(close, close == "%}") {
                self.push(end);
                return Ok(());
            }
            if c.is_ascii_digit() {
                self.number()?;
            } else if c == '_' || c.is_alphanumeric() {
                let length =
                    skipped.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(skipped.len());
                self.push(Token::Name(skipped[..length].to_owned()));
                self.at += length;
            } else if c == '"' || c == '\'' {
                self.string(c)?;
            } else if let Some(operator) = OPERATORS.iter().find(|operator| skipped.starts_with(**operator)) {
                self.balance(operator, &mut open)?;
                self.push(Token::Op(operator));
                self.at += operator.len();
            } else {
                return self.error(format!("expected an expression, found {c:?}"));
            }
        }
    }

    fn balance(&mut self, operator: &'static str, open: &mut Vec<&'static str>) -> Result<(), SyntaxError> {
        match operator {
            "(" => open.push(")"),
            "[" => open.push("]"),
            "{" => open.push("}"),
            ")" | "]" | "}" if open.pop() != Some(operator) => {
                return self.error(format!("found a `{operator}` that closes nothing"));
            }
            _ => {}
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), SyntaxError> {
        let rest = self.rest();
        let digits = |text: &str| text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'_').count();
        let radix = match rest.get(..2).map(str::to_ascii_lowercase).as_deref() {
            Some("0x") => 16,
            Some("0o") => 8,
            Some("0b") => 2,
            _ => 10,
        };
        let mut length = digits(rest);
        let mut float = false;
        // Behind a dot a number is an index: `x.0.5` is two of them.
        let index = matches!(self.tokens.last(), Some((Token::Op("."), _)));
        if radix != 10 {
            length = 2 + rest[2..].bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
        } else if !index {
            let fraction = rest[length..].strip_prefix('.').map_or(0, digits);
            if fraction > 0 {
                (length, float) = (length + 1 + fraction, true);
            }
            let exponent = rest[length..].strip_prefix(['e', 'E']);
            let unsigned = exponent.map(|text| text.strip_prefix(['+', '-']).unwrap_or(text));
            if let Some(power) = unsigned.filter(|text| digits(text) > 0) {
                length = rest.len() - power.len() + digits(power);
                float = true;
            }
        }
        let text = rest[..length].replace('_', "");
        let token = if float {
            text.parse().ok().map(Token::Float)
        } else if radix == 10 {
            text.parse().ok().map(Token::Int)
        } else {
            i64::from_str_radix(&text[2..], radix).ok().map(Token::Int)
        };
        let Some(token) = token else { return self.error(format!("`{text}` is no number of 64 bits")) };
        self.push(token);
        self.at += length;
        Ok(())
    }

    fn string(&mut self, quote: char) -> Result<(), SyntaxError> {
        let body = &self.rest()[1..];
        let (mut escaped, mut end) = (false, None);
        for (at, c) in body.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                _ if c == quote => {
                    end = Some(at);
                    break;
                }
                _ => {}
            }
        }
        let Some(end) = end else { return self.error(format!("expected `{quote}`, found the end")) };
        let text = match unescape(&body[..end]) {
            Ok(text) => text,
            Err(message) => return self.error(message),
        };
        self.push(Token::Str(text));
        self.at += end + 2;
        Ok(())
    }
}

/// Where the next tag begins, and how.
fn next_tag(text: &str) -> Option<(usize, &'static str)> {
    text.match_indices('{').find_map(|(at, _)| {
        let tag = match text.as_bytes().get(at + 1)? {
            b'{' => "{{",
            b'%' => "{%",
            b'#' => "{#",
            _ => return None,
        };
        Some((at, tag))
    })
}

/// The source behind `{% raw %}`, where `after` (what follows the tag's begin) is one.
fn raw_begin(after: &str) -> Option<&str> {
    let close = after.trim_start_matches(is_space).strip_prefix("raw")?.trim_start_matches(is_space);
    match close.strip_prefix("-%}") {
        Some(body) => Some(body.trim_start_matches(is_space)),
        None => close.strip_prefix("%}"),
    }
}

/// Python's `unicode-escape`.
fn unescape(body: &str) -> Result<String, String> {
    let mut text = String::with_capacity(body.len());
    let mut rest = body;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let Some(c) = after.chars().next() else { return Err("a string ends in `\\`".into()) };
        rest = &after[c.len_utf8()..];
        match c {
            '\n' => {}
            '\\' | '\'' | '"' => text.push(c),
            'n' => text.push('\n'),
            't' => text.push('\t'),
            'r' => text.push('\r'),
            'a' => text.push('\x07'),
            'b' => text.push('\x08'),
            'f' => text.push('\x0C'),
            'v' => text.push('\x0B'),
            'x' | 'u' | 'U' => {
                let length = match c {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                let found = rest.get(..length).and_then(|hex| u32::from_str_radix(hex, 16).ok());
                let Some(found) = found.and_then(char::from_u32) else {
                    return Err(format!("`\\{c}` in a string names no character"));
                };
                text.push(found);
                rest = &rest[length..];
            }
            '0'..='7' => {
                let length = after.bytes().take(3).take_while(|b| (b'0'..=b'7').contains(b)).count();
                let code = u32::from_str_radix(&after[..length], 8).ok().and_then(char::from_u32);
                text.push(code.unwrap_or('\0'));
                rest = &after[length..];
            }
            'N' => return Err("`\\N{...}` in a string is not supported; write the character itself".into()),
            _ => {
                text.push('\\');
                text.push(c);
            }
        }
    }
    text.push_str(rest);
    Ok(text)
}

//! Expressions, in jinja2's order of precedence.

use super::SyntaxError;
use super::ast::{Args, Binary, Comparison, Expr, ExprKind, Name};
use super::lexer::Token;
use super::names;
use super::parser::Parser;

/// Most levels of one expression, chains of filters and operators included.
const DEPTH: usize = 200;

/// jinja2's globals that are not here: one makes up text, the others keep state between calls.
const ABSENT_GLOBALS: [&str; 4] = ["lipsum", "cycler", "joiner", "gettext"];

impl Parser {
    fn make(&self, kind: ExprKind) -> Result<Expr, SyntaxError> {
        let depth = 1 + deepest(&kind);
        if depth > DEPTH {
            return self.error(format!("an expression of more than {DEPTH} levels"));
        }
        Ok(Expr { depth, kind })
    }

    /// An expression, `a if b else c` included.
    pub(super) fn expression(&mut self) -> Result<Expr, SyntaxError> {
        self.nested(|parser| {
            let mut value = parser.or()?;
            while parser.take_name("if") {
                let test = Box::new(parser.or()?);
                let otherwise =
                    if parser.take_name("else") { Some(Box::new(parser.expression()?)) } else { None };
                value = parser.make(ExprKind::Conditional { test, then: Box::new(value), otherwise })?;
            }
            Ok(value)
        })
    }

    /// An expression, or several with commas between them, which are a tuple. Conditional ones only where
    /// `conditional`.
    pub(super) fn tuple(&mut self, conditional: bool) -> Result<Expr, SyntaxError> {
        let one = |parser: &mut Self| if conditional { parser.expression() } else { parser.nested(Self::or) };
        let first = one(self)?;
        if !self.is_op(",") {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.take_op(",") {
            let ends =
                matches!(self.peek(), None | Some(Token::BlockEnd | Token::OutputEnd | Token::Op(")")));
            if ends || self.is_name("recursive") {
                break;
            }
            items.push(one(self)?);
        }
        self.make(ExprKind::Tuple(items))
    }

    fn or(&mut self) -> Result<Expr, SyntaxError> {
        let mut left = self.and()?;
        while self.take_name("or") {
            let right = self.and()?;
            left = self.make(ExprKind::Or(Box::new(left), Box::new(right)))?;
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expr, SyntaxError> {
        let mut left = self.not()?;
        while self.take_name("and") {
            let right = self.not()?;
            left = self.make(ExprKind::And(Box::new(left), Box::new(right)))?;
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Expr, SyntaxError> {
        if self.is_name("not") && !self.second_is_name("in") {
            self.next();
            let value = self.nested(Self::not)?;
            return self.make(ExprKind::Not(Box::new(value)));
        }
        self.compare()
    }

    fn comparison(&mut self) -> Option<Comparison> {
        let found = match self.peek()? {
            Token::Op("==") => Comparison::Eq,
            Token::Op("!=") => Comparison::Ne,
            Token::Op("<") => Comparison::Lt,
            Token::Op("<=") => Comparison::Le,
            Token::Op(">") => Comparison::Gt,
            Token::Op(">=") => Comparison::Ge,
            Token::Name(name) if name == "in" => Comparison::In,
            Token::Name(name) if name == "not" && self.second_is_name("in") => Comparison::NotIn,
            _ => return None,
        };
        self.next();
        if found == Comparison::NotIn {
            self.next();
        }
        Some(found)
    }

    fn compare(&mut self) -> Result<Expr, SyntaxError> {
        let first = self.sum()?;
        let mut rest = Vec::new();
        while let Some(comparison) = self.comparison() {
            rest.push((comparison, self.sum()?));
        }
        if rest.is_empty() { Ok(first) } else { self.make(ExprKind::Compare(Box::new(first), rest)) }
    }

    fn sum(&mut self) -> Result<Expr, SyntaxError> {
        let mut left = self.concat()?;
        loop {
            let operator = match self.peek() {
                Some(Token::Op("+")) => Binary::Add,
                Some(Token::Op("-")) => Binary::Sub,
                _ => return Ok(left),
            };
            self.next();
            let right = self.concat()?;
            left = self.make(ExprKind::Binary(operator, Box::new(left), Box::new(right)))?;
        }
    }

    fn concat(&mut self) -> Result<Expr, SyntaxError> {
        let mut items = vec![self.product()?];
        while self.take_op("~") {
            items.push(self.product()?);
        }
        match items.pop() {
            Some(one) if items.is_empty() => Ok(one),
            last => {
                items.extend(last);
                self.make(ExprKind::Concat(items))
            }
        }
    }

    fn product(&mut self) -> Result<Expr, SyntaxError> {
        let mut left = self.power()?;
        loop {
            let operator = match self.peek() {
                Some(Token::Op("*")) => Binary::Mul,
                Some(Token::Op("/")) => Binary::Div,
                Some(Token::Op("//")) => Binary::FloorDiv,
                Some(Token::Op("%")) => Binary::Mod,
                _ => return Ok(left),
            };
            self.next();
            let right = self.power()?;
            left = self.make(ExprKind::Binary(operator, Box::new(left), Box::new(right)))?;
        }
    }

    fn power(&mut self) -> Result<Expr, SyntaxError> {
        let mut left = self.unary(true)?;
        while self.take_op("**") {
            let right = self.unary(true)?;
            left = self.make(ExprKind::Binary(Binary::Pow, Box::new(left), Box::new(right)))?;
        }
        Ok(left)
    }

    fn unary(&mut self, with_filters: bool) -> Result<Expr, SyntaxError> {
        let mut value = if self.take_op("-") {
            let value = self.nested(|parser| parser.unary(false))?;
            self.make(ExprKind::Negative(Box::new(value)))?
        } else if self.take_op("+") {
            let value = self.nested(|parser| parser.unary(false))?;
            self.make(ExprKind::Positive(Box::new(value)))?
        } else {
            self.primary()?
        };
        value = self.postfix(value)?;
        if with_filters { self.filter_chain(value) } else { Ok(value) }
    }

    fn primary(&mut self) -> Result<Expr, SyntaxError> {
        let kind = match self.peek().cloned() {
            Some(Token::Name(name)) => {
                self.next();
                match name.as_str() {
                    "true" | "True" => ExprKind::Bool(true),
                    "false" | "False" => ExprKind::Bool(false),
                    "none" | "None" => ExprKind::None,
                    "varargs" => self.reads_name(0, name),
                    "kwargs" => self.reads_name(1, name),
                    _ if ABSENT_GLOBALS.contains(&name.as_str()) && self.is_op("(") => {
                        return self.error(format!("`{name}()` is not supported"));
                    }
                    _ => ExprKind::Name(name.into()),
                }
            }
            Some(Token::Str(first)) => {
                self.next();
                let mut text = first;
                while let Some(Token::Str(more)) = self.peek() {
                    text.push_str(more);
                    self.next();
                }
                ExprKind::Str(text.into())
            }
            Some(Token::Int(number)) => {
                self.next();
                ExprKind::Int(number)
            }
            Some(Token::Float(number)) => {
                self.next();
                ExprKind::Float(number)
            }
            Some(Token::Op("(")) => {
                self.next();
                if self.take_op(")") {
                    ExprKind::Tuple(Vec::new())
                } else {
                    let value = self.nested(|parser| parser.tuple(true))?;
                    self.expect_op(")")?;
                    return Ok(value);
                }
            }
            Some(Token::Op("[")) => {
                self.next();
                ExprKind::List(self.items("]")?)
            }
            Some(Token::Op("{")) => {
                self.next();
                self.dict()?
            }
            _ => return self.unexpected("an expression"),
        };
        self.make(kind)
    }

    fn reads_name(&mut self, index: usize, name: String) -> ExprKind {
        self.reads[index] = true;
        ExprKind::Name(name.into())
    }

    fn items(&mut self, close: &str) -> Result<Vec<Expr>, SyntaxError> {
        let mut items = Vec::new();
        while !self.take_op(close) {
            if !items.is_empty() {
                self.expect_op(",")?;
                if self.take_op(close) {
                    break;
                }
            }
            items.push(self.expression()?);
        }
        Ok(items)
    }

    fn dict(&mut self) -> Result<ExprKind, SyntaxError> {
        let mut entries = Vec::new();
        while !self.take_op("}") {
            if !entries.is_empty() {
                self.expect_op(",")?;
                if self.take_op("}") {
                    break;
                }
            }
            let key = self.expression()?;
            self.expect_op(":")?;
            entries.push((key, self.expression()?));
        }
        Ok(ExprKind::Dict(entries))
    }

    fn postfix(&mut self, mut value: Expr) -> Result<Expr, SyntaxError> {
        loop {
            if self.take_op(".") {
                value = self.attribute(value)?;
            } else if self.take_op("[") {
                value = self.subscript(value)?;
            } else if self.is_op("(") {
                value = self.call(value)?;
            } else {
                return Ok(value);
            }
        }
    }

    fn attribute(&mut self, value: Expr) -> Result<Expr, SyntaxError> {
        if let Some(Token::Int(index)) = self.peek() {
            let index = self.make(ExprKind::Int(*index))?;
            self.next();
            return self.make(ExprKind::Item(Box::new(value), Box::new(index)));
        }
        let name = self.name()?;
        if self.is_op("(") && names::refused(&name) {
            return self.error(format!("the method `{name}` of Python is not supported"));
        }
        self.make(ExprKind::Attribute(Box::new(value), name))
    }

    fn subscript(&mut self, value: Expr) -> Result<Expr, SyntaxError> {
        let mut parts: [Option<Expr>; 3] = [None, None, None];
        let mut colons = 0;
        loop {
            if self.take_op(":") {
                colons += 1;
                if colons > 2 {
                    return self.unexpected("`]`");
                }
            } else if self.take_op("]") {
                break;
            } else if parts[colons].is_none() {
                parts[colons] = Some(self.expression()?);
            } else {
                return self.unexpected("`]`");
            }
        }
        if colons > 0 {
            return self.make(ExprKind::Slice(Box::new(value), Box::new(parts)));
        }
        match parts {
            [Some(index), ..] => self.make(ExprKind::Item(Box::new(value), Box::new(index))),
            _ => self.error("expected an index, found `]`"),
        }
    }

    fn call(&mut self, value: Expr) -> Result<Expr, SyntaxError> {
        let args = self.args()?;
        self.make(ExprKind::Call(Box::new(value), args))
    }

    fn args(&mut self) -> Result<Args, SyntaxError> {
        self.expect_op("(")?;
        let (mut args, mut any) = (Args::default(), false);
        while !self.take_op(")") {
            if any {
                self.expect_op(",")?;
                if self.take_op(")") {
                    break;
                }
            }
            any = true;
            if self.take_op("**") {
                args.double_star = Some(Box::new(self.expression()?));
            } else if self.take_op("*") {
                args.star = Some(Box::new(self.expression()?));
            } else if matches!(self.peek(), Some(Token::Name(_))) && self.second_is_op("=") {
                let name = self.name()?;
                self.next();
                args.named.push((name, self.expression()?));
            } else if args.named.is_empty() && args.star.is_none() && args.double_star.is_none() {
                args.positional.push(self.expression()?);
            } else {
                return self.error("a positional argument behind a named one");
            }
        }
        Ok(args)
    }

    fn filter_chain(&mut self, mut value: Expr) -> Result<Expr, SyntaxError> {
        loop {
            if self.take_op("|") {
                let (name, args) = self.filter()?;
                value = self.make(ExprKind::Filter(Box::new(value), name, args))?;
            } else if self.take_name("is") {
                value = self.test(value)?;
            } else if self.is_op("(") {
                value = self.call(value)?;
            } else {
                return Ok(value);
            }
        }
    }

    /// A filter's name and arguments.
    pub(super) fn filter(&mut self) -> Result<(Name, Args), SyntaxError> {
        let name = self.name()?;
        if !names::FILTERS.contains(&&*name) {
            return self.error(format!("the filter `{name:.40}` is not supported"));
        }
        let args = if self.is_op("(") { self.args()? } else { Args::default() };
        Ok((name, args))
    }

    fn test(&mut self, value: Expr) -> Result<Expr, SyntaxError> {
        let negated = self.take_name("not");
        let name = self.name()?;
        if !names::TESTS.contains(&&*name) {
            return self.error(format!("the test `{name:.40}` is not supported"));
        }
        let mut args = Args::default();
        let begins_argument = match self.peek() {
            Some(Token::Name(name)) => !["else", "or", "and", "is"].contains(&name.as_str()),
            Some(Token::Str(_) | Token::Int(_) | Token::Float(_) | Token::Op("[" | "{")) => true,
            _ => false,
        };
        if self.is_op("(") {
            args = self.args()?;
        } else if self.is_name("is") {
            return self.error("tests cannot be chained with `is`");
        } else if begins_argument {
            let argument = self.primary()?;
            args.positional.push(self.postfix(argument)?);
        }
        let value = Box::new(value);
        self.make(ExprKind::Test { value, name, args, negated })
    }
}

/// Levels below an expression.
fn deepest(kind: &ExprKind) -> usize {
    let args = |args: &Args| {
        let named = args.named.iter().map(|(_, value)| value.depth);
        let stars = args.star.iter().chain(&args.double_star).map(|value| value.depth);
        args.positional.iter().map(|value| value.depth).chain(named).chain(stars).max().unwrap_or(0)
    };
    let all = |items: &[Expr]| items.iter().map(|item| item.depth).max().unwrap_or(0);
    match kind {
        ExprKind::None
        | ExprKind::Bool(_)
        | ExprKind::Int(_)
        | ExprKind::Float(_)
        | ExprKind::Str(_)
        | ExprKind::Name(_) => 0,
        ExprKind::List(items) | ExprKind::Tuple(items) | ExprKind::Concat(items) => all(items),
        ExprKind::Dict(entries) => {
            entries.iter().map(|(key, value)| key.depth.max(value.depth)).max().unwrap_or(0)
        }
        ExprKind::Attribute(value, _)
        | ExprKind::Negative(value)
        | ExprKind::Positive(value)
        | ExprKind::Not(value) => value.depth,
        ExprKind::Item(a, b) | ExprKind::Binary(_, a, b) | ExprKind::And(a, b) | ExprKind::Or(a, b) => {
            a.depth.max(b.depth)
        }
        ExprKind::Slice(value, parts) => {
            value.depth.max(parts.iter().flatten().map(|part| part.depth).max().unwrap_or(0))
        }
        ExprKind::Call(value, given) | ExprKind::Filter(value, _, given) => value.depth.max(args(given)),
        ExprKind::Test { value, args: given, .. } => value.depth.max(args(given)),
        ExprKind::Compare(first, rest) => {
            first.depth.max(rest.iter().map(|(_, value)| value.depth).max().unwrap_or(0))
        }
        ExprKind::Conditional { test, then, otherwise } => {
            test.depth.max(then.depth).max(otherwise.as_ref().map_or(0, |value| value.depth))
        }
    }
}

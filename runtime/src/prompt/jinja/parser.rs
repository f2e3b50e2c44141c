//! Tokens to statements. Expressions are in [`super::expression`].

use std::sync::Arc;

use super::SyntaxError;
use super::ast::{Args, Body, Expr, ExprKind, For, Macro, Name, Stmt, StmtKind, Target};
use super::lexer::Token;

/// Most statements and brackets inside each other.
const NESTING: usize = 48;

pub(super) struct Parser {
    tokens: Vec<(Token, u32)>,
    at: usize,
    nesting: usize,
    loops: usize,
    /// Names that the body of the innermost macro reads: whether `varargs`, and whether `kwargs`.
    pub(super) reads: [bool; 2],
}

impl Parser {
    pub(super) fn new(tokens: Vec<(Token, u32)>) -> Self {
        Self { tokens, at: 0, nesting: 0, loops: 0, reads: [false; 2] }
    }

    /// A whole template.
    pub(super) fn template(mut self) -> Result<Body, SyntaxError> {
        let body = self.body(&[])?;
        match self.peek() {
            None => Ok(body),
            Some(_) => self.error("found the end of a block that was not begun"),
        }
    }

    pub(super) fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    pub(super) fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |(_, line)| *line)
    }

    pub(super) fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).map(|(token, _)| token.clone());
        self.at += 1;
        token
    }

    pub(super) fn error<T>(&self, message: impl Into<String>) -> Result<T, SyntaxError> {
        Err(SyntaxError { line: self.line(), message: message.into() })
    }

    pub(super) fn unexpected<T>(&self, expected: &str) -> Result<T, SyntaxError> {
        let found = match self.peek() {
            None => "the end".to_owned(),
            Some(Token::Name(name)) => format!("`{name:.40}`"),
            Some(Token::Op(operator)) => format!("`{operator}`"),
            Some(Token::BlockEnd | Token::OutputEnd) => "the end of the tag".to_owned(),
            Some(Token::Data(_) | Token::BlockBegin | Token::OutputBegin) => "text".to_owned(),
            Some(Token::Str(_) | Token::Int(_) | Token::Float(_)) => "a constant".to_owned(),
        };
        self.error(format!("expected {expected}, found {found}"))
    }

    pub(super) fn is_op(&self, operator: &str) -> bool {
        matches!(self.peek(), Some(Token::Op(found)) if *found == operator)
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Some(Token::Name(found)) if found == name)
    }

    /// Whether the token behind the next one is this name.
    pub(super) fn second_is_name(&self, name: &str) -> bool {
        matches!(self.tokens.get(self.at + 1), Some((Token::Name(found), _)) if found == name)
    }

    /// Whether the token behind the next one is this operator.
    pub(super) fn second_is_op(&self, operator: &str) -> bool {
        matches!(self.tokens.get(self.at + 1), Some((Token::Op(found), _)) if *found == operator)
    }

    pub(super) fn take_op(&mut self, operator: &str) -> bool {
        let found = self.is_op(operator);
        self.at += usize::from(found);
        found
    }

    pub(super) fn take_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect_op(&mut self, operator: &str) -> Result<(), SyntaxError> {
        if self.take_op(operator) { Ok(()) } else { self.unexpected(&format!("`{operator}`")) }
    }

    pub(super) fn name(&mut self) -> Result<Name, SyntaxError> {
        match self.peek() {
            Some(Token::Name(name)) => {
                let name = Arc::from(name.as_str());
                self.at += 1;
                Ok(name)
            }
            _ => self.unexpected("a name"),
        }
    }

    fn block_end(&mut self) -> Result<(), SyntaxError> {
        if self.peek() == Some(&Token::BlockEnd) {
            self.at += 1;
            return Ok(());
        }
        self.unexpected("`%}`")
    }

    /// Runs `parse` one level deeper.
    pub(super) fn nested<T>(
        &mut self,
        parse: impl FnOnce(&mut Self) -> Result<T, SyntaxError>,
    ) -> Result<T, SyntaxError> {
        self.nesting += 1;
        if self.nesting > NESTING {
            return self.error(format!("more than {NESTING} blocks or brackets inside each other"));
        }
        let parsed = parse(self);
        self.nesting -= 1;
        parsed
    }

    /// Statements up to a tag that begins with one of `ends`, whose begin and name are not taken.
    fn body(&mut self, ends: &[&str]) -> Result<Body, SyntaxError> {
        let mut body = Vec::new();
        loop {
            let line = self.line();
            let kind = match self.peek() {
                None => {
                    return if ends.is_empty() {
                        Ok(body)
                    } else {
                        self.unexpected(&format!("one of the tags `{}`", ends.join("`, `")))
                    };
                }
                Some(Token::Data(text)) => {
                    let text = Arc::from(text.as_str());
                    self.at += 1;
                    StmtKind::Data(text)
                }
                Some(Token::OutputBegin) => {
                    self.at += 1;
                    StmtKind::Output(self.output()?)
                }
                Some(Token::BlockBegin) => {
                    let is_end = matches!(self.tokens.get(self.at + 1), Some((Token::Name(name), _))
                        if ends.contains(&name.as_str()));
                    if is_end {
                        return Ok(body);
                    }
                    self.at += 1;
                    self.nested(Self::statement)?
                }
                Some(_) => return self.unexpected("text or a tag"),
            };
            body.push(Stmt { line, kind });
        }
    }

    /// The body of a block and its end tag.
    fn body_until(&mut self, end: &str) -> Result<Body, SyntaxError> {
        let body = self.body(&[end])?;
        self.at += 2;
        self.block_end()?;
        Ok(body)
    }

    fn output(&mut self) -> Result<Expr, SyntaxError> {
        let value = self.tuple(true)?;
        match self.next() {
            Some(Token::OutputEnd) => Ok(value),
            _ => {
                self.at -= 1;
                self.unexpected("`}}`")
            }
        }
    }

    fn statement(&mut self) -> Result<StmtKind, SyntaxError> {
        let keyword = self.name()?;
        match &*keyword {
            "if" => self.if_(),
            "for" => self.for_(),
            "set" => self.set(),
            "with" => self.with(),
            "macro" => self.macro_(),
            "call" => self.call_block(),
            "filter" => {
                let filters = self.filters()?;
                self.block_end()?;
                Ok(StmtKind::Filter { filters, body: self.body_until("endfilter")? })
            }
            "generation" => {
                self.block_end()?;
                Ok(StmtKind::Generation(self.body_until("endgeneration")?))
            }
            "break" | "continue" if self.loops == 0 => self.error(format!("`{keyword}` outside of a loop")),
            "break" => self.block_end().map(|()| StmtKind::Break),
            "continue" => self.block_end().map(|()| StmtKind::Continue),
            _ => {
                self.at -= 1;
                self.unexpected(
                    "one of the tags `if`, `for`, `set`, `with`, `macro`, `call`, `filter`, `generation`, `break` and \
                     `continue`",
                )
            }
        }
    }

    fn if_(&mut self) -> Result<StmtKind, SyntaxError> {
        let (mut branches, mut otherwise) = (Vec::new(), Vec::new());
        loop {
            let test = self.tuple(false)?;
            self.block_end()?;
            branches.push((test, self.body(&["elif", "else", "endif"])?));
            self.at += 1;
            if self.take_name("elif") {
                continue;
            }
            if self.take_name("else") {
                self.block_end()?;
                otherwise = self.body_until("endif")?;
            } else {
                self.at += 1;
                self.block_end()?;
            }
            return Ok(StmtKind::If { branches, otherwise });
        }
    }

    fn for_(&mut self) -> Result<StmtKind, SyntaxError> {
        let target = self.target()?;
        if !self.take_name("in") {
            return self.unexpected("`in`");
        }
        let iter = self.tuple(false)?;
        let test = if self.take_name("if") { Some(self.expression()?) } else { None };
        if self.is_name("recursive") {
            return self.error("recursive loops are not supported; write a macro that calls itself");
        }
        self.block_end()?;
        self.loops += 1;
        let body = self.body(&["else", "endfor"]);
        self.loops -= 1;
        let body = body?;
        self.at += 1;
        let mut otherwise = Vec::new();
        if self.take_name("else") {
            self.block_end()?;
            otherwise = self.body_until("endfor")?;
        } else {
            self.at += 1;
            self.block_end()?;
        }
        Ok(StmtKind::For(Box::new(For { target, iter, test, body, otherwise })))
    }

    fn set(&mut self) -> Result<StmtKind, SyntaxError> {
        let target = self.target()?;
        if self.take_op("=") {
            let value = self.tuple(true)?;
            self.block_end()?;
            return Ok(StmtKind::Set { target, value });
        }
        let filters = if self.take_op("|") { self.filters()? } else { Vec::new() };
        self.block_end()?;
        Ok(StmtKind::SetBlock { target, filters, body: self.body_until("endset")? })
    }

    fn with(&mut self) -> Result<StmtKind, SyntaxError> {
        let mut values = Vec::new();
        while self.peek() != Some(&Token::BlockEnd) {
            if !values.is_empty() {
                self.expect_op(",")?;
            }
            let target = Target::Name(self.name()?);
            self.expect_op("=")?;
            values.push((target, self.expression()?));
        }
        self.block_end()?;
        Ok(StmtKind::With { values, body: self.body_until("endwith")? })
    }

    fn macro_(&mut self) -> Result<StmtKind, SyntaxError> {
        let name = self.name()?;
        let parameters = self.parameters()?;
        self.block_end()?;
        Ok(StmtKind::Macro(self.macro_body(name, parameters, "endmacro")?))
    }

    fn call_block(&mut self) -> Result<StmtKind, SyntaxError> {
        let parameters = if self.is_op("(") { self.parameters()? } else { Vec::new() };
        let call = self.expression()?;
        if !matches!(call.kind, ExprKind::Call(..)) {
            return self.error("expected a call behind `call`");
        }
        self.block_end()?;
        Ok(StmtKind::Call { call, body: self.macro_body("caller".into(), parameters, "endcall")? })
    }

    fn macro_body(
        &mut self,
        name: Name,
        parameters: Vec<(Name, Option<Expr>)>,
        end: &str,
    ) -> Result<Arc<Macro>, SyntaxError> {
        let (outer, loops) = (std::mem::take(&mut self.reads), std::mem::take(&mut self.loops));
        let body = self.body_until(end);
        let [varargs, kwargs] = std::mem::replace(&mut self.reads, outer);
        self.loops = loops;
        let body = body?;
        Ok(Arc::new(Macro { name, parameters, varargs, kwargs, body }))
    }

    fn parameters(&mut self) -> Result<Vec<(Name, Option<Expr>)>, SyntaxError> {
        self.expect_op("(")?;
        let mut parameters: Vec<(Name, Option<Expr>)> = Vec::new();
        while !self.take_op(")") {
            if !parameters.is_empty() {
                self.expect_op(",")?;
            }
            let name = self.name()?;
            let default = if self.take_op("=") { Some(self.expression()?) } else { None };
            if default.is_none() && parameters.last().is_some_and(|(_, default)| default.is_some()) {
                return self.error("a parameter without a default follows one that has one");
            }
            parameters.push((name, default));
        }
        Ok(parameters)
    }

    /// One filter and those behind it.
    fn filters(&mut self) -> Result<Vec<(Name, Args)>, SyntaxError> {
        let mut filters = vec![self.filter()?];
        while self.take_op("|") {
            filters.push(self.filter()?);
        }
        Ok(filters)
    }

    /// What a value is given to: a name, a namespace's attribute, or several.
    fn target(&mut self) -> Result<Target, SyntaxError> {
        let mut targets = vec![self.single_target()?];
        let mut several = false;
        while self.take_op(",") {
            several = true;
            if matches!(self.peek(), Some(Token::Name(name)) if name != "in") || self.is_op("(") {
                targets.push(self.single_target()?);
            }
        }
        match targets.pop() {
            Some(one) if !several => Ok(one),
            last => {
                targets.extend(last);
                Ok(Target::Tuple(targets))
            }
        }
    }

    fn single_target(&mut self) -> Result<Target, SyntaxError> {
        if self.take_op("(") {
            let target = self.nested(Self::target)?;
            self.expect_op(")")?;
            return Ok(target);
        }
        let name = self.name()?;
        if ["true", "false", "none", "True", "False", "None", "loop"].contains(&&*name) {
            return self.error(format!("`{name}` cannot be given a value"));
        }
        if self.take_op(".") {
            return Ok(Target::Attribute(name, self.name()?));
        }
        Ok(Target::Name(name))
    }
}

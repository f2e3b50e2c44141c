//! Runs statements and expressions.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::ast::{Args, Body, Expr, ExprKind, For, Macro, Name, Stmt, StmtKind, Target};
use super::clock::Moment;
use super::given::{self, Given};
use super::meter::Meter;
use super::said::{Builder, Text};
use super::value::{Closure, Function, Loop, NESTING, Scope, Seq, Value};
use super::{Failure, access, filters, methods, ops, predicates};

/// What a string takes besides its characters.
const STRING: usize = 16;

/// How a body ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Next,
    Break,
    Continue,
}

pub(super) struct Evaluator<'m> {
    pub(super) meter: &'m Meter,
    pub(super) now: Moment,
    /// Of the statement that runs.
    pub(super) line: Cell<u32>,
    /// Scopes that macros hold on to, which in turn hold the macros.
    held: RefCell<Vec<Rc<Scope>>>,
}

impl Drop for Evaluator<'_> {
    fn drop(&mut self) {
        for scope in self.held.borrow_mut().drain(..) {
            scope.clear();
        }
    }
}

impl<'m> Evaluator<'m> {
    pub(super) fn new(meter: &'m Meter, now: Moment) -> Self {
        Self { meter, now, line: Cell::new(0), held: RefCell::default() }
    }

    fn scope(&self, parent: &Rc<Scope>) -> Result<Rc<Scope>, Failure> {
        self.meter.bytes(256)?;
        Ok(Scope::new(Some(Rc::clone(parent))))
    }

    pub(super) fn body(
        &self,
        body: &Body,
        scope: &Rc<Scope>,
        out: &mut Builder<'_>,
    ) -> Result<Flow, Failure> {
        for stmt in body {
            self.meter.step(1)?;
            self.line.set(stmt.line);
            let flow = match &stmt.kind {
                StmtKind::Data(text) => {
                    out.push_own(text)?;
                    Flow::Next
                }
                StmtKind::Output(value) => {
                    let text = self.expr(value, scope)?.text(self.meter)?;
                    out.push(&text)?;
                    Flow::Next
                }
                StmtKind::Break => Flow::Break,
                StmtKind::Continue => Flow::Continue,
                _ => self.meter.deeper(|| self.block(stmt, scope, out))?,
            };
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn block(&self, stmt: &Stmt, scope: &Rc<Scope>, out: &mut Builder<'_>) -> Result<Flow, Failure> {
        match &stmt.kind {
            StmtKind::If { branches, otherwise } => {
                for (test, body) in branches {
                    if self.expr(test, scope)?.truthy() {
                        return self.body(body, scope, out);
                    }
                }
                return self.body(otherwise, scope, out);
            }
            StmtKind::For(stmt) => return self.for_(stmt, scope, out),
            StmtKind::Set { target, value } => {
                let value = self.expr(value, scope)?;
                self.assign(target, value, scope)?;
            }
            StmtKind::SetBlock { target, filters, body } => {
                let text = self.captured(body, &self.scope(scope)?)?;
                let value = self.filtered(Value::Str(text), filters, scope)?;
                self.assign(target, value, scope)?;
            }
            StmtKind::Filter { filters, body } => {
                let text = self.captured(body, &self.scope(scope)?)?;
                out.push(&self.filtered(Value::Str(text), filters, scope)?.text(self.meter)?)?;
            }
            StmtKind::With { values, body } => {
                let inner = self.scope(scope)?;
                for (target, value) in values {
                    let value = self.expr(value, scope)?;
                    self.assign(target, value, &inner)?;
                }
                return self.body(body, &inner, out);
            }
            StmtKind::Generation(body) => return self.body(body, &self.scope(scope)?, out),
            StmtKind::Macro(declaration) => {
                let closure = self.closure(declaration, scope)?;
                scope.set(&declaration.name, closure);
            }
            StmtKind::Call { call, body } => {
                let caller = self.closure(body, scope)?;
                if let ExprKind::Call(callee, args) = &call.kind {
                    let callee = self.expr(callee, scope)?;
                    let given = self.given(args, scope)?;
                    out.push(&self.call(&callee, given, Some(caller))?.text(self.meter)?)?;
                }
            }
            StmtKind::Data(_) | StmtKind::Output(_) | StmtKind::Break | StmtKind::Continue => {}
        }
        Ok(Flow::Next)
    }

    fn captured(&self, body: &Body, scope: &Rc<Scope>) -> Result<Text, Failure> {
        let mut out = Builder::new(self.meter);
        self.body(body, scope, &mut out)?;
        Ok(out.finish())
    }

    fn filtered(
        &self,
        mut value: Value,
        filters: &[(Name, Args)],
        scope: &Rc<Scope>,
    ) -> Result<Value, Failure> {
        for (name, args) in filters {
            value = filters::apply(name, &value, self.given(args, scope)?, self.meter)?;
        }
        Ok(value)
    }

    fn closure(&self, declaration: &Arc<Macro>, scope: &Rc<Scope>) -> Result<Value, Failure> {
        self.meter.bytes(128)?;
        self.held.borrow_mut().push(Rc::clone(scope));
        Ok(Value::Macro(Rc::new(Closure { declaration: Arc::clone(declaration), scope: Rc::clone(scope) })))
    }

    fn for_(&self, stmt: &For, scope: &Rc<Scope>, out: &mut Builder<'_>) -> Result<Flow, Failure> {
        let mut items = self.expr(&stmt.iter, scope)?.iterate(self.meter)?;
        if let Some(test) = &stmt.test {
            self.meter.items(items.items.len())?;
            let mut kept = Vec::new();
            for item in &items.items {
                let inner = self.scope(scope)?;
                self.assign(&stmt.target, item.clone(), &inner)?;
                if self.expr(test, &inner)?.truthy() {
                    kept.push(item.clone());
                }
            }
            items = Seq::new(kept)?;
        }
        if items.items.is_empty() {
            return self.body(&stmt.otherwise, scope, out);
        }
        let state = Loop { items: Rc::clone(&items), index: Cell::new(0), changed: RefCell::default() };
        let (state, name) = (Rc::new(state), Name::from("loop"));
        for (index, item) in items.items.iter().enumerate() {
            state.index.set(index);
            let inner = self.scope(scope)?;
            inner.set(&name, Value::Loop(Rc::clone(&state)));
            self.assign(&stmt.target, item.clone(), &inner)?;
            if self.body(&stmt.body, &inner, out)? == Flow::Break {
                break;
            }
        }
        Ok(Flow::Next)
    }

    fn assign(&self, target: &Target, value: Value, scope: &Rc<Scope>) -> Result<(), Failure> {
        match target {
            Target::Name(name) => {
                scope.set(name, value);
                Ok(())
            }
            Target::Attribute(of, name) => {
                let Some(Value::Namespace(entries)) = scope.get(of) else {
                    return Err(Failure::new(format!(
                        "`{of}` is no namespace, so `{of}.{name}` cannot be set"
                    )));
                };
                store(&mut entries.borrow_mut(), name, value)
            }
            Target::Tuple(targets) => {
                let items = value.iterate(self.meter)?;
                if items.items.len() != targets.len() {
                    let (expected, found) = (targets.len(), items.items.len());
                    return Err(Failure::new(format!("{expected} variables are given {found} values")));
                }
                targets
                    .iter()
                    .zip(&items.items)
                    .try_for_each(|(target, item)| self.assign(target, item.clone(), scope))
            }
        }
    }

    pub(super) fn expr(&self, expr: &Expr, scope: &Rc<Scope>) -> Result<Value, Failure> {
        self.meter.step(1)?;
        match &expr.kind {
            ExprKind::None => Ok(Value::None),
            ExprKind::Bool(value) => Ok(Value::Bool(*value)),
            ExprKind::Int(value) => Ok(Value::Int(*value)),
            ExprKind::Float(value) => Ok(Value::Float(*value)),
            ExprKind::Str(text) => {
                self.meter.bytes(text.len() + STRING)?;
                Ok(Value::own(text))
            }
            ExprKind::Name(name) => Ok(self.name(name, scope)),
            _ => self.meter.deeper(|| self.compound(expr, scope)),
        }
    }

    fn name(&self, name: &Name, scope: &Rc<Scope>) -> Value {
        scope.get(name).unwrap_or_else(|| {
            Value::Function(match &**name {
                "range" => Function::Range,
                "dict" => Function::Dict,
                "namespace" => Function::Namespace,
                "raise_exception" => Function::RaiseException,
                "strftime_now" => Function::StrftimeNow,
                _ => return Value::undefined(name),
            })
        })
    }

    fn compound(&self, expr: &Expr, scope: &Rc<Scope>) -> Result<Value, Failure> {
        let value = |expr: &Expr| self.expr(expr, scope);
        match &expr.kind {
            ExprKind::Attribute(of, name) => access::attribute(&value(of)?, name),
            ExprKind::Item(of, index) => access::item(&value(of)?, &value(index)?, self.meter),
            ExprKind::Binary(operator, a, b) => ops::binary(*operator, &value(a)?, &value(b)?, self.meter),
            ExprKind::And(a, b) => {
                let a = value(a)?;
                if a.truthy() { value(b) } else { Ok(a) }
            }
            ExprKind::Or(a, b) => {
                let a = value(a)?;
                if a.truthy() { Ok(a) } else { value(b) }
            }
            ExprKind::Not(of) => Ok(Value::Bool(!value(of)?.truthy())),
            ExprKind::Compare(first, rest) => self.compare(first, rest, scope).map(Value::Bool),
            ExprKind::Conditional { test, then, otherwise } => {
                if value(test)?.truthy() {
                    return value(then);
                }
                let missing = || Ok(Value::Undefined("an `if` without `else` does not hold".into()));
                otherwise.as_ref().map_or_else(missing, |otherwise| value(otherwise))
            }
            ExprKind::Call(callee, args) => {
                let callee = value(callee)?;
                let given = self.given(args, scope)?;
                self.call(&callee, given, None)
            }
            ExprKind::Filter(of, name, args) => {
                filters::apply(name, &value(of)?, self.given(args, scope)?, self.meter)
            }
            ExprKind::Test { value: of, name, args, negated } => {
                let holds = predicates::ask(name, &value(of)?, self.given(args, scope)?, self.meter)?;
                Ok(Value::Bool(holds != *negated))
            }
            _ => self.built(expr, scope),
        }
    }

    /// What is made of parts.
    fn built(&self, expr: &Expr, scope: &Rc<Scope>) -> Result<Value, Failure> {
        let value = |expr: &Expr| self.expr(expr, scope);
        match &expr.kind {
            ExprKind::List(items) | ExprKind::Tuple(items) => {
                self.meter.items(items.len())?;
                let values = items.iter().map(value).collect::<Result<_, _>>()?;
                if matches!(expr.kind, ExprKind::List(_)) {
                    Value::list(values)
                } else {
                    Value::tuple(values)
                }
            }
            ExprKind::Dict(entries) => {
                let mut given = Vec::new();
                for (key, item) in entries {
                    given.push(Value::tuple(vec![value(key)?, value(item)?])?);
                }
                let given = Given { positional: vec![Value::list(given)?], named: Vec::new() };
                Value::dict(methods::entries("dict", given, self.meter)?)
            }
            ExprKind::Slice(of, parts) => {
                let of = value(of)?;
                let mut bounds = [None, None, None];
                for (bound, part) in bounds.iter_mut().zip(parts.iter()) {
                    *bound = part.as_ref().map(value).transpose()?;
                }
                access::slice(&of, &bounds, self.meter)
            }
            ExprKind::Concat(items) => {
                let item = |item| match value(item)? {
                    Value::Markup(_) => {
                        Err(Failure::new("what `safe` returns can only be printed, and not joined"))
                    }
                    item => item.text(self.meter),
                };
                let texts = items.iter().map(item).collect::<Result<Vec<_>, _>>()?;
                ops::join(&texts, self.meter).map(Value::Str)
            }
            ExprKind::Negative(of) => match value(of)? {
                Value::Float(number) => Ok(Value::Float(-number)),
                other => ops::binary(super::ast::Binary::Sub, &Value::Int(0), &other, self.meter),
            },
            ExprKind::Positive(of) => {
                ops::binary(super::ast::Binary::Add, &Value::Int(0), &value(of)?, self.meter)
            }
            _ => Ok(Value::None),
        }
    }

    fn compare(
        &self,
        first: &Expr,
        rest: &[(super::ast::Comparison, Expr)],
        scope: &Rc<Scope>,
    ) -> Result<bool, Failure> {
        let mut left = self.expr(first, scope)?;
        for (comparison, right) in rest {
            let right = self.expr(right, scope)?;
            if !ops::compare(*comparison, &left, &right, self.meter)? {
                return Ok(false);
            }
            left = right;
        }
        Ok(true)
    }

    fn given(&self, args: &Args, scope: &Rc<Scope>) -> Result<Given, Failure> {
        let value = |expr: &Expr| self.expr(expr, scope);
        self.meter.items(args.positional.len() + args.named.len())?;
        let mut positional = args.positional.iter().map(value).collect::<Result<Vec<_>, _>>()?;
        let mut named = Vec::new();
        for (name, expr) in &args.named {
            named.push((Arc::clone(name), value(expr)?));
        }
        if let Some(star) = &args.star {
            let items = value(star)?.iterate(self.meter)?;
            self.meter.items(items.items.len())?;
            positional.extend(items.items.iter().cloned());
        }
        if let Some(stars) = &args.double_star {
            let Value::Dict(dict) = value(stars)? else {
                return Err(Failure::new("`**` takes a dictionary"));
            };
            for (key, value) in &dict.entries {
                let name = given::text("a call", Some(key.clone()))?;
                self.meter.part()?;
                self.meter.bytes(name.as_str().len())?;
                named.push((Name::from(name.as_str()), value.clone()));
            }
        }
        Ok(Given { positional, named })
    }

    fn call(&self, callee: &Value, given: Given, caller: Option<Value>) -> Result<Value, Failure> {
        callee.require()?;
        match callee {
            Value::Method(method) => methods::call(&method.0, &method.1, given, self.meter),
            Value::Macro(closure) => self.call_macro(closure, given, caller),
            Value::Function(function) => self.call_function(*function, given),
            other => Err(Failure::new(format!("a `{}` cannot be called", other.kind()))),
        }
    }

    fn call_function(&self, function: Function, given: Given) -> Result<Value, Failure> {
        match function {
            Function::Range => methods::range(given),
            Function::Dict => Value::dict(methods::entries("dict", given, self.meter)?),
            Function::Namespace => {
                let mut entries = Vec::new();
                for (key, value) in methods::entries("namespace", given, self.meter)? {
                    let key = given::text("namespace", Some(key))?;
                    store(&mut entries, key.as_str(), value)?;
                }
                Ok(Value::Namespace(Rc::new(RefCell::new(entries))))
            }
            Function::RaiseException => {
                let [message] = given.bind("raise_exception", ["message"])?;
                let message =
                    message.map_or_else(|| Ok(Text::default()), |message| message.text(self.meter))?;
                Err(Failure::Raised(message.as_str().to_owned()))
            }
            Function::StrftimeNow => {
                let [format] = given.bind("strftime_now", ["format"])?;
                let format = given::text("strftime_now", format)?;
                self.now.format(format.as_str(), self.meter).map(|text| Value::own(&text))
            }
        }
    }

    fn call_macro(&self, closure: &Closure, given: Given, caller: Option<Value>) -> Result<Value, Failure> {
        let declaration = &closure.declaration;
        let name = &declaration.name;
        let scope = self.scope(&closure.scope)?;
        let mut positional = given.positional.into_iter();
        let mut named = given.named;
        for (parameter, default) in &declaration.parameters {
            let by_name = named.iter().position(|(given, _)| given == parameter);
            let value = match (positional.next(), by_name, default) {
                (Some(_), Some(_), _) => {
                    return Err(Failure::new(format!("`{name}` was given `{parameter}` twice")));
                }
                (Some(value), None, _) => value,
                (None, Some(at), _) => named.remove(at).1,
                (None, None, Some(default)) => self.expr(default, &scope)?,
                (None, None, None) => Value::undefined(parameter),
            };
            scope.set(parameter, value);
        }
        let rest: Vec<Value> = positional.collect();
        if !rest.is_empty() && !declaration.varargs {
            let most = declaration.parameters.len();
            return Err(Failure::new(format!("`{name}` takes at most {most} arguments")));
        }
        if let Some((unknown, _)) = named.first().filter(|_| !declaration.kwargs) {
            return Err(Failure::new(format!("`{name}` takes no argument `{unknown:.40}`")));
        }
        scope.set(&"varargs".into(), Value::tuple(rest)?);
        for (name, _) in &named {
            self.meter.part()?;
            self.meter.bytes(name.len())?;
        }
        let named = named.into_iter().map(|(name, value)| (Value::own(&name), value)).collect();
        scope.set(&"kwargs".into(), Value::dict(named)?);
        scope.set(&"caller".into(), caller.unwrap_or_else(|| Value::undefined("caller")));
        let line = self.line.get();
        let text = self.meter.deeper(|| self.captured(&declaration.body, &scope))?;
        self.line.set(line);
        Ok(Value::Str(text))
    }
}

/// Sets an attribute of a namespace.
fn store(entries: &mut Vec<(Text, Value)>, name: &str, value: Value) -> Result<(), Failure> {
    if name.starts_with('_') {
        return Err(Failure::new(format!(
            "a namespace takes no attribute that begins with `_`: `{name:.40}`"
        )));
    }
    if value.depth() >= NESTING {
        return Err(Failure::new(format!("a namespace cannot hold a `{}`", value.kind())));
    }
    match entries.iter_mut().find(|(known, _)| known.as_str() == name) {
        Some((_, old)) => *old = value,
        None => entries.push((Text::own(name), value)),
    }
    Ok(())
}

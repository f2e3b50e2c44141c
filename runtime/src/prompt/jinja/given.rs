//! The arguments of a call.

use super::Failure;
use super::ast::Name;
use super::said::Text;
use super::value::Value;

#[derive(Default)]
pub(super) struct Given {
    pub(super) positional: Vec<Value>,
    pub(super) named: Vec<(Name, Value)>,
}

impl Given {
    /// The arguments in the order of `names`. Every argument must have its place: none is dropped.
    pub(super) fn bind<const N: usize>(
        self,
        function: &str,
        names: [&str; N],
    ) -> Result<[Option<Value>; N], Failure> {
        if self.positional.len() > N {
            let found = self.positional.len();
            return Err(Failure::new(format!("`{function}` takes at most {N} arguments, found {found}")));
        }
        let mut bound = [const { None }; N];
        for (place, value) in bound.iter_mut().zip(self.positional) {
            *place = Some(value);
        }
        for (name, value) in self.named {
            match names.iter().position(|known| *known == &*name) {
                Some(at) if bound[at].is_none() => bound[at] = Some(value),
                Some(_) => return Err(Failure::new(format!("`{function}` was given `{name}` twice"))),
                None => return Err(Failure::new(format!("`{function}` takes no argument `{name:.40}`"))),
            }
        }
        Ok(bound)
    }

    /// No arguments at all.
    pub(super) fn none(self, function: &str) -> Result<(), Failure> {
        self.bind(function, []).map(|[]| ())
    }
}

/// A string.
pub(super) fn text(function: &str, value: Option<Value>) -> Result<Text, Failure> {
    optional_text(function, value)?.ok_or_else(|| Failure::new(format!("`{function}` needs a string")))
}

/// A string, or nothing: absent or `None`.
pub(super) fn optional_text(function: &str, value: Option<Value>) -> Result<Option<Text>, Failure> {
    match value {
        None | Some(Value::None) => Ok(None),
        Some(Value::Str(text)) => Ok(Some(text)),
        Some(other) => {
            other.require()?;
            Err(Failure::new(format!("`{function}` takes a string, not a `{}`", other.kind())))
        }
    }
}

/// An integer, or `default` where there is none.
pub(super) fn integer(function: &str, value: Option<Value>, default: i64) -> Result<i64, Failure> {
    let Some(value) = value else { return Ok(default) };
    value.require()?;
    let wrong = || Failure::new(format!("`{function}` takes a whole number, not a `{}`", value.kind()));
    value.as_int().ok_or_else(wrong)
}

/// Whether a flag is set.
pub(super) fn flag(value: Option<Value>, default: bool) -> bool {
    value.map_or(default, |value| value.truthy())
}

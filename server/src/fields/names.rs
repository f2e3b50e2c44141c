//! Names of fields that are not read, and what is done about them.
//!
//! A field that would change the answer is never dropped in silence. Fields of other servers that ask for
//! nothing (null, false, empty, or the value that we have anyway) pass, since clients send them as defaults.

use crate::error::ApiError;
use crate::json::Object;
use crate::names::nearest;
use arrcoc_bundle::quote::quote;

/// A field that would change the answer, and is not implemented.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refused {
    pub(crate) name: &'static str,
    /// Values that ask for what is done anyway, as JSON. `false` is one of them unless `true` is.
    neutral: &'static [&'static str],
    /// What to do instead.
    instead: &'static str,
}

pub(crate) const fn refused(
    name: &'static str,
    neutral: &'static [&'static str],
    instead: &'static str,
) -> Refused {
    Refused { name, neutral, instead }
}

/// Checks the names of a request that has fields `taken`; those of `silent` are taken and change no answer.
///
/// # Errors
/// 400 for the first that is refused, or that is a slip of one that is known.
pub(crate) fn check(
    body: &Object<'_>,
    taken: &[&[&'static str]],
    tables: &[&[Refused]],
    silent: &[&str],
) -> Result<(), ApiError> {
    let refused = || tables.iter().copied().flatten();
    let taken = || taken.iter().copied().flatten().copied();
    for name in body.names().filter(|name| taken().all(|taken| taken != *name)) {
        if let Some(refused) = refused().find(|refused| refused.name == name) {
            refused.check(body)?;
        } else if !silent.contains(&name) {
            let known = taken().chain(refused().map(|refused| refused.name));
            no_slip(name, known)?;
        }
    }
    Ok(())
}

/// Checks the names of an object inside of a request, of which others may be there too.
pub(crate) fn check_nested(object: &Object<'_>, place: &str, taken: &[&'static str]) -> Result<(), ApiError> {
    let unknown = object.names().filter(|name| !taken.contains(name));
    unknown.into_iter().try_for_each(|name| {
        no_slip(name, taken.iter().copied())
            .map_err(|error| ApiError { param: Some(place.to_owned()), ..error })
    })
}

/// Checks the names of an object that is ours, where nothing else may be; `place` is empty for a whole body.
pub(crate) fn check_own(object: &Object<'_>, place: &str, taken: &[&'static str]) -> Result<(), ApiError> {
    let Some(name) = object.names().find(|name| !taken.contains(name)) else { return Ok(()) };
    let nearest = nearest(name, taken.iter().copied());
    let hint = nearest.map_or_else(String::new, |nearest| format!("; did you mean `{nearest}`?"));
    let known = taken.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let message = format!("expected only {known}, found {}{hint}", quote(name));
    Err(match place {
        "" => ApiError::malformed("unknown_parameter", message),
        _ => ApiError::invalid(place, format!("`{place}`: {message}")),
    })
}

impl Refused {
    /// Refuses a value that asks for something.
    fn check(&self, body: &Object<'_>) -> Result<(), ApiError> {
        let field = body.field(self.name);
        let off: &[&str] = if self.neutral.contains(&"true") { &[] } else { &["false"] };
        let nothing = !field.is_set()
            || field.is_one_of(&["[]", "{}", "\"\""])
            || field.is_one_of(off)
            || field.is_one_of(self.neutral);
        if nothing { Ok(()) } else { Err(ApiError::unsupported(field.path(), self.instead)) }
    }
}

/// Refuses a name that is nearly a known one: what it was meant to do would not be done.
fn no_slip(name: &str, known: impl Iterator<Item = &'static str>) -> Result<(), ApiError> {
    let Some(nearest) = nearest(name, known) else { return Ok(()) };
    let message = format!("there is no field {}; did you mean `{nearest}`?", quote(name));
    Err(ApiError { param: Some(nearest.into()), ..ApiError::malformed("unknown_parameter", message) })
}

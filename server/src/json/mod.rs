//! Reading the JSON of requests without building more than is asked for.
//!
//! A body is measured ([`measure`]), then split into the fields of its outermost object ([`Object`]), each of
//! which is still text. Whoever knows a field reads it as what it should be ([`Field`]); nobody builds a
//! tree. All errors are made here, so that they name the field, say what was expected, and show what was
//! found, shortened.

use crate::config::Limits;
use crate::error::ApiError;

mod field;
mod measure;
mod object;

pub use field::Field;
pub use object::Object;

/// A request that is read from the JSON object of a body.
pub trait Body: Sized + Send + 'static {
    /// Reads and checks every field.
    ///
    /// # Errors
    /// 400 that names the field.
    fn read(body: &Object<'_>, limits: &Limits) -> Result<Self, ApiError>;
}

/// Reads a body.
///
/// # Errors
/// 400 for what is no JSON object or has a wrong field, 413 for more JSON than `limits.json` allows.
pub(crate) fn parse<T: Body>(bytes: &[u8], limits: &Limits) -> Result<T, ApiError> {
    let malformed = |message: String| ApiError::malformed("invalid_json", message);
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        None => return Err(ApiError::malformed("empty_body", "the body is empty; expected a JSON object")),
        Some(b'{') => {}
        Some(_) => return Err(malformed("expected the body to be a JSON object".into())),
    }
    let measure::Measure { structure, depth } = measure::measure(bytes);
    if structure > limits.json.0 {
        return Err(ApiError::json_too_large(limits.json.0, structure));
    }
    if depth > measure::DEEPEST {
        return Err(malformed(format!(
            "expected lists and objects nested at most {} deep, found {depth}",
            measure::DEEPEST
        )));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| malformed(format!("the body is not UTF-8 from byte {} on", error.valid_up_to())))?;
    T::read(&Object::outermost(text)?, limits)
}

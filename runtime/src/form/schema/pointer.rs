//! Places in a schema: JSON pointers, as fragments of an address.

use serde_json::Value;

use crate::form::error::FormError;

/// The place of a part of `place`.
pub(super) fn join(place: &str, name: &str) -> String {
    let mut joined = String::with_capacity(place.len() + 1 + name.len());
    joined.push_str(place);
    joined.push('/');
    for char in name.chars() {
        match char {
            '~' => joined.push_str("~0"),
            '/' => joined.push_str("~1"),
            char => joined.push(char),
        }
    }
    joined
}

/// Where a reference leads to: the place, and what stands there.
///
/// # Errors
/// For other documents, which nobody fetches, for anchors, and for places where nothing is.
pub(super) fn follow<'a>(
    root: &'a Value,
    reference: &str,
    place: &str,
) -> Result<(String, &'a Value), FormError> {
    let Some(fragment) = reference.strip_prefix('#') else {
        let reason = "expected a reference within the schema, `#/...`: other documents are not fetched";
        return Err(FormError::schema(place, reason));
    };
    let pointer = unescaped(fragment);
    if !pointer.is_empty() && !pointer.starts_with('/') {
        return Err(FormError::schema(place, "expected a JSON pointer, `#/...`: anchors are not followed"));
    }
    // Some write the whole document so.
    let pointer = if pointer == "/" { "" } else { &pointer };
    match root.pointer(pointer) {
        Some(schema) => Ok((format!("#{pointer}"), schema)),
        None => {
            Err(FormError::schema(place, "expected a reference to a part of the schema, found nothing there"))
        }
    }
}

/// Without the escapes of addresses (`%20`).
fn unescaped(fragment: &str) -> String {
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.as_bytes();
    while let [first, behind @ ..] = rest {
        let digits =
            behind.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The number of values in a document; counting ends above `most`.
pub(super) fn count(value: &Value, most: usize) -> usize {
    let (mut waiting, mut found) = (vec![value], 0);
    while let Some(value) = waiting.pop() {
        found += 1;
        if found > most {
            break;
        }
        match value {
            Value::Array(items) => waiting.extend(items),
            Value::Object(fields) => waiting.extend(fields.values()),
            _ => {}
        }
    }
    found
}

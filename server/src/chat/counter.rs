//! Counts what a conversation holds while it is read: whatever is too much is refused before it is copied.

use super::Piece;
use crate::config::Limits;
use crate::error::ApiError;
use crate::json::Field;

/// Bytes of JSON that a byte of text takes at most: `\u0041`.
const ESCAPED: usize = 6;

/// What has been read of one request.
pub(crate) struct Counter<'l> {
    /// What there may be.
    pub(crate) limits: &'l Limits,
    /// The field that holds the conversation.
    field: &'static str,
    parts: usize,
    images: usize,
    text: usize,
}

impl<'l> Counter<'l> {
    pub(crate) fn new(limits: &'l Limits, field: &'static str) -> Self {
        Self { limits, field, parts: 0, images: 0, text: 0 }
    }

    /// The messages of a list, at least one.
    pub(crate) fn messages<'a>(&self, field: &Field<'a>, expected: &str) -> Result<Vec<Field<'a>>, ApiError> {
        let list = field.list(expected, self.limits.messages.0, " (limits.messages)")?.unwrap_or_default();
        if list.is_empty() { Err(field.wrong("at least one message")) } else { Ok(list) }
    }

    /// The parts of a list.
    pub(crate) fn parts<'a>(
        &mut self,
        field: &Field<'a>,
        expected: &str,
    ) -> Result<Vec<Field<'a>>, ApiError> {
        let parts = field.list(expected, self.limits.parts.0, " (limits.parts)")?.unwrap_or_default();
        self.parts += parts.len();
        if self.parts > self.limits.parts.0 {
            let (field, most) = (self.field, self.limits.parts.0);
            let message =
                format!("`{field}`: expected at most {most} parts of content, found more (limits.parts)");
            return Err(ApiError::invalid(field, message));
        }
        Ok(parts)
    }

    /// An image of this URL.
    pub(crate) fn image(&mut self, url: &Field<'_>, coarse: bool) -> Result<Piece, ApiError> {
        url.required("the image's URL")?;
        let text = url.text()?.unwrap_or_default().into_owned();
        self.image_at(text, url.path().to_owned(), coarse)
    }

    /// An image of this URL, which stood in `param`, or was made of what stood there.
    pub(crate) fn image_at(&mut self, url: String, param: String, coarse: bool) -> Result<Piece, ApiError> {
        self.images += 1;
        if self.images > self.limits.images {
            let (field, most) = (self.field, self.limits.images);
            let message = format!("`{field}`: expected at most {most} images, found more (limits.images)");
            return Err(ApiError::invalid(field, message));
        }
        Ok(Piece::Image { url, param, coarse })
    }

    /// A text.
    pub(crate) fn text(&mut self, field: &Field<'_>) -> Result<String, ApiError> {
        self.check(self.text + field.json_length() / ESCAPED)?;
        let text = field.text()?.unwrap_or_default();
        self.add(text.len())?;
        Ok(text.into_owned())
    }

    /// Counts text that was read otherwise.
    pub(crate) fn add(&mut self, bytes: usize) -> Result<(), ApiError> {
        self.text += bytes;
        self.check(self.text)
    }

    fn check(&self, at_least: usize) -> Result<(), ApiError> {
        let (limit, field) = (self.limits.text.0, self.field);
        if at_least > limit { Err(ApiError::text_too_long(field, limit, at_least)) } else { Ok(()) }
    }
}

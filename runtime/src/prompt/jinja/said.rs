//! Text that remembers which of its characters come from a message.
//!
//! A template may trim, cut, split and join what messages say. Whatever it does, each byte of the result is
//! known to be the template's or a message's, so that control tokens count only where the template writes all
//! of them.

use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use super::Failure;
use super::meter::Meter;

/// A string, and the byte ranges of it that come from messages: sorted, disjoint, none empty.
#[derive(Clone, Default)]
pub(crate) struct Text {
    text: Rc<str>,
    said: Option<Rc<[Range<usize>]>>,
}

impl Text {
    /// The template's own.
    pub(crate) fn own(text: &str) -> Self {
        Self { text: text.into(), said: None }
    }

    /// What a message says.
    pub(crate) fn said(text: &str) -> Self {
        let whole = 0..text.len();
        let said = (!text.is_empty()).then(|| Rc::from([whole]));
        Self { text: text.into(), said }
    }

    /// Texts with a line end between each two.
    pub(crate) fn lines(lines: impl Iterator<Item = Self>) -> Self {
        let mut pieces = Pieces::default();
        for (index, line) in lines.enumerate() {
            pieces.text.push_str(if index > 0 { "\n" } else { "" });
            pieces.push(&line);
        }
        pieces.finish()
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// The byte ranges that come from messages.
    pub(crate) fn ranges(&self) -> &[Range<usize>] {
        self.said.as_deref().unwrap_or_default()
    }

    /// Bytes of memory that its content takes.
    pub(super) fn weight(&self) -> usize {
        self.text.len() + size_of_val(self.ranges())
    }

    /// The bytes of a range, which must begin and end between characters.
    pub(crate) fn slice(&self, range: Range<usize>) -> Self {
        let ranges = self.ranges();
        let first = ranges.partition_point(|said| said.end <= range.start);
        let inside = ranges[first..].iter().take_while(|said| said.start < range.end);
        let clip = |said: &Range<usize>| {
            said.start.max(range.start) - range.start..said.end.min(range.end) - range.start
        };
        let said: Vec<_> = inside.map(clip).collect();
        let text = self.text.get(range).unwrap_or_default().into();
        Self { text, said: (!said.is_empty()).then(|| said.into()) }
    }

    /// The part that `part`, a slice of this text, is.
    pub(crate) fn part(&self, part: &str) -> Self {
        let start = (part.as_ptr() as usize).wrapping_sub(self.text.as_ptr() as usize);
        if part.is_empty() || start > self.text.len() {
            return Self::default();
        }
        self.slice(start..start + part.len())
    }

    /// Appends the text with some of its characters written in another way; each stays the template's or the
    /// message's.
    pub(super) fn escaped(
        &self,
        escape: impl Fn(char) -> Option<String>,
        out: &mut Builder<'_>,
    ) -> Result<(), Failure> {
        let mut from = 0;
        for (at, c) in self.text.char_indices() {
            let Some(written) = escape(c) else { continue };
            let end = at + c.len_utf8();
            out.push(&self.slice(from..at))?;
            out.push(&self.slice(at..end).derive(&written))?;
            from = end;
        }
        out.push(&self.slice(from..self.text.len()))
    }

    /// Another text made of this one: all of it is a message's when any of this is.
    pub(crate) fn derive(&self, text: &str) -> Self {
        if self.said.is_some() { Self::said(text) } else { Self::own(text) }
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

/// A text that is being made.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    text: String,
    said: Vec<Range<usize>>,
}

impl Pieces {
    pub(crate) fn push(&mut self, text: &Text) {
        let at = self.text.len();
        self.text.push_str(&text.text);
        for range in text.ranges() {
            let (start, end) = (range.start + at, range.end + at);
            match self.said.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => self.said.push(start..end),
            }
        }
    }

    pub(crate) fn finish(self) -> Text {
        Text { text: self.text.into(), said: (!self.said.is_empty()).then(|| self.said.into()) }
    }
}

/// Puts a [`Text`] together, and pays for each piece before it is copied.
pub(super) struct Builder<'m> {
    pieces: Pieces,
    pub(super) meter: &'m Meter,
}

impl<'m> Builder<'m> {
    pub(super) fn new(meter: &'m Meter) -> Self {
        Self { pieces: Pieces::default(), meter }
    }

    pub(super) fn push(&mut self, text: &Text) -> Result<(), Failure> {
        self.meter.bytes(text.weight())?;
        self.pieces.push(text);
        Ok(())
    }

    pub(super) fn push_own(&mut self, text: &str) -> Result<(), Failure> {
        self.meter.bytes(text.len())?;
        self.pieces.text.push_str(text);
        Ok(())
    }

    /// Appends a character so many times.
    pub(super) fn fill(&mut self, c: char, times: usize) -> Result<(), Failure> {
        self.meter.bytes(times.saturating_mul(c.len_utf8()))?;
        self.pieces.text.extend(std::iter::repeat_n(c, times));
        Ok(())
    }

    pub(super) fn finish(self) -> Text {
        self.pieces.finish()
    }
}

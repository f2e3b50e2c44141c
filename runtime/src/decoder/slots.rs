//! Which KV slots are taken, for both flavours and the scheduler.

use super::DecoderError;

/// How far a slot has come. Position and length are two counters: the rows of a picture may share positions,
/// and a picture of which few rows were taken still moves the text behind it as far as the whole would.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// Keys and values held, tokens.
    pub length: usize,
    /// Rotary position of the next token.
    pub position: usize,
}

impl Mark {
    fn advance(&mut self, tokens: usize, position: usize) {
        self.length += tokens;
        self.position = position;
    }
}

/// Which slots are taken, and how far each has come.
#[derive(Debug)]
pub struct Slots {
    marks: Vec<Option<Mark>>,
    capacity: usize,
}

impl Slots {
    /// `slots` free slots of `capacity` positions each.
    pub fn new(slots: usize, capacity: usize) -> Self {
        Self { marks: vec![None; slots], capacity }
    }

    /// Takes the lowest free slot, so that batches stay short.
    pub fn allocate(&mut self) -> Option<usize> {
        let slot = self.marks.iter().position(Option::is_none)?;
        self.marks[slot] = Some(Mark::default());
        Some(slot)
    }

    /// Gives a slot back.
    pub fn free(&mut self, slot: usize) {
        self.marks[slot] = None;
    }

    /// How far a slot has come; the start for a free one.
    pub fn mark(&self, slot: usize) -> Mark {
        self.marks[slot].unwrap_or_default()
    }

    /// Slots in all.
    pub fn total(&self) -> usize {
        self.marks.len()
    }

    /// Slots taken.
    pub fn used(&self) -> usize {
        self.marks.iter().flatten().count()
    }

    /// Share of all positions that hold keys and values, 0..=1.
    pub fn usage(&self) -> f64 {
        let held: usize = self.marks.iter().flatten().map(|mark| mark.length).sum();
        held as f64 / (self.total() * self.capacity).max(1) as f64
    }

    /// Checks that a slot can take `adding` more positions. One position per slot stays spare: a batched step
    /// may write a dummy there (see [`super::fused`]), and the last token of an answer is never fed back, so
    /// an answer can still fill the context.
    pub(crate) fn check_room(&self, slot: usize, adding: usize) -> Result<Mark, DecoderError> {
        let mark = self.mark(slot);
        if mark.length + adding >= self.capacity {
            return Err(DecoderError::Full { slot, length: mark.length, adding, capacity: self.capacity });
        }
        Ok(mark)
    }

    /// A slot has taken `tokens`, and goes on at `position`.
    pub(super) fn advance(&mut self, slot: usize, tokens: usize, position: usize) {
        if let Some(mark) = &mut self.marks[slot] {
            mark.advance(tokens, position);
        }
    }

    pub(super) fn set(&mut self, slot: usize, mark: Mark) {
        self.marks[slot] = Some(mark);
    }
}

//! What is left of floats that became bytes, in both kinds of linear layers.

/// What it takes to get back from a product with quantized numbers: those of a row, or of a block.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Group {
    pub(crate) scale: f32,
    /// The weights' zero point times the sum of the numbers: what multiplying them with raised weights adds.
    pub(crate) correction: i32,
}

impl Group {
    /// Of numbers that are not all finite: every product with them is no number either.
    pub(crate) const NOT_FINITE: Self = Self { scale: f32::NAN, correction: 0 };
}

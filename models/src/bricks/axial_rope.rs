//! Rotary positions of patches in a grid: one half of a head's frequencies turns with the row, the other with
//! the column, as the towers of Qwen's models have it.

use serde::Deserialize;

use super::{rotary, width};
use crate::config::{Check, ConfigError};
use crate::dims;
use crate::graph::{Builder, Dim, Value};

/// `rope_parameters` of a `vision_config`.
#[derive(Default, Deserialize)]
pub(crate) struct Parameters {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
}

impl Parameters {
    /// The base of the frequencies. Files before transformers 5 state none.
    ///
    /// # Errors
    /// [`ConfigError`] for another kind of rope, or an impossible base.
    pub(crate) fn theta(stated: Option<Self>, check: &Check) -> Result<f64, ConfigError> {
        let Self { rope_theta, rope_type } = stated.unwrap_or_default();
        let axial = rope_type.as_deref().is_none_or(|kind| kind == "axial");
        check.that(axial, "rope_parameters", "rope_type axial", &rope_type)?;
        let theta = rope_theta.unwrap_or(10_000.0);
        let usable = theta.is_finite() && theta > 1.0;
        check.that(usable, "rope_parameters", "rope_theta above 1", theta).map(|()| theta)
    }
}

/// Fails unless heads of `width` have as many frequencies for rows as for columns.
///
/// # Errors
/// [`ConfigError`] at `key`.
pub(crate) fn check_heads(check: &Check, key: &'static str, width: usize) -> Result<(), ConfigError> {
    check.that(width.is_multiple_of(4), key, "as many that heads are a multiple of 4 wide", width)
}

/// Cosines and sines by patch, \[P, width / 2\] each, and the number of each patch \[1, P\].
pub struct Tables {
    cosines: Value,
    sines: Value,
    order: Value,
}

/// Tables of patches at `coordinates` \[2, P\] (row, column), each below `places`, for heads of `head`
/// numbers, a multiple of 4.
pub fn tables(g: &mut Builder, coordinates: &Value, places: usize, head: usize, theta: f64) -> Tables {
    let (patches, half) = (coordinates.dim(1).clone(), head / 2);
    // Frequencies of half a head, once for rows and once for columns.
    let frequencies = rotary::frequencies(half, theta);
    let (cosines, sines) = rotary::tables(g, places, &frequencies, 1.0); // [places, head / 4]
    let parts = g.split(coordinates, &[1, 1], 0); // 2 x [1, P]
    let [rows, columns] = [0, 1].map(|part| g.reshape(&parts[part], dims![&patches]));
    let [cosines, sines] = [cosines, sines].map(|table| {
        let (of_row, of_column) = (g.gather(&table, &rows, 0), g.gather(&table, &columns, 0));
        g.concat(&[&of_row, &of_column], -1) // [P, head / 2]
    });
    let order = g.range(&Dim::Fixed(0), &patches);
    let order = g.reshape(&order, dims![1, &patches]);
    Tables { cosines, sines, order }
}

impl Tables {
    /// Rotates heads \[1, P, heads, width\].
    pub fn rotate(&self, g: &mut Builder, x: &Value) -> Value {
        let (patches, heads, width) = (x.dim(1).clone(), x.dim(2).clone(), width(x));
        match g.target().has_own_operators() {
            true => {
                let joined = g.reshape(x, dims![1, &patches, heads.times(width)]);
                let rotated = g.rotary_embedding(&joined, &self.order, &self.cosines, &self.sines);
                g.reshape(&rotated, dims![1, &patches, &heads, width])
            }
            false => {
                let [cosines, sines] = [&self.cosines, &self.sines]
                    .map(|table| g.reshape(table, dims![1, &patches, 1, width / 2]));
                rotary::rotate(g, x, &cosines, &sines)
            }
        }
    }
}

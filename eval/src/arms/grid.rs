//! DeepSeek-OCR's fixed strided grid at any side: average pooling to 2n x 2n, then a 2 x 2 convolution of
//! stride 2.

use ndarray::{Array1, Array2, ArrayView2};

/// The convolution that follows the pooling.
#[derive(Debug, Clone)]
pub struct Neck {
    channels: usize,
    /// Trained weights, `[4 C, C]` with rows in the order of [`windows`], and bias; `None` takes the mean of
    /// the four.
    convolution: Option<(Array2<f32>, Array1<f32>)>,
}

/// A neck that does not fit the bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{tensor}` of the grid's neck: expected shape {expected:?}, found {found:?}")]
pub struct NeckError {
    /// Which tensor.
    pub tensor: &'static str,
    /// What fits.
    pub expected: Vec<usize>,
    /// What was given.
    pub found: Vec<usize>,
}

/// A tensor as it was read from a file.
#[derive(Debug, Clone)]
pub struct Raw {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements, row-major.
    pub values: Vec<f32>,
}

impl Neck {
    /// Without training: the mean of the four cells.
    pub fn mean(channels: usize) -> Self {
        Self { channels, convolution: None }
    }

    /// A trained one: `weight [C, C, 2, 2]` and `bias [C]`, as PyTorch has them.
    ///
    /// # Errors
    /// [`NeckError`] when the shapes are not those of `channels`.
    pub fn trained(channels: usize, weight: &Raw, bias: &Raw) -> Result<Self, NeckError> {
        let check = |tensor: &'static str, raw: &Raw, expected: Vec<usize>| {
            let fits = raw.shape == expected && raw.values.len() == expected.iter().product::<usize>();
            let error = || NeckError { tensor, expected: expected.clone(), found: raw.shape.clone() };
            if fits { Ok(()) } else { Err(error()) }
        };
        check("weight", weight, vec![channels, channels, 2, 2])?;
        check("bias", bias, vec![channels])?;
        let element = |(row, out): (usize, usize)| {
            let (corner, channel) = (row / channels, row % channels);
            weight.values[(out * channels + channel) * 4 + corner]
        };
        let weight = Array2::from_shape_fn((4 * channels, channels), element);
        Ok(Self { channels, convolution: Some((weight, Array1::from_vec(bias.values.clone()))) })
    }

    /// Whether the weights were trained.
    pub fn is_trained(&self) -> bool {
        self.convolution.is_some()
    }

    /// Width of the features that it takes and gives, C.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Features of a square grid `[s * s, C]` to those of one of side `n`, `[n * n, C]`.
    pub fn apply(&self, features: ArrayView2<'_, f32>, n: usize) -> Array2<f32> {
        let pooled = adaptive_average(features, 2 * n);
        let windows = windows(&pooled, n);
        match &self.convolution {
            Some((weight, bias)) => windows.dot(weight) + bias,
            None => {
                let c = self.channels;
                Array2::from_shape_fn((n * n, c), |(cell, channel)| {
                    (0..4).map(|corner| windows[[cell, corner * c + channel]]).sum::<f32>() / 4.0
                })
            }
        }
    }
}

/// PyTorch's `adaptive_avg_pool2d` to m x m: cell i covers rows (and columns) floor(i s / m) to ceil((i + 1)
/// s / m). `[s * s, C]` to `[m * m, C]`; m may be larger than s.
pub fn adaptive_average(features: ArrayView2<'_, f32>, m: usize) -> Array2<f32> {
    let side = features.nrows().isqrt();
    let span = |cell: usize| cell * side / m..((cell + 1) * side).div_ceil(m);
    let mut pooled = Array2::zeros((m * m, features.ncols()));
    for (cell, mut mean) in pooled.rows_mut().into_iter().enumerate() {
        let (rows, columns) = (span(cell / m), span(cell % m));
        let count = rows.len() * columns.len();
        for patch in rows.flat_map(|row| columns.clone().map(move |column| row * side + column)) {
            mean += &features.row(patch);
        }
        mean /= count as f32;
    }
    pooled
}

/// The four cells under each position of the convolution, side by side: `[4 n * n, C]` to `[n * n, 4 C]`.
fn windows(pooled: &Array2<f32>, n: usize) -> Array2<f32> {
    let channels = pooled.ncols();
    Array2::from_shape_fn((n * n, 4 * channels), |(cell, column)| {
        let (corner, channel) = (column / channels, column % channels);
        let (y, x) = (cell / n * 2 + corner / 2, cell % n * 2 + corner % 2);
        pooled[[y * 2 * n + x, channel]]
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ndarray::Array2;

    use super::*;

    /// One channel that counts 0, 1, 2 ...
    fn counting(side: usize) -> Array2<f32> {
        Array2::from_shape_fn((side * side, 1), |(patch, _)| patch as f32)
    }

    fn column(array: &Array2<f32>) -> Vec<f32> {
        array.column(0).to_vec()
    }

    #[test]
    fn pooling_is_pytorchs() {
        // torch.nn.functional.adaptive_avg_pool2d(torch.arange(9.).view(1, 3, 3), 2)
        assert_eq!(column(&adaptive_average(counting(3).view(), 2)), [2.0, 3.0, 5.0, 6.0]);
        // To 4: cells 0..1, 0..2, 1..3, 2..3 of each axis, so the first row is 0, 0.5, 1.5, 2.
        assert_eq!(
            column(&adaptive_average(counting(3).view(), 4))[..8],
            [0.0, 0.5, 1.5, 2.0, 1.5, 2.0, 3.0, 3.5]
        );
        assert_eq!(column(&adaptive_average(counting(4).view(), 4)), column(&counting(4)));
    }

    #[test]
    fn the_mean_of_the_four() {
        let found = Neck::mean(1).apply(counting(4).view(), 2);
        assert_eq!(column(&found), [2.5, 4.5, 10.5, 12.5]);
    }

    #[test]
    fn the_convolution_is_pytorchs() {
        // Two channels: the patch's number and its negative. Output 0 takes corner (0, 1) of channel 0 and
        // half of corner (1, 0) of channel 1; output 1 is its bias.
        let features = Array2::from_shape_fn((4, 2), |(patch, channel)| [1.0, -1.0][channel] * patch as f32);
        let mut values = vec![0.0; 16];
        values[1] = 1.0; // [0, 0, 0, 1]
        values[4 + 2] = 0.5; // [0, 1, 1, 0]
        let weight = Raw { shape: vec![2, 2, 2, 2], values };
        let bias = Raw { shape: vec![2], values: vec![10.0, 7.0] };
        let neck = Neck::trained(2, &weight, &bias).unwrap();
        assert!(neck.is_trained());
        let found = neck.apply(features.view(), 1);
        // 10 + 1 - 2 / 2.
        assert_eq!(found.into_raw_vec_and_offset().0, [10.0, 7.0]);
    }

    #[test]
    fn wrong_shapes_are_refused() {
        let weight = Raw { shape: vec![2, 2, 2, 2], values: vec![0.0; 16] };
        let bias = Raw { shape: vec![3], values: vec![0.0; 3] };
        let error = Neck::trained(2, &weight, &bias).unwrap_err();
        assert_eq!(error.to_string(), "`bias` of the grid's neck: expected shape [2], found [3]");
        assert!(Neck::trained(3, &weight, &bias).is_err());
    }
}

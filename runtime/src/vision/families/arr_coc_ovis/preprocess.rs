//! RGB pixels to the vision encoder's input, as transformers' `SamImageProcessor` does it: the longest side
//! becomes the input size (PIL's antialiased bilinear filter, on bytes), values are scaled to 0..1 and
//! normalised per channel, and the right and lower border is filled with zeros.

use arrcoc_bundle::processors::Resampling;

use crate::image::allocate::{self, NoMemory};
use crate::image::resample::resize;
use crate::image::{DecodedImage, ImageError, PixelValues};
use crate::tensor::Tensor;

/// What happens to pixels between the file and the encoder.
#[derive(Debug, Clone)]
pub struct Preprocess {
    size: usize,
    /// Normalised value of every byte, per channel.
    tables: [[f32; 256]; 3],
}

impl Preprocess {
    /// For square inputs of `size` pixels.
    pub fn new(size: usize, image_mean: [f32; 3], image_std: [f32; 3]) -> Self {
        let table = |channel: usize| {
            let (mean, std) = (image_mean[channel], image_std[channel]);
            std::array::from_fn(|byte| (byte as f32 / 255.0 - mean) / std)
        };
        Self { size, tables: std::array::from_fn(table) }
    }

    /// Side of the encoder's input, pixels.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Resizes, normalises and pads.
    ///
    /// # Errors
    /// [`ImageError::Memory`].
    pub fn apply(&self, image: &DecodedImage) -> Result<PixelValues, ImageError> {
        let original = image.pixels.dimensions();
        let (width, height) = fitted(original, self.size);
        let values = if (width, height) == original {
            self.normalise(image.pixels.as_raw(), width as usize)?
        } else {
            self.normalise(
                &resize(&image.pixels, width as usize, height as usize, Resampling::Bilinear)?,
                width as usize,
            )?
        };
        let shape = [1, 3, self.size, self.size];
        Ok(PixelValues {
            tensor: Tensor::from_vec(&shape, values).expect("`normalise` fills the whole input"),
            sha256: image.sha256,
            original: original.into(),
            resized: [width, height],
        })
    }

    /// Interleaved bytes to planes of normalised values; what they do not cover stays zero.
    fn normalise(&self, pixels: &[u8], width: usize) -> Result<Vec<f32>, NoMemory> {
        let size = self.size;
        let mut values = allocate::filled(3 * size * size, 0.0)?;
        for (plane, (channel, table)) in
            values.chunks_exact_mut(size * size).zip(self.tables.iter().enumerate())
        {
            for (line, row) in plane.chunks_exact_mut(size).zip(pixels.chunks_exact(width * 3)) {
                for (value, pixel) in line.iter_mut().zip(row.chunks_exact(3)) {
                    *value = table[usize::from(pixel[channel])];
                }
            }
        }
        Ok(values)
    }
}

/// Size of a picture whose longest side is to be `longest` pixels, rounded as transformers does; a side never
/// vanishes.
pub(super) fn fitted((width, height): (u32, u32), longest: usize) -> (u32, u32) {
    let scale = longest as f64 / f64::from(width.max(height));
    let fit = |side: u32| ((f64::from(side) * scale + 0.5) as u32).clamp(1, longest as u32);
    (fit(width), fit(height))
}

//! Goldens: the reference's tensors of one case, as `reference/make_goldens.py` writes them.

use std::path::Path;

use anyhow::{Context, Result, bail};
use arrcoc_runtime::tensor::Tensor;
use safetensors::{Dtype, SafeTensors};

/// The tensors of one `*.safetensors` file of goldens.
pub struct Goldens {
    bytes: Vec<u8>,
}

impl Goldens {
    /// Reads a file below `tests/goldens`.
    ///
    /// # Errors
    /// When it is missing or damaged.
    pub fn read(path: &str) -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens").join(path);
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        SafeTensors::deserialize(&bytes).with_context(|| format!("not safetensors: {}", path.display()))?;
        Ok(Self { bytes })
    }

    /// One tensor; bytes (`u8`) become floats, which is what images are wanted as.
    ///
    /// # Errors
    /// When there is none of that name, or its type is not one that goldens use.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let file = SafeTensors::deserialize(&self.bytes)?;
        let view = file.tensor(name).with_context(|| format!("no golden `{name}`"))?;
        let data = view.data();
        Ok(match view.dtype() {
            Dtype::F32 => Tensor::from_vec(view.shape(), numbers(data, f32::from_le_bytes))?,
            Dtype::I64 => Tensor::from_vec(view.shape(), numbers(data, i64::from_le_bytes))?,
            Dtype::U8 => {
                Tensor::from_vec(view.shape(), data.iter().map(|&x| f32::from(x)).collect::<Vec<f32>>())?
            }
            other => bail!("golden `{name}`: expected F32, I64 or U8, found {other:?}"),
        })
    }

    /// Whether there is a tensor of that name.
    pub fn has(&self, name: &str) -> bool {
        SafeTensors::deserialize(&self.bytes).is_ok_and(|file| file.tensor(name).is_ok())
    }

    /// The floats of one tensor.
    ///
    /// # Errors
    /// As [`Goldens::tensor`], and when they are not floats.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.tensor(name)?.as_slice::<f32>()?.to_vec())
    }

    /// The integers of one tensor.
    ///
    /// # Errors
    /// As [`Goldens::tensor`], and when they are not integers.
    pub fn ints(&self, name: &str) -> Result<Vec<i64>> {
        Ok(self.tensor(name)?.as_slice::<i64>()?.to_vec())
    }

    /// `pixel_values` \[batch, 3, side, side\] from the stored `resized_image` of each row: normalised as the
    /// reference does, padded with zeros.
    ///
    /// # Errors
    /// When the images are missing.
    pub fn pixel_values(&self, side: usize, mean: [f32; 3], std: [f32; 3]) -> Result<Tensor> {
        let names: Vec<String> = match self.has("resized_image") {
            true => vec!["resized_image".to_owned()],
            false => {
                let rows = (0..).map(|row| format!("resized_image.{row}"));
                rows.take_while(|name| self.has(name)).collect()
            }
        };
        let mut pixels = vec![0.0f32; names.len() * 3 * side * side];
        for (row, name) in names.iter().enumerate() {
            let image = self.tensor(name)?;
            let &[height, width, 3] = image.shape() else { bail!("`{name}` is not [height, width, 3]") };
            let values = image.as_slice::<f32>()?;
            for (y, x, channel) in places(height, width) {
                let value = values[(y * width + x) * 3 + channel] / 255.0;
                let at = ((row * 3 + channel) * side + y) * side + x;
                pixels[at] = (value - mean[channel]) / std[channel];
            }
        }
        Ok(Tensor::from_vec(&[names.len(), 3, side, side], pixels)?)
    }
}

fn places(height: usize, width: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..height).flat_map(move |y| (0..width).flat_map(move |x| (0..3).map(move |channel| (y, x, channel))))
}

fn numbers<T, const N: usize>(bytes: &[u8], parse: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|&chunk| parse(chunk)).collect()
}

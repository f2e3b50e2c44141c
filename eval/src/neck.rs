//! The grid's trained neck, from a safetensors file.

use std::path::{Path, PathBuf};

use crate::arms::grid::{Neck, NeckError, Raw};
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use sha2::{Digest as _, Sha256};

/// A file that holds no neck for this bundle.
#[derive(Debug, thiserror::Error)]
pub enum NeckFileError {
    /// It cannot be read.
    #[error("cannot read the grid's neck `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The bundle's arms have no grid.
    #[error("the grid's neck `{}`: expected none, since only a model with an allocator has the arm `grid`", .0.display())]
    NoGrid(PathBuf),
    /// It is no safetensors file, or lacks a tensor.
    #[error("`{}`: {source}; expected safetensors with `weight` [C, C, 2, 2] and `bias` [C]", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SafeTensorError,
    },
    /// A tensor has elements of another type.
    #[error("`{}`, `{tensor}`: expected F32 or F16, found {found:?}", path.display())]
    Type {
        /// The file.
        path: PathBuf,
        /// Which tensor.
        tensor: &'static str,
        /// Its type.
        found: Dtype,
    },
    /// A tensor has another shape.
    #[error(transparent)]
    Shape(#[from] NeckError),
}

/// Reads `weight` and `bias`, fp32 or fp16, for features of `channels`; also the file's SHA-256, hex.
///
/// # Errors
/// [`NeckFileError`] names the file and what was expected.
pub fn read(path: &Path, channels: usize) -> Result<(Neck, String), NeckFileError> {
    let bytes = std::fs::read(path).map_err(|source| NeckFileError::Read { path: path.into(), source })?;
    let format = |source| NeckFileError::Format { path: path.into(), source };
    let file = SafeTensors::deserialize(&bytes).map_err(format)?;
    let tensor = |tensor: &'static str| {
        let view = file.tensor(tensor).map_err(format)?;
        let values = match view.dtype() {
            Dtype::F32 => numbers(view.data(), f32::from_le_bytes),
            Dtype::F16 => numbers(view.data(), |bytes| half::f16::from_le_bytes(bytes).to_f32()),
            found => return Err(NeckFileError::Type { path: path.into(), tensor, found }),
        };
        Ok(Raw { shape: view.shape().to_vec(), values })
    };
    let neck = Neck::trained(channels, &tensor("weight")?, &tensor("bias")?)?;
    Ok((neck, arrcoc_bundle::hex(&Sha256::digest(&bytes))))
}

fn numbers<const N: usize>(bytes: &[u8], parse: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|&chunk| parse(chunk)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use safetensors::tensor::TensorView;

    use super::*;

    fn file(dtype: Dtype, weight: &[u8], bias: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("neck.safetensors");
        let weight = TensorView::new(dtype, vec![1, 1, 2, 2], weight).unwrap();
        let bias = TensorView::new(dtype, vec![1], bias).unwrap();
        let bytes = safetensors::serialize([("weight", weight), ("bias", bias)], None).unwrap();
        std::fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    #[test]
    fn both_precisions_are_read() {
        let single: Vec<u8> = [1.0f32, 0.5, -2.0, 0.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let half: Vec<u8> =
            [1.0f32, 0.5, -2.0, 0.0].iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect();
        for (dtype, weight, bias) in [(Dtype::F32, &single, 4), (Dtype::F16, &half, 2)] {
            let (_dir, path) = file(dtype, weight, &weight[..bias]);
            let (neck, sha256) = read(&path, 1).unwrap();
            assert!(neck.is_trained() && neck.channels() == 1 && sha256.len() == 64);
            let error = read(&path, 2).unwrap_err().to_string();
            assert!(error.contains("[2, 2, 2, 2]") && error.contains("[1, 1, 2, 2]"), "{error}");
        }
    }

    #[test]
    fn other_files_are_refused_with_a_reason() {
        let (_dir, path) = file(Dtype::I32, &[0; 16], &[0; 4]);
        assert!(matches!(read(&path, 1), Err(NeckFileError::Type { tensor: "weight", .. })));
        std::fs::write(&path, b"nothing").unwrap();
        assert!(read(&path, 1).unwrap_err().to_string().contains("safetensors"));
        assert!(matches!(read(Path::new("/nonexistent"), 1), Err(NeckFileError::Read { .. })));
    }
}

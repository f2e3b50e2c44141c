//! Values of settings whose types are the runtime's.

use arrcoc_runtime::generate::{Budget, Share};
use arrcoc_runtime::library::{ArenaGrowth, Kernels, LibraryKind};
use serde::Serialize;

use super::units::{Plain, Setting};

/// Which inference library to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeChoice {
    /// ONNX Runtime, or tract for portable bundles where ONNX Runtime is not to be had.
    Auto,
    /// ONNX Runtime on the CPU or nothing.
    Ort,
    /// ONNX Runtime on CUDA or nothing.
    Cuda,
    /// ONNX Runtime on TensorRT or nothing.
    TensorRt,
    /// tract or nothing.
    Tract,
}

/// Absence means "choose".
impl Plain<Option<LibraryKind>> for RuntimeChoice {
    fn plain(&self) -> Option<LibraryKind> {
        match self {
            Self::Auto => None,
            Self::Ort => Some(LibraryKind::Ort),
            Self::Cuda => Some(LibraryKind::Cuda),
            Self::TensorRt => Some(LibraryKind::TensorRt),
            Self::Tract => Some(LibraryKind::Tract),
        }
    }
}

impl Setting for RuntimeChoice {
    fn expected() -> String {
        "auto, ort, cuda, tensorrt or tract".into()
    }

    fn read(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "ort" => Some(Self::Ort),
            "cuda" => Some(Self::Cuda),
            "tensorrt" => Some(Self::TensorRt),
            "tract" => Some(Self::Tract),
            _ => None,
        }
    }
}

impl Setting for Kernels {
    fn expected() -> String {
        "own or library".into()
    }

    fn read(text: &str) -> Option<Self> {
        match text {
            "own" => Some(Self::Own),
            "library" => Some(Self::Library),
            _ => None,
        }
    }
}

impl Setting for Budget {
    fn expected() -> String {
        "auto, full, a number of tokens, or a share of all such as 0.25".into()
    }

    fn read(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "full" => Some(Self::Full),
            number => {
                let tokens = number.parse().ok().filter(|tokens| *tokens > 0).map(Self::Tokens);
                tokens.or_else(|| Share::new(number.parse().ok()?).map(Self::Share))
            }
        }
    }
}

impl Setting for ArenaGrowth {
    fn expected() -> String {
        "requested or doubling".into()
    }

    fn read(text: &str) -> Option<Self> {
        match text {
            "requested" => Some(Self::Requested),
            "doubling" => Some(Self::Doubling),
            _ => None,
        }
    }
}

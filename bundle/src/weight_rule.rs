//! Which weights of a bundle are stored in which form.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::graph::Role;

/// Gives a form to the weights that it fits; of several rules that fit a weight, the last one counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightRule {
    /// Graph (`vision_encoder`, `decoder`, ...); all of them where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graph: Option<String>,
    /// What the graph is for; any where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Name of the weight in the checkpoint; `*` stands for any characters, and leaving it out for every
    /// weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensor: Option<String>,
    /// Operator that reads the weight: `Gemm` (linear layers) or `Gather` (embedding tables).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    /// How it is stored.
    pub form: WeightForm,
}

/// How a weight is stored and multiplied.
///
/// Written as `fp32`, `fp16`, `fp8`, `w8a8`, `int8-block128`, `int4-block32` or `int4-block32-asymmetric`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum WeightForm {
    /// 32-bit floats.
    Fp32,
    /// 16-bit floats, and products in them.
    Fp16,
    /// 8-bit floats (E4M3) with one scale, and products of activations in the same.
    Fp8,
    /// int8 with a scale per output channel; activations are quantized too, with a scale per token.
    W8a8,
    /// Blocks along the input axis with a scale each; activations are quantized block by block.
    Blocks {
        /// Bits of a weight: 4 or 8.
        bits: u8,
        /// Weights per block: a power of two, 16 to 256.
        size: usize,
        /// Without zero points.
        symmetric: bool,
    },
}

/// A form that does not exist.
#[derive(Debug, thiserror::Error)]
#[error(
    "expected `fp32`, `fp16`, `fp8`, `w8a8`, or `int4-blockN` or `int8-blockN` with N one of 16, 32, 64, 128 and 256 (and \
     `-asymmetric` behind it for zero points), found `{0}`"
)]
pub struct UnknownForm(String);

const ASYMMETRIC: &str = "-asymmetric";

impl FromStr for WeightForm {
    type Err = UnknownForm;

    fn from_str(text: &str) -> Result<Self, UnknownForm> {
        let unknown = || UnknownForm(text.to_owned());
        match text {
            "fp32" => return Ok(Self::Fp32),
            "fp16" => return Ok(Self::Fp16),
            "fp8" => return Ok(Self::Fp8),
            "w8a8" => return Ok(Self::W8a8),
            _ => {}
        }
        let (plain, symmetric) = text.strip_suffix(ASYMMETRIC).map_or((text, true), |plain| (plain, false));
        let (bits, size) = plain.split_once("-block").ok_or_else(unknown)?;
        let bits = match bits {
            "int4" => 4,
            "int8" => 8,
            _ => return Err(unknown()),
        };
        match size.parse() {
            Ok(size @ (16 | 32 | 64 | 128 | 256)) => Ok(Self::Blocks { bits, size, symmetric }),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for WeightForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fp32 => f.write_str("fp32"),
            Self::Fp16 => f.write_str("fp16"),
            Self::Fp8 => f.write_str("fp8"),
            Self::W8a8 => f.write_str("w8a8"),
            Self::Blocks { bits, size, symmetric } => {
                write!(f, "int{bits}-block{size}{}", if *symmetric { "" } else { ASYMMETRIC })
            }
        }
    }
}

impl TryFrom<String> for WeightForm {
    type Error = UnknownForm;

    fn try_from(text: String) -> Result<Self, UnknownForm> {
        text.parse()
    }
}

impl From<WeightForm> for String {
    fn from(form: WeightForm) -> Self {
        form.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn forms_are_read_as_they_are_written() {
        for text in
            ["fp32", "fp16", "fp8", "w8a8", "int8-block128", "int4-block32", "int4-block16-asymmetric"]
        {
            assert_eq!(text.parse::<WeightForm>().unwrap().to_string(), text);
        }
        let four = WeightForm::Blocks { bits: 4, size: 32, symmetric: false };
        assert_eq!("int4-block32-asymmetric".parse::<WeightForm>().unwrap(), four);
    }

    #[test]
    fn other_forms_are_refused_with_the_list() {
        for text in
            ["", "int4", "int3-block32", "int4-block48", "int8-block", "int4-block32-symmetric", "bf16"]
        {
            let error = text.parse::<WeightForm>().unwrap_err().to_string();
            assert!(error.contains("int4-blockN") && error.contains(&format!("`{text}`")), "{error}");
        }
    }
}

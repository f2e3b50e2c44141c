//! `BlockLinear`: a linear layer with weights of 4 or 8 bits in tiles of blocks.

use ::ort::Error;
use ::ort::operator::KernelContext;
use ::ort::value::TensorElementType::{self, Float16, Float32, Uint8};
use arrcoc_bundle::names::operator;
use arrcoc_kernels::{BLOCK, BlockedWeight, TILE, WeightBits, block_linear};
use half::f16;

use super::kernel::{Call, Kernel, check};

/// The operator: x \[rows, in\], values \[out / 16, in / 32, 4, 16, 4\] (of 8 bits \[.., 8, 16, 4\]) and
/// scales \[out / 16, in / 32, 16\] to \[rows, out\].
pub(super) struct BlockLinear {
    bits: WeightBits,
    /// Inputs and outputs, as the body reads them.
    said: [Option<i64>; 2],
}

impl Kernel for BlockLinear {
    const OPERATOR: arrcoc_kernels::Operator = arrcoc_kernels::Operator::BlockLinear;
    const NAME: &'static str = operator::BLOCK_LINEAR;
    const INPUTS: &'static [(&'static str, TensorElementType)] =
        &[("x", Float32), ("values", Uint8), ("scales", Float16)];
    type Scratch = Vec<[i32; BLOCK / 4]>;

    fn new(node: &KernelContext<'_>) -> Result<Self, Error> {
        let bits = match node.get::<i64>("bits") {
            // Bundles of before 8 bits do not say them.
            Some(4) | None => WeightBits::Four,
            Some(8) => WeightBits::Eight,
            Some(other) => {
                return Err(Error::new(format!("BlockLinear: expected 4 or 8 bits, found {other}")));
            }
        };
        Ok(Self { bits, said: ["K", "N"].map(|name| node.get::<i64>(name)) })
    }

    fn compute(&self, call: &Call<'_>, scratch: &mut Vec<[i32; BLOCK / 4]>) -> Result<(), Error> {
        let [x, values, scales] = call.inputs()?;
        let ([rows, inputs], x) = x.tensor::<f32, 2>()?;
        let (shape, values) = values.tensor::<u8, 5>()?;
        let (scaled, scales) = scales.tensor::<f16, 3>()?;
        let [tiles, blocks, ..] = shape;
        let words = self.bits.words();
        let tiled = shape == [tiles, blocks, words, TILE, 4] && scaled == [tiles, blocks, TILE];
        check(tiled && blocks > 0 && inputs == blocks * BLOCK, || {
            format!(
                "BlockLinear: expected values [{tiles}, {}, {words}, 16, 4] and scales [{tiles}, {0}, 16] for x [{rows}, \
                 {inputs}], found {shape:?} and {scaled:?}",
                inputs / BLOCK
            )
        })?;
        let found = [inputs, tiles * TILE];
        let agrees = self.said.iter().zip(found).all(|(said, found)| *said == i64::try_from(found).ok());
        check(agrees, || {
            format!("BlockLinear: expected K and N to be {found:?} as the weights are, found {:?}", self.said)
        })?;
        let mut y = call.output(0, [rows, tiles * TILE])?;
        let (_, y) = y.try_extract_tensor_mut::<f32>()?;
        block_linear(x, BlockedWeight { bits: self.bits, inputs, values, scales }, y, scratch, &call.pool);
        Ok(())
    }
}

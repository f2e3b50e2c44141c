//! Blocks along a row, in the layout of ONNX Runtime's `MatMulNBits`
//! (<https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits>).

use super::nearest;
use super::stored::{Restored, Stored, four_bits};
use arrcoc_models::graph::quantized::{Bits, Blocks, Part};

/// A block's affine map: `weight = scale * (value - zero_point)`, values from 0 to 2^bits - 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Map {
    pub(super) scale: f32,
    pub(super) zero_point: u8,
}

/// Appends one part of a row: its values, its scales or its zero points.
pub(super) fn encode(row: &[f32], blocks: Blocks, part: Part, out: &mut Vec<u8>) {
    let of_blocks = row.chunks(blocks.size);
    match part {
        Part::Scales => out.extend(of_blocks.flat_map(|block| map(block, blocks).scale.to_le_bytes())),
        Part::ZeroPoints => {
            let points: Vec<u8> = of_blocks.map(|block| map(block, blocks).zero_point).collect();
            pack(&points, blocks.bits, out);
        }
        Part::Values => {
            let mut values = Vec::with_capacity(blocks.size);
            for block in of_blocks {
                let map = map(block, blocks);
                values.clear();
                values.extend(block.iter().map(|&x| map.value(x, blocks.bits)));
                // The last block may be padded: with what stands for zero.
                values.resize(blocks.size, map.zero_point);
                pack(&values, blocks.bits, out);
            }
        }
    }
}

/// What `MatMulNBits` makes of its inputs: `scale * (value - zero point)`, with the middle of the range where
/// there is no zero point.
pub(super) fn restore(stored: &Stored, blocks: Blocks, row: usize, column: usize) -> Restored {
    let per_row = blocks.per_row(stored.columns);
    let (block, within) = (column / blocks.size, column % blocks.size);
    let first = (row * per_row + block) * blocks.bytes();
    let points = stored.zero_points.get(row * blocks.zero_point_bytes(stored.columns)..).unwrap_or(&[]);
    let (value, point) = match blocks.bits {
        Bits::Four => (four_bits(&stored.values, 2 * first + within), four_bits(points, block)),
        Bits::Eight => (stored.byte(first + within), points.get(block).copied().unwrap_or(0)),
    };
    let largest = i32::from(largest(blocks.bits));
    let point = if blocks.symmetric { largest / 2 + 1 } else { point.into() };
    Restored::new(stored.scale(row * per_row + block), i32::from(value) - point, -point, largest - point)
}

/// Largest value that fits.
fn largest(bits: Bits) -> u8 {
    match bits {
        Bits::Four => 15,
        Bits::Eight => 255,
    }
}

pub(super) fn map(block: &[f32], blocks: Blocks) -> Map {
    let largest = largest(blocks.bits);
    let middle = largest / 2 + 1;
    let (low, high) = block.iter().fold((0.0f32, 0.0f32), |(low, high), &x| (low.min(x), high.max(x)));
    if blocks.symmetric {
        let scale = match blocks.bits {
            // Of sixteen values the one more below zero counts: the largest weight takes it, whatever its
            // sign.
            Bits::Four => least_lossy(block, if high > -low { high } else { low }),
            Bits::Eight => high.max(-low) / f32::from(largest - middle),
        };
        return Map { scale: if scale == 0.0 { 1.0 } else { scale }, zero_point: middle };
    }
    let scale = (high - low) / f32::from(largest);
    if scale == 0.0 {
        return Map { scale: 1.0, zero_point: 0 };
    }
    Map { scale, zero_point: (-low / scale).round_ties_even() as u8 }
}

/// The scale of the least squared error, of 4 bits without a zero point: among those that make -8 steps, or
/// somewhat fewer or more, of the weight of the largest magnitude, each then fitted to the integers that it
/// gives. More steps are finer for most weights and saturate a few.
fn least_lossy(block: &[f32], largest: f32) -> f32 {
    let mut best = (0.0, 0.0);
    for steps in STEPS {
        let scale = largest / -steps;
        let (mut products, mut squares) = ([0.0f32; LANES], [0.0f32; LANES]);
        let (lanes, rest) = block.as_chunks::<LANES>();
        for lanes in lanes {
            add(lanes, scale, &mut products, &mut squares);
        }
        if !rest.is_empty() {
            let mut padded = [0.0; LANES];
            padded[..rest.len()].copy_from_slice(rest);
            add(&padded, scale, &mut products, &mut squares);
        }
        let (products, squares): (f32, f32) = (products.iter().sum(), squares.iter().sum());
        // The error of the fitted scale is the sum of the weights' squares, less this.
        let explained = products * products / squares;
        if explained > best.0 {
            best = (explained, products / squares);
        }
    }
    best.1
}

/// So many sums are computed at once.
const LANES: usize = 8;

/// Adds what weights have to do with the integers that a scale gives them: their products, and the integers'
/// squares.
#[inline]
fn add(x: &[f32; LANES], scale: f32, products: &mut [f32; LANES], squares: &mut [f32; LANES]) {
    let inverse = scale.recip();
    for lane in 0..LANES {
        let integer = nearest((x[lane] * inverse).clamp(-8.0, 7.0));
        products[lane] += x[lane] * integer;
        squares[lane] += integer * integer;
    }
}

/// What [`least_lossy`] tries. As it stands comes first: it wins where another is no better.
const STEPS: [f32; 9] = [8.0, 6.5, 7.0, 7.25, 7.5, 7.75, 8.25, 8.5, 9.0];

impl Map {
    pub(super) fn value(self, x: f32, bits: Bits) -> u8 {
        let value = nearest(x / self.scale) + f32::from(self.zero_point);
        value.clamp(0.0, f32::from(largest(bits))) as u8
    }
}

/// Four bits: two values per byte, the first in the lower half.
pub(super) fn pack(values: &[u8], bits: Bits, out: &mut Vec<u8>) {
    match bits {
        Bits::Eight => out.extend_from_slice(values),
        Bits::Four => {
            out.extend(values.chunks(2).map(|pair| pair[0] | pair.get(1).map_or(0, |high| high << 4)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrcoc_models::graph::quantized::Scheme;

    const SIZES: [usize; 2] = [16, 32];

    fn all() -> impl Iterator<Item = Blocks> {
        let bits = [Bits::Four, Bits::Eight];
        let forms = bits.into_iter().flat_map(|bits| [true, false].map(|symmetric| (bits, symmetric)));
        forms.flat_map(|(bits, symmetric)| SIZES.map(|size| Blocks { bits, size, symmetric }))
    }

    fn unpacked(bytes: &[u8], bits: Bits) -> Vec<u8> {
        match bits {
            Bits::Eight => bytes.to_vec(),
            Bits::Four => bytes.iter().flat_map(|byte| [byte & 15, byte >> 4]).collect(),
        }
    }

    /// A row, written and read back as the operator does it.
    fn restored(row: &[f32], blocks: Blocks) -> Vec<f32> {
        let part = |part| {
            let mut bytes = Vec::new();
            encode(row, blocks, part, &mut bytes);
            bytes
        };
        let values = unpacked(&part(Part::Values), blocks.bits);
        let points = match blocks.symmetric {
            true => vec![largest(blocks.bits) / 2 + 1; values.len()],
            false => unpacked(&part(Part::ZeroPoints), blocks.bits),
        };
        let scales = part(Part::Scales);
        let scales = scales.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let blocks = values.chunks(blocks.size).zip(scales.zip(points));
        let weight = |scale: f32, value: u8, point: u8| scale * (f32::from(value) - f32::from(point));
        blocks
            .flat_map(|(block, (scale, point))| block.iter().map(move |&v| weight(scale, v, point)))
            .collect()
    }

    #[test]
    fn weights_come_back_within_a_step() {
        let row: Vec<f32> = (0..96).map(|i| ((i * 37 % 101) as f32 - 40.0) * 0.013).collect();
        for blocks in all() {
            let width =
                if blocks.symmetric { 2.0 * row.iter().fold(0.0f32, |m, x| m.max(x.abs())) } else { 1.31 };
            let step = width / f32::from(largest(blocks.bits) - 1);
            // Of four symmetric bits an extreme of the other sign may be a whole step off.
            let steps = if blocks.symmetric && blocks.bits == Bits::Four { 1.07 } else { 0.51 };
            for (x, y) in row.iter().zip(restored(&row, blocks)) {
                assert!((x - y).abs() <= step * steps, "{blocks:?}: {x} became {y}");
            }
        }
    }

    #[test]
    fn the_largest_weight_and_zero_come_back_exactly() {
        let mut row = vec![0.0; 32];
        row[5] = 1.25;
        for blocks in all().filter(|blocks| blocks.symmetric) {
            assert_eq!(restored(&row, blocks), row);
        }
    }

    #[test]
    fn a_short_last_block_is_padded_with_zeros() {
        for blocks in all() {
            let found = restored(&[0.5; 40], blocks);
            assert_eq!(found.len(), 40usize.next_multiple_of(blocks.size));
            assert!(found[40..].iter().all(|&x| x == 0.0));
        }
    }

    /// The reading that `verify` uses against the one above, which unpacks a row as the operator does.
    #[test]
    fn rows_are_read_back_one_by_one() {
        let rows: Vec<Vec<f32>> = (0..3)
            .map(|row| (0..80).map(|i| ((i * 37 + row * 13) % 101) as f32 * 0.01 - 0.4).collect())
            .collect();
        for blocks in all() {
            let all = |part| {
                let mut bytes = Vec::new();
                rows.iter().for_each(|row| encode(row, blocks, part, &mut bytes));
                bytes
            };
            let scales = all(Part::Scales);
            let scales =
                scales.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            let zero_points = if blocks.symmetric { Vec::new() } else { all(Part::ZeroPoints) };
            let scheme = Scheme::Blocks(blocks);
            let stored =
                Stored { scheme, rows: 3, columns: 80, values: all(Part::Values), scales, zero_points };
            let mut found = Vec::new();
            for (number, row) in rows.iter().enumerate() {
                stored.row(number, &mut found);
                let values: Vec<f32> = found.iter().map(|found| found.value).collect();
                assert_eq!(values, restored(row, blocks)[..80], "{blocks:?}, row {number}");
            }
        }
    }

    #[test]
    fn zero_points_of_a_row_begin_at_a_byte() {
        let blocks = Blocks { bits: Bits::Four, size: 16, symmetric: false };
        let mut bytes = Vec::new();
        encode(&[1.0; 48], blocks, Part::ZeroPoints, &mut bytes);
        assert_eq!(bytes.len(), blocks.zero_point_bytes(48));
    }
}

//! Against the same product in plain loops, to the bit.

use super::*;
use crate::Support;
use crate::testing::{Three, numbers};

struct Case {
    bits: Bits,
    inputs: usize,
    x: Vec<f32>,
    values: Vec<u8>,
    scales: Vec<f32>,
}

impl Case {
    fn new(bits: Bits, rows: usize, inputs: usize, outputs: usize) -> Self {
        let blocks = outputs * inputs / BLOCK;
        Self {
            bits,
            inputs,
            x: numbers(rows * inputs, 1),
            values: numbers(blocks * bits.bytes(), 2).iter().map(|x| (x * 127.9 + 128.0) as u8).collect(),
            scales: numbers(blocks, 3).into_iter().map(|x| x * 0.1).collect(),
        }
    }

    fn weight(&self) -> BlockedWeight<'_> {
        let Self { bits, inputs, values, scales, .. } = self;
        BlockedWeight { bits: *bits, inputs: *inputs, values, scales }
    }

    fn run(&self, rows: usize) -> Vec<f32> {
        let mut y = vec![f32::NAN; rows * self.weight().outputs()];
        let x = &self.x[..rows * self.inputs];
        // Whatever earlier calls have left in the scratch must not matter.
        block_linear(x, self.weight(), &mut y, &mut vec![0xaa; 100], &Three);
        y
    }

    /// Weight `i` of a block, from zero up and down.
    fn value(&self, block: &[u8], i: usize) -> i32 {
        let stored = match self.bits {
            Bits::Eight => block[i],
            Bits::Four => block[i / 2] >> (4 * (i % 2)) & 15,
        };
        i32::from(stored) - self.bits.zero()
    }

    fn expected(&self, rows: usize) -> Vec<f32> {
        let (weight, mut y) = (self.weight(), Vec::new());
        for x in self.x.chunks(self.inputs).take(rows) {
            for output in 0..weight.outputs() {
                let mut sum = 0.0f32;
                let weights = weight.row(output).chunks(self.bits.bytes());
                for ((x, block), scale) in x.chunks(BLOCK).zip(weights).zip(weight.scales_of(output)) {
                    let largest = x.iter().fold(1e-20f32, |largest, x| largest.max(x.abs()));
                    let quantized = x.iter().map(|x| (x * (127.0 / largest)).round_ties_even() as i32);
                    let product: i32 = quantized.enumerate().map(|(i, x)| x * self.value(block, i)).sum();
                    sum = (product as f32).mul_add(largest / 127.0 * scale, sum);
                }
                y.push(sum);
            }
        }
        y
    }
}

#[test]
fn every_shape_gives_the_sums_of_plain_loops() {
    if !Support::detect().linear {
        return;
    }
    for bits in [Bits::Four, Bits::Eight] {
        for (blocks, outputs) in [(1, 1), (1, 32), (2, 5), (3, 33), (4, 64), (5, 67), (7, 130), (24, 96)] {
            let case = Case::new(bits, 15, blocks * BLOCK, outputs);
            for rows in [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15] {
                let (found, expected) = (case.run(rows), case.expected(rows));
                assert_eq!(found, expected, "{bits:?}, {rows} rows, {blocks} blocks, {outputs} outputs");
            }
        }
    }
}

#[test]
fn more_rows_than_one_task_takes() {
    if !Support::detect().linear {
        return;
    }
    let case = Case::new(Bits::Four, 800, 64, 100);
    assert_eq!(case.run(800), case.expected(800));
}

#[test]
fn the_largest_weights_and_activations_do_not_overflow() {
    if !Support::detect().linear {
        return;
    }
    for (bits, byte, value) in [(Bits::Eight, 255, 127.0), (Bits::Four, 0xff, 7.0)] {
        let mut case = Case::new(bits, 7, 4096, 9);
        case.x.fill(-2.0);
        case.values.fill(byte);
        case.scales.fill(1.0);
        let expected = -2.0 * value * 4096.0;
        for rows in [1, 7] {
            assert!(case.run(rows).iter().all(|y| (y / expected - 1.0).abs() < 1e-5));
        }
    }
}

#[test]
fn what_is_no_number_stays_none_in_its_row_alone() {
    if !Support::detect().linear {
        return;
    }
    for wild in [f32::NAN, f32::INFINITY] {
        for at in [0, 40, 95] {
            let mut case = Case::new(Bits::Four, 14, 96, 40);
            case.x[2 * 96 + at] = wild;
            for rows in [3, 14] {
                for (row, y) in case.run(rows).chunks(40).enumerate() {
                    assert!(
                        y.iter().all(|y| y.is_nan() == (row == 2)),
                        "{wild} at {at}, row {row} of {rows}"
                    );
                }
            }
        }
    }
}

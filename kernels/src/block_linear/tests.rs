//! Against the same product in plain loops, to the bit.

use super::*;
use crate::testing::{Three, can_run, numbers, one_result, shapes};

/// Every form of a weight.
const BOTH: [WeightBits; 2] = [WeightBits::Four, WeightBits::Eight];

struct Case {
    bits: WeightBits,
    inputs: usize,
    x: Vec<f32>,
    values: Vec<u8>,
    scales: Vec<f16>,
}

impl Case {
    fn new(bits: WeightBits, rows: usize, inputs: usize, outputs: usize) -> Self {
        let blocks = outputs * inputs / BLOCK;
        Self {
            bits,
            inputs,
            x: numbers(rows * inputs, 1),
            values: numbers(blocks * bits.words() * 4, 2).iter().map(|x| (x * 127.9 + 128.0) as u8).collect(),
            scales: numbers(blocks, 3).into_iter().map(|x| f16::from_f32(x * 0.1)).collect(),
        }
    }

    fn weight(&self) -> BlockedWeight<'_> {
        BlockedWeight { bits: self.bits, inputs: self.inputs, values: &self.values, scales: &self.scales }
    }

    fn run(&self, rows: usize) -> Vec<f32> {
        let x = &self.x[..rows * self.inputs];
        let results = TABLE.all_here().map(|kernel| {
            let mut y = vec![f32::NAN; rows * self.weight().outputs()];
            // Whatever earlier calls have left in the scratch must not matter.
            block_linear_with(kernel, x, self.weight(), &mut y, &mut vec![[-1; BLOCK / 4]; 3], &Three);
            y
        });
        one_result(results)
    }

    /// Weight `input` of an output, from zero up and down, as the layout's description has it.
    fn value(&self, output: usize, input: usize) -> i32 {
        let (tile, lane) = (output / 16, output % 16);
        let per_byte = BLOCK / (4 * self.bits.words());
        let (block, byte) = (input / BLOCK, input % BLOCK / per_byte);
        let (word, byte) = (byte / 4, byte % 4);
        let at = (((tile * (self.inputs / BLOCK) + block) * self.bits.words() + word) * 16 + lane) * 4 + byte;
        match self.bits {
            WeightBits::Four => i32::from(self.values[at] >> (4 * (input % 2)) & 15) - 8,
            WeightBits::Eight => i32::from(self.values[at]) - 128,
        }
    }

    fn expected(&self, rows: usize) -> Vec<f32> {
        let (blocks, mut y) = (self.inputs / BLOCK, Vec::new());
        for x in self.x.chunks(self.inputs).take(rows) {
            for output in 0..self.weight().outputs() {
                let mut sum = 0.0f32;
                for (block, x) in x.chunks(BLOCK).enumerate() {
                    let largest = x.iter().fold(1e-20f32, |largest, x| largest.max(x.abs()));
                    let quantized = x.iter().map(|x| (x * (127.0 / largest)).round_ties_even() as i32);
                    let product: i32 =
                        quantized.enumerate().map(|(i, x)| x * self.value(output, block * BLOCK + i)).sum();
                    let scale = self.scales[(output / 16 * blocks + block) * 16 + output % 16].to_f32();
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
    if !can_run(&TABLE) {
        return;
    }
    let sizes = [(1, 16), (1, 32), (2, 48), (3, 64), (5, 112), (7, 144), (24, 96)];
    for (bits, (blocks, outputs)) in BOTH.into_iter().flat_map(|bits| sizes.map(|size| (bits, size))) {
        let case = Case::new(bits, 15, blocks * BLOCK, outputs);
        for rows in [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15] {
            let (found, expected) = (case.run(rows), case.expected(rows));
            assert_eq!(found, expected, "{bits:?}, {rows} rows, {blocks} blocks, {outputs} outputs");
        }
    }
}

#[test]
fn odd_shapes_give_the_sums_of_plain_loops() {
    if !can_run(&TABLE) {
        return;
    }
    for [rows, blocks, tiles] in shapes(200, [(1, 20), (1, 9), (1, 13)]) {
        for bits in BOTH {
            let case = Case::new(bits, rows, blocks * BLOCK, tiles * TILE);
            let told = format!("{bits:?}, {rows} rows, {blocks} blocks, {tiles} tiles");
            assert_eq!(case.run(rows), case.expected(rows), "{told}");
        }
    }
}

#[test]
fn nothing_to_compute_is_computed() {
    if !can_run(&TABLE) {
        return;
    }
    for (rows, outputs) in [(0, 32), (3, 0)] {
        let case = Case::new(WeightBits::Eight, rows, 64, outputs);
        block_linear(&case.x, case.weight(), &mut [], &mut Vec::new(), &Three);
    }
}

#[test]
fn slices_that_do_not_fit_are_refused() {
    if !can_run(&TABLE) {
        return;
    }
    for bits in BOTH {
        refuses_what_does_not_fit(&Case::new(bits, 5, 64, 32));
    }
}

fn refuses_what_does_not_fit(case: &Case) {
    let refused = |x: &[f32], weight: BlockedWeight<'_>, outputs: usize| {
        let call = || block_linear(x, weight, &mut vec![0.0; outputs], &mut Vec::new(), &Three);
        assert!(std::panic::catch_unwind(call).is_err());
    };
    refused(&case.x[1..], case.weight(), 160);
    refused(&case.x, case.weight(), 159);
    refused(&case.x, BlockedWeight { values: &case.values[1..], ..case.weight() }, 160);
    refused(&case.x, BlockedWeight { scales: &case.scales[1..], ..case.weight() }, 160);
    refused(&case.x, BlockedWeight { inputs: 63, ..case.weight() }, 160);
    refused(&case.x, BlockedWeight { inputs: 0, ..case.weight() }, 160);
}

#[test]
fn more_rows_than_one_task_takes() {
    if !can_run(&TABLE) {
        return;
    }
    for bits in BOTH {
        let case = Case::new(bits, 800, 64, 112);
        assert_eq!(case.run(800), case.expected(800), "{bits:?}");
    }
}

#[test]
fn the_largest_weights_and_activations_do_not_overflow() {
    if !can_run(&TABLE) {
        return;
    }
    let (four, eight) = (WeightBits::Four, WeightBits::Eight);
    for (bits, byte, value) in
        [(four, 0x00, -8.0), (four, 0xff, 7.0), (eight, 0x00, -128.0), (eight, 0xff, 127.0)]
    {
        let mut case = Case::new(bits, 7, 4096, 16);
        case.x.fill(-2.0);
        case.values.fill(byte);
        case.scales.fill(f16::ONE);
        let expected = -2.0 * value * 4096.0;
        for rows in [1, 7] {
            assert!(case.run(rows).iter().all(|y| (y / expected - 1.0).abs() < 1e-5));
        }
    }
}

#[test]
fn what_is_no_number_stays_none_in_its_row_alone() {
    if !can_run(&TABLE) {
        return;
    }
    for (bits, wild) in BOTH.into_iter().flat_map(|bits| [f32::NAN, f32::INFINITY].map(|wild| (bits, wild))) {
        for at in [0, 40, 95] {
            let mut case = Case::new(bits, 14, 96, 48);
            case.x[2 * 96 + at] = wild;
            for rows in [3, 14] {
                for (row, y) in case.run(rows).chunks(48).enumerate() {
                    assert!(
                        y.iter().all(|y| y.is_nan() == (row == 2)),
                        "{wild} at {at}, row {row} of {rows}"
                    );
                }
            }
        }
    }
}

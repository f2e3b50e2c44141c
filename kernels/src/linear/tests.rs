//! Against the same product in plain loops, to the bit.

use super::*;
use crate::testing::{Three, can_run, numbers, one_result, shapes};

struct Case {
    x: Vec<f32>,
    values: Vec<i8>,
    scales: Vec<f32>,
    bias: Vec<f32>,
}

impl Case {
    fn new(rows: usize, inputs: usize, outputs: usize) -> Self {
        Self {
            x: numbers(rows * inputs, 1),
            values: numbers(outputs * inputs, 2).into_iter().map(|x| (x * 127.0) as i8).collect(),
            scales: numbers(outputs, 3).into_iter().map(|x| x.abs() + 0.01).collect(),
            bias: numbers(outputs, 4),
        }
    }

    fn weight(&self) -> Weight<'_> {
        Weight { values: &self.values, scales: &self.scales, bias: &self.bias }
    }

    fn run(&self, rows: usize) -> Vec<f32> {
        let x = &self.x[..rows * self.weight().inputs()];
        let results = TABLE.all_here().map(|kernel| {
            let mut y = vec![f32::NAN; rows * self.scales.len()];
            // Whatever earlier calls have left in the scratch must not matter.
            linear_with(kernel, x, self.weight(), &mut y, &mut vec![0xaa; 100], &Three);
            y
        });
        one_result(results)
    }

    fn expected(&self, rows: usize) -> Vec<f32> {
        let (inputs, outputs) = (self.weight().inputs(), self.scales.len());
        let mut y = Vec::new();
        for x in self.x.chunks(inputs).take(rows) {
            let largest = x.iter().fold(1e-20f32, |largest, x| largest.max(x.abs()));
            let x: Vec<i32> = x.iter().map(|x| (x * (127.0 / largest)).round_ties_even() as i32).collect();
            for output in 0..outputs {
                let weights = &self.values[output * inputs..][..inputs];
                let product: i32 = x.iter().zip(weights).map(|(x, w)| x * i32::from(*w)).sum();
                let scale = largest / 127.0 * self.scales[output];
                y.push((product as f32).mul_add(scale, self.bias[output]));
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
    for (inputs, outputs) in
        [(64, 32), (1, 1), (3, 5), (65, 33), (130, 67), (256, 16), (100, 31), (768, 96), (64, 66), (5, 129)]
    {
        let case = Case::new(40, inputs, outputs);
        for rows in [1, 2, 3, 4, 5, 11, 12, 13, 24, 31, 40] {
            assert_eq!(
                case.run(rows),
                case.expected(rows),
                "{rows} rows, {inputs} inputs, {outputs} outputs"
            );
        }
    }
}

#[test]
fn odd_shapes_give_the_sums_of_plain_loops() {
    if !can_run(&TABLE) {
        return;
    }
    for [rows, inputs, outputs] in shapes(300, [(1, 30), (1, 300), (1, 200)]) {
        let case = Case::new(rows, inputs, outputs);
        assert_eq!(case.run(rows), case.expected(rows), "{rows} rows, {inputs} inputs, {outputs} outputs");
    }
}

#[test]
fn nothing_to_compute_is_computed() {
    if !can_run(&TABLE) {
        return;
    }
    for (rows, inputs, outputs) in [(0, 70, 9), (3, 70, 0), (0, 0, 0)] {
        let case = Case::new(rows, inputs, outputs);
        linear(&case.x, case.weight(), &mut [], &mut Vec::new(), &Three);
    }
}

#[test]
fn slices_that_do_not_fit_are_refused() {
    if !can_run(&TABLE) {
        return;
    }
    let case = Case::new(5, 70, 9);
    let refused = |x: &[f32], weight: Weight<'_>, outputs: usize| {
        let call = || linear(x, weight, &mut vec![0.0; outputs], &mut Vec::new(), &Three);
        assert!(std::panic::catch_unwind(call).is_err());
    };
    refused(&case.x[1..], case.weight(), 45);
    refused(&case.x, case.weight(), 44);
    refused(&case.x, Weight { values: &case.values[1..], ..case.weight() }, 45);
    refused(&case.x, Weight { scales: &case.scales[1..], ..case.weight() }, 45);
    refused(&case.x, Weight { bias: &case.bias[1..], ..case.weight() }, 45);
}

#[test]
fn more_rows_than_one_task_takes() {
    if !can_run(&TABLE) {
        return;
    }
    let case = Case::new(2100, 36, 300);
    assert_eq!(case.run(2100), case.expected(2100));
}

#[test]
fn the_largest_weights_and_activations_do_not_overflow() {
    if !can_run(&TABLE) {
        return;
    }
    for (inputs, x, weight) in [(8192, -3.0, -127), (MOST_INPUTS, 3.0, 127), (MOST_INPUTS, -3.0, 127)] {
        let values = vec![weight; inputs];
        let case = Case { x: vec![x; 13 * inputs], values, scales: vec![1.0], bias: vec![0.0] };
        let expected = f32::from(weight) * x * inputs as f32;
        for rows in [1, 13] {
            assert!(case.run(rows).iter().all(|y| (y / expected - 1.0).abs() < 1e-6), "{inputs}, {x}");
        }
    }
}

#[test]
fn a_row_of_zeros_gives_the_bias() {
    if !can_run(&TABLE) {
        return;
    }
    let mut case = Case::new(1, 70, 9);
    case.x.fill(0.0);
    assert_eq!(case.run(1), case.bias);
}

#[test]
fn what_is_no_number_stays_none_in_its_row_alone() {
    if !can_run(&TABLE) {
        return;
    }
    for (wild, inputs) in [(f32::NAN, 70), (f32::INFINITY, 70), (f32::NEG_INFINITY, 70)] {
        for at in [0, 33, inputs - 1] {
            let mut case = Case::new(14, inputs, 40);
            case.x[2 * inputs + at] = wild;
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

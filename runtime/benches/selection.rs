//! How long selectors take, for `cargo xtask bench selection`: a line of JSON for each.
//!
//! Rows and question are numbers drawn from a normal distribution: what they are changes no operation but the
//! number of gains that are computed again.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::time::Instant;

use arrcoc_runtime::generate::{Budget, Place, Receipt, Selection, Selector};
use arrcoc_runtime::selection::choose;
use arrcoc_runtime::tensor::Tensor;
use arrcoc_runtime::vision::{Choice, Visual};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

const WIDTH: usize = 2048;
/// Tokens of the question.
const QUESTION: usize = 12;
const RUNS: usize = 7;
/// Rows and how many of them are kept.
const SIZES: [(usize, usize); 3] = [(1024, 100), (2048, 256), (16_384, 400)];

fn main() {
    for (rows, kept) in SIZES {
        let visual = picture(rows);
        let question = Tensor::from_vec(&[1, QUESTION, WIDTH], numbers(QUESTION * WIDTH, 1)).unwrap();
        for selector in Selector::ALL {
            if rows > 2048 && selector.compares_all() {
                continue;
            }
            let selection = Selection { selector: Some(selector), ..Selection::default() };
            let choice = Choice { budget: Budget::Tokens(kept), selection, need: None };
            let mut seconds: Vec<f64> = (0..RUNS)
                .map(|_| {
                    let started = Instant::now();
                    let chosen = choose(&visual, &question, None, &choice).unwrap();
                    assert_eq!(chosen.receipt.tokens, kept);
                    started.elapsed().as_secs_f64()
                })
                .collect();
            seconds.sort_by(f64::total_cmp);
            let (selector, median) = (selector.name(), seconds[RUNS / 2]);
            let all = seconds.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
            println!(
                r#"{{"selector":"{selector}","rows":{rows},"width":{WIDTH},"kept":{kept},"median":{median},"all":[{all}]}}"#
            );
        }
    }
}

/// A square picture of so many rows.
fn picture(rows: usize) -> Visual {
    let side = rows.isqrt();
    let place = |at: usize| {
        let [x, y] = [(at % side) as f32 * 32.0, (at / side) as f32 * 32.0];
        Place {
            rect: [x, y, x + 32.0, y + 32.0],
            cell: [0, (at / side) as u32, (at % side) as u32],
            ..Place::default()
        }
    };
    let size = [side as u32 * 32; 2];
    let receipt = Receipt::of_all(size, (0..rows).map(place).collect());
    let tensor = Tensor::from_vec(&[1, rows, WIDTH], numbers(rows * WIDTH, 2)).unwrap();
    #[allow(clippy::single_range_in_vec_init)]
    let runs = vec![0..rows];
    Visual::new(tensor, runs, receipt)
}

/// Numbers that are nearly normal: sums of four.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut random = SmallRng::seed_from_u64(seed);
    (0..count).map(|_| (0..4).map(|_| random.random_range(-1.0f32..1.0)).sum()).collect()
}

//! Against the formula in 64-bit floats.

use super::*;
use crate::testing::{Three, can_run, numbers, shapes};

fn expected(grid: Grid, qkv: &[f32], tables: Tables<'_>) -> Vec<f64> {
    let (positions, width) = (grid.positions(), grid.head_width);
    let mut out = Vec::new();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    for batch in 0..grid.batch {
        let part = |position: usize, which: usize, head: usize| {
            &qkv[((batch * positions + position) * 3 + which) * grid.row_width() + head * width..][..width]
        };
        for q in 0..positions {
            for head in 0..grid.heads {
                let query = part(q, 0, head);
                let logits: Vec<f64> = (0..positions)
                    .map(|k| {
                        let down = q / grid.width + grid.height - 1 - k / grid.width;
                        let across = q % grid.width + grid.width - 1 - k % grid.width;
                        dot(query, part(k, 1, head)) / (width as f64).sqrt()
                            + dot(query, &tables.rows[down * width..][..width])
                            + dot(query, &tables.columns[across * width..][..width])
                    })
                    .collect();
                let largest = logits.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = logits.iter().map(|x| (x - largest).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for i in 0..width {
                    let weighted = |(k, weight): (usize, &f64)| weight * f64::from(part(k, 2, head)[i]);
                    out.push(weights.iter().enumerate().map(weighted).sum::<f64>() / sum);
                }
            }
        }
    }
    out
}

/// The formula rounds nothing; the kernel rounds factors to 8 bits of mantissa. With logits of a few units
/// that is half a percent of a result.
const TOLERANCE: f64 = 0.006;

fn check(grid: Grid, size: f32) {
    if !can_run(&TABLE) {
        return;
    }
    let (row, width) = (grid.row_width(), grid.head_width);
    let qkv: Vec<f32> =
        numbers(grid.batch * grid.positions() * 3 * row, 1).into_iter().map(|x| size * x).collect();
    let table =
        |count: usize, seed| numbers(count * width, seed).into_iter().map(|x| 0.3 * x).collect::<Vec<f32>>();
    let rows = table(2 * grid.height - 1, 2);
    let columns = table(2 * grid.width - 1, 3);
    let tables = Tables { rows: &rows, columns: &columns };
    let expected = expected(grid, &qkv, tables);
    for kernel in TABLE.all_here() {
        let mut out = vec![f32::NAN; grid.batch * grid.positions() * row];
        // Whatever earlier calls have left in the scratch must not matter.
        let scratch = &mut vec![u32::MAX; 100_000];
        grid_attention_with(kernel, grid, &qkv, tables, &mut out, scratch, &Three);
        assert_close(grid, &out, &expected);
    }
}

fn assert_close(grid: Grid, out: &[f32], expected: &[f64]) {
    let norm = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
    let error = out.iter().zip(expected).map(|(x, y)| (f64::from(*x) - y).powi(2)).sum::<f64>().sqrt();
    assert!(error / norm < TOLERANCE, "{grid:?}: relative error {}", error / norm);
}

#[test]
fn every_shape_follows_the_formula() {
    for (batch, height, width, heads, head_width) in [
        (1, 1, 1, 1, 16),
        (1, 4, 4, 1, 64),
        (2, 14, 14, 3, 64),
        (1, 5, 23, 2, 32),
        (3, 16, 16, 1, 16),
        (1, 9, 31, 1, 80),
        (1, 7, 3, 2, 20),
        (1, 6, 6, 1, 3),
        (2, 3, 50, 2, 72),
    ] {
        check(Grid { batch, height, width, heads, head_width }, 1.0);
    }
}

#[test]
fn odd_shapes_follow_the_formula() {
    for [batch, height, width, heads, head_width] in shapes(60, [(1, 2), (1, 18), (1, 18), (1, 3), (1, 70)]) {
        check(Grid { batch, height, width, heads, head_width }, 1.0);
    }
}

#[test]
fn nothing_to_compute_is_computed() {
    if !can_run(&TABLE) {
        return;
    }
    for (batch, height, width, heads) in [(0, 3, 3, 2), (2, 0, 3, 1), (2, 3, 0, 1), (1, 2, 2, 0)] {
        let grid = Grid { batch, height, width, heads, head_width: 8 };
        let table = |side: usize| vec![0.0; (2 * side).saturating_sub(1) * 8];
        let (rows, columns) = (table(height), table(width));
        let tables = Tables { rows: &rows, columns: &columns };
        grid_attention(grid, &[], tables, &mut [], &mut Vec::new(), &Three);
        attention(grid, [&[]; 3], &mut [], &mut Vec::new(), &Three);
    }
}

#[test]
fn slices_that_do_not_fit_are_refused() {
    if !can_run(&TABLE) {
        return;
    }
    let grid = Grid { batch: 1, height: 2, width: 3, heads: 2, head_width: 8 };
    let (qkv, rows, columns) = (vec![0.0; 288], vec![0.0; 24], vec![0.0; 40]);
    let refused = |qkv: &[f32], rows: &[f32], columns: &[f32], out: usize| {
        let tables = Tables { rows, columns };
        let call = || grid_attention(grid, qkv, tables, &mut vec![0.0; out], &mut Vec::new(), &Three);
        assert!(std::panic::catch_unwind(call).is_err());
    };
    refused(&qkv[1..], &rows, &columns, 96);
    refused(&qkv, &rows[1..], &columns, 96);
    refused(&qkv, &rows, &columns[1..], 96);
    refused(&qkv, &rows, &columns, 95);
}

#[test]
fn without_positions() {
    if !can_run(&TABLE) {
        return;
    }
    let grid = Grid { batch: 2, height: 1, width: 300, heads: 3, head_width: 40 };
    let zeros = vec![0.0; 599 * 40];
    let qkv = numbers(2 * 300 * 3 * 120, 1);
    let expected = expected(grid, &qkv, Tables { rows: &zeros[..40], columns: &zeros });
    let part =
        |part: usize| -> Vec<f32> { qkv.chunks(120).skip(part).step_by(3).flatten().copied().collect() };
    let parts = [0, 1, 2].map(part);
    for kernel in TABLE.all_here() {
        let (parts, mut out) = (parts.each_ref().map(|part| &part[..]), vec![f32::NAN; expected.len()]);
        attention_with(kernel, grid, parts, &mut out, &mut vec![u32::MAX; 7], &Three);
        assert_close(grid, &out, &expected);
    }
}

#[test]
fn products_of_very_different_size() {
    check(Grid { batch: 1, height: 12, width: 12, heads: 2, head_width: 64 }, 4.0);
}

//! Matrix products, convolutions, norms, and operators that reduce or rank an axis.

use arrcoc_models::dims;
use arrcoc_models::graph::{Builder, Dim, Value};

use crate::harness::{Array, Case, Draw, Input, floats};

pub(crate) fn cases() -> Vec<Case> {
    [products(), convolutions(), norms(), reductions(), rankings()].into_iter().flatten().collect()
}

fn products() -> Vec<Case> {
    let mut cases = Vec::new();
    for pair in [
        [dims!["a", 4], dims![4, "b"]],
        [dims!["a", 1], dims![1, "b"]],
        [dims!["a", 1, 3, 4], dims![2, 4, "b"]],
        [dims![2, 3, "b"], dims!["b", 5]],
        [dims!["a", 1, "b"], dims!["a", "b", 1]],
    ] {
        cases.push(Case::new("matmul", pair.map(floats).into(), |g, x| g.matmul(&x[0], &x[1]), matmul));
    }
    for (inner, outer) in [(5, 3), (1, 4), (7, 1)] {
        let weight = floats(dims![outer, inner]).constant();
        let bias = floats(dims![outer]).constant();
        let inputs = vec![floats(dims!["a", inner]), weight.clone(), bias];
        cases.push(Case::new("gemm", inputs, |g, x| g.gemm(&x[0], &x[1], Some(&x[2])), gemm));
        let inputs = vec![floats(dims!["a", inner]), weight];
        cases.push(Case::new("gemm", inputs, |g, x| g.gemm(&x[0], &x[1], None), gemm));
    }
    cases
}

fn matmul(x: &[Array]) -> Array {
    let (a, b) = (&x[0], &x[1]);
    let inner = b.shape[b.shape.len() - 2];
    let rank = a.shape.len().max(b.shape.len());
    let length = |array: &Array, axis: usize| {
        (axis + array.shape.len()).checked_sub(rank).map_or(1, |axis| array.shape[axis])
    };
    let mut shape: Vec<usize> = (0..rank).map(|axis| length(a, axis).max(length(b, axis))).collect();
    shape[rank - 2] = a.shape[a.shape.len() - 2];
    shape[rank - 1] = b.shape[b.shape.len() - 1];
    Array::of(&shape, |place| {
        let with = |row: usize, column: usize| [&place[..rank - 2], &[row, column]].concat();
        (0..inner).map(|k| a.at(&with(place[rank - 2], k)) * b.at(&with(k, place[rank - 1]))).sum()
    })
}

fn gemm(x: &[Array]) -> Array {
    let [rows, inner, outer] = [x[0].shape[0], x[0].shape[1], x[1].shape[0]];
    Array::of(&[rows, outer], |place| {
        let sum: f64 = (0..inner).map(|k| x[0].at(&[place[0], k]) * x[1].at(&[place[1], k])).sum();
        sum + x.get(2).map_or(0.0, |bias| bias.at(&[place[1]]))
    })
}

fn convolutions() -> Vec<Case> {
    let mut cases = Vec::new();
    for (image, kernel, stride, padding) in [
        // Patches: kernels tile the picture.
        (dims!["a", 3, 6, 4], dims![5, 3, 2, 2], 2, 0),
        (dims!["a", 1, 9, 3], dims![2, 1, 3, 3], 3, 0),
        // Sizes are kept.
        (dims!["a", 2, 5, "b"], dims![3, 2, 3, 3], 1, 1),
        (dims![1, 2, "a", "b"], dims![1, 2, 1, 1], 1, 0),
        // One axis.
        (dims!["a", 2, 7], dims![3, 2, 3], 1, 1),
    ] {
        let bias = floats(dims![&kernel[0]]).constant();
        let weight = floats(kernel).constant();
        cases.push(Case::new(
            "conv",
            vec![floats(image.clone()), weight.clone(), bias],
            move |g, x| g.conv(&x[0], &x[1], Some(&x[2]), stride, padding),
            move |x| conv(x, stride, padding),
        ));
        cases.push(Case::new(
            "conv",
            vec![floats(image), weight],
            move |g, x| g.conv(&x[0], &x[1], None, stride, padding),
            move |x| conv(x, stride, padding),
        ));
    }
    cases
}

fn conv(x: &[Array], stride: usize, padding: usize) -> Array {
    let (image, weight) = (&x[0].shape, &x[1].shape);
    let out = |axis: usize| (image[axis] + 2 * padding - weight[axis]) / stride + 1;
    let mut shape = vec![image[0], weight[0]];
    shape.extend((2..image.len()).map(out));
    Array::of(&shape, |place| {
        // Every element of the kernel, with the element of the picture that lies under it.
        let products = Array::of(&weight[1..], |at| {
            let mut source = vec![place[0], at[0]];
            for (axis, offset) in at[1..].iter().enumerate() {
                let position = place[axis + 2] * stride + offset;
                if position < padding || position - padding >= image[axis + 2] {
                    return 0.0;
                }
                source.push(position - padding);
            }
            x[0].at(&source) * x[1].at(&[&[place[1]], at].concat())
        });
        products.numbers.iter().sum::<f64>() + x.get(2).map_or(0.0, |bias| bias.at(&[place[1]]))
    })
}

fn norms() -> Vec<Case> {
    let mut cases = Vec::new();
    for (dims, width) in [(dims!["a", "b", 7], 7), (dims!["a", 1], 1), (dims![3, 16], 16)] {
        let inputs = vec![floats(dims), floats(dims![width]).constant(), floats(dims![width]).constant()];
        cases.push(Case::new(
            "layer_normalization",
            inputs,
            |g, x| g.layer_normalization(&x[0], &x[1], &x[2], 1e-5),
            |x| {
                Array::of(&x[0].shape, |place| {
                    let row = row(&x[0], place);
                    let mean = row.iter().sum::<f64>() / row.len() as f64;
                    let square = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / row.len() as f64;
                    (x[0].at(place) - mean) / (square + 1e-5).sqrt() * x[1].at(place) + x[2].at(place)
                })
            },
        ));
    }
    cases
}

/// The elements along the last axis through a place.
pub(crate) fn row(x: &Array, place: &[usize]) -> Vec<f64> {
    let rank = place.len();
    let along = |at: usize| x.at(&[&place[..rank - 1], &[at]].concat());
    (0..x.shape[rank - 1]).map(along).collect()
}

type Fold = fn(&[f64]) -> f64;
type Reduction = fn(&mut Builder, &Value, &[isize]) -> Value;

fn reductions() -> Vec<Case> {
    let all: [(&'static str, Reduction, Fold); 3] = [
        (
            "reduce_max",
            |g, x, axes| g.reduce_max(x, axes),
            |all| all.iter().copied().fold(f64::MIN, f64::max),
        ),
        (
            "reduce_mean",
            |g, x, axes| g.reduce_mean(x, axes),
            |all| all.iter().sum::<f64>() / all.len() as f64,
        ),
        ("reduce_sum", |g, x, axes| g.reduce_sum(x, axes), |all| all.iter().sum()),
    ];
    let mut cases = Vec::new();
    for (method, build, fold) in all {
        for (dims, axes) in [
            (dims!["a", 5, "b"], &[-1isize][..]),
            (dims!["a", 5, "b"], &[1]),
            (dims!["a", 5, "b"], &[0, 2]),
            (dims!["a", 1], &[1]),
            (dims![7], &[0]),
        ] {
            cases.push(Case::new(
                method,
                vec![floats(dims)],
                move |g, x| build(g, &x[0], axes),
                move |x| reduce(&x[0], axes, fold),
            ));
        }
    }
    cases
}

fn reduce(x: &Array, axes: &[isize], fold: Fold) -> Array {
    let reduced: Vec<usize> =
        axes.iter().map(|&axis| axis.rem_euclid(x.shape.len() as isize) as usize).collect();
    let mut shape = x.shape.clone();
    reduced.iter().for_each(|&axis| shape[axis] = 1);
    let mut groups = vec![Vec::new(); shape.iter().product()];
    Array::of(&x.shape, |place| {
        let kept = place.iter().zip(&shape).map(|(&at, &length)| if length == 1 { 0 } else { at });
        let group = kept.zip(&shape).fold(0, |sum, (at, length)| sum * length + at);
        groups[group].push(x.at(place));
        0.0
    });
    Array { numbers: groups.iter().map(|group| fold(group)).collect(), shape }
}

fn rankings() -> Vec<Case> {
    let softmax = |x: &Array, place: &[usize]| {
        let row = row(x, place);
        let most = row.iter().copied().fold(f64::MIN, f64::max);
        (x.at(place) - most) - row.iter().map(|x| (x - most).exp()).sum::<f64>().ln()
    };
    let mut cases = Vec::new();
    for dims in [dims!["a", 3, "b"], dims!["a", 1], dims![2, 9]] {
        let input = || vec![floats(dims.clone()).drawn(Draw::Floats(-20.0, 20.0))];
        cases.push(Case::new(
            "softmax",
            input(),
            |g, x| g.softmax(&x[0]),
            move |x| Array::of(&x[0].shape, |place| softmax(&x[0], place).exp()),
        ));
        cases.push(Case::new(
            "log_softmax",
            input(),
            |g, x| g.log_softmax(&x[0]),
            move |x| Array::of(&x[0].shape, |place| softmax(&x[0], place)),
        ));
    }
    let any = |dims: Vec<Dim>| floats(dims);
    // Few numbers, so that many are equal: ties go to the lower index.
    let tied = |dims: Vec<Dim>| floats(dims).drawn(Draw::Whole(-1, 1));
    for (input, k) in [
        (any(dims!["a", 7]), 3),
        (tied(dims!["a", 7]), 5),
        (any(dims!["a", "b"]), 1),
        (tied(dims!["a", 2, 4]), 4),
    ] {
        cases.push(top_k(input, k));
    }
    cases
}

fn top_k(input: Input, k: usize) -> Case {
    Case::of_several(
        "top_k",
        vec![input],
        move |g, x| {
            let (values, indices) = g.top_k(&x[0], k);
            vec![values, indices]
        },
        move |x, _| {
            let rank = x[0].shape.len();
            let shape = [&x[0].shape[..rank - 1], &[k]].concat();
            let order = |place: &[usize]| {
                let row = row(&x[0], place);
                let mut order: Vec<usize> = (0..row.len()).collect();
                order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
                (row, order)
            };
            let values = Array::of(&shape, |place| {
                let (row, order) = order(place);
                row[order[place[rank - 1]]]
            });
            let indices = Array::of(&shape, |place| order(place).1[place[rank - 1]] as f64);
            vec![values, indices]
        },
    )
}

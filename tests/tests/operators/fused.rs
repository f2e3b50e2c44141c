//! Operators that only ONNX Runtime has: graphs for CPUs use them.

use arrcoc_models::dims;

use crate::elementwise::{erf, sigmoid};
use crate::harness::{Array, Case, floats, whole};
use crate::products::row;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = activations();
    cases.extend(norms());
    cases.extend([attention(), rotary()]);
    cases.into_iter().map(Case::for_cpus).collect()
}

fn activations() -> Vec<Case> {
    let mut cases = Vec::new();
    for dims in [dims!["a", "b", 5], dims!["a", 1]] {
        let input = || vec![floats(dims.clone())];
        let each = |function: fn(f64) -> f64| {
            move |x: &[Array]| Array::of(&x[0].shape, |place| function(x[0].at(place)))
        };
        let gelu = each(|x| 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)));
        cases.push(Case::new("gelu_fused", input(), |g, x| g.gelu_fused(&x[0]), gelu));
        let fast = each(|x| {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        });
        cases.push(Case::new("fast_gelu_fused", input(), |g, x| g.fast_gelu_fused(&x[0]), fast));
        let quick = each(|x| x * sigmoid(1.702 * x));
        cases.push(Case::new("quick_gelu_fused", input(), |g, x| g.quick_gelu_fused(&x[0], 1.702), quick));
    }
    cases
}

fn norms() -> Vec<Case> {
    let scaled = |x: &Array, scale: &Array| {
        Array::of(&x.shape, |place| {
            let row = row(x, place);
            let square = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
            x.at(place) / (square + 1e-5).sqrt() * scale.at(place)
        })
    };
    let mut cases = Vec::new();
    for width in [1usize, 7] {
        let (x, scale) = (|| floats(dims!["a", "b", width]), || floats(dims![width]).constant());
        cases.push(Case::new(
            "simplified_layer_normalization",
            vec![x(), scale()],
            |g, x| g.simplified_layer_normalization(&x[0], &x[1], 1e-5),
            move |x| scaled(&x[0], &x[1]),
        ));
        cases.push(Case::of_several(
            "skip_simplified_layer_normalization",
            vec![x(), x(), scale()],
            |g, x| {
                let (norm, sum) = g.skip_simplified_layer_normalization(&x[0], &x[1], &x[2], 1e-5);
                vec![norm, sum]
            },
            move |x, _| {
                let sum = Array::of(&x[0].shape, |place| x[0].at(place) + x[1].at(place));
                vec![scaled(&sum, &x[2]), sum]
            },
        ));
    }
    cases
}

/// Two heads of width 4, values of width 3.
fn attention() -> Case {
    let inputs = vec![floats(dims!["a", "b", 8]), floats(dims!["a", "b", 8]), floats(dims!["a", "b", 6])];
    Case::new(
        "multi_head_attention",
        inputs,
        |g, x| g.multi_head_attention(&x[0], &x[1], &x[2], 2, 0.5),
        |x| {
            let [batch, length] = [x[0].shape[0], x[0].shape[1]];
            Array::of(&[batch, length, 6], |place| {
                let (first, head) = (place[2] / 3 * 4, place[2]);
                let at = |array: &Array, token: usize, column: usize| array.at(&[place[0], token, column]);
                let score = |key: usize| -> f64 {
                    (first..first + 4).map(|c| at(&x[0], place[1], c) * at(&x[1], key, c)).sum::<f64>() * 0.5
                };
                let weights: Vec<f64> = (0..length).map(|key| score(key).exp()).collect();
                let sum: f64 = weights.iter().sum();
                (0..length).map(|key| weights[key] / sum * at(&x[2], key, head)).sum()
            })
        },
    )
}

/// Two heads of width 8, by tables of nine positions.
fn rotary() -> Case {
    let inputs = vec![
        floats(dims!["a", "b", 16]),
        whole(dims!["a", "b"], 0, 8),
        floats(dims![9, 4]).constant(),
        floats(dims![9, 4]).constant(),
    ];
    Case::new(
        "rotary_embedding",
        inputs,
        |g, x| g.rotary_embedding(&x[0], &x[1], &x[2], &x[3]),
        |x| {
            Array::of(&x[0].shape, |place| {
                let position = x[1].at(&place[..2]) as usize;
                let (head, column) = (place[2] / 8 * 8, place[2] % 8);
                let (cosine, sine) = (x[2].at(&[position, column % 4]), x[3].at(&[position, column % 4]));
                let of = |column: usize| x[0].at(&[place[0], place[1], head + column]);
                if column < 4 {
                    of(column) * cosine - of(column + 4) * sine
                } else {
                    of(column) * cosine + of(column - 4) * sine
                }
            })
        },
    )
}

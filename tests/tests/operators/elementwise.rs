//! Operators that work element by element.

use arrcoc_models::dims;
use arrcoc_models::graph::{Builder, Dim, Element, Value};

use crate::harness::{Array, Case, Draw, Input, floats, truths, whole};

pub(crate) fn cases() -> Vec<Case> {
    [unary(), arithmetic(), comparisons(), others()].into_iter().flatten().collect()
}

/// The error function by its power series.
pub(crate) fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..120 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn truth(x: bool) -> f64 {
    f64::from(u8::from(x))
}

/// Each element through `function`.
fn map(x: &Array, function: impl Fn(f64) -> f64) -> Array {
    Array { shape: x.shape.clone(), numbers: x.numbers.iter().map(|&x| function(x)).collect() }
}

/// The shape of two arrays that broadcast.
fn joint(a: &[usize], b: &[usize]) -> Vec<usize> {
    let rank = a.len().max(b.len());
    let length = |shape: &[usize], axis: usize| match (axis + shape.len()).checked_sub(rank) {
        Some(axis) => shape[axis],
        None => 1,
    };
    (0..rank).map(|axis| length(a, axis).max(length(b, axis))).collect()
}

type Unary = fn(&mut Builder, &Value) -> Value;
type Binary = fn(&mut Builder, &Value, &Value) -> Value;
type OfOne = fn(f64) -> f64;
type OfTwo = fn(f64, f64) -> f64;

fn unary() -> Vec<Case> {
    let any = Draw::Floats(-3.0, 3.0);
    let positive = Draw::Floats(0.01, 9.0);
    // Zero is among the whole numbers, where the sign and the floor turn.
    let turning = Draw::Whole(-2, 2);
    let all: [(&'static str, Unary, Draw, OfOne); 14] = [
        ("abs", |g, x| g.abs(x), any, f64::abs),
        ("exp", |g, x| g.exp(x), any, f64::exp),
        ("floor", |g, x| g.floor(x), any, f64::floor),
        ("floor", |g, x| g.floor(x), turning, f64::floor),
        ("erf", |g, x| g.erf(x), any, erf),
        ("log", |g, x| g.log(x), positive, f64::ln),
        ("neg", |g, x| g.neg(x), any, |x| -x),
        ("relu", |g, x| g.relu(x), any, |x| x.max(0.0)),
        ("sigmoid", |g, x| g.sigmoid(x), any, sigmoid),
        ("sigmoid", |g, x| g.sigmoid(x), Draw::Floats(-60.0, 60.0), sigmoid),
        ("sign", |g, x| g.sign(x), turning, |x| if x == 0.0 { 0.0 } else { x.signum() }),
        ("sqrt", |g, x| g.sqrt(x), positive, f64::sqrt),
        ("tanh", |g, x| g.tanh(x), any, f64::tanh),
        ("tanh", |g, x| g.tanh(x), Draw::Floats(-30.0, 30.0), f64::tanh),
    ];
    let mut cases = Vec::new();
    for (method, build, draw, function) in all {
        for dims in [dims!["a", 1, "b"], dims!["a", 7], dims![1], vec![]] {
            let input = floats(dims).drawn(draw);
            cases.push(Case::new(
                method,
                vec![input],
                move |g, x| build(g, &x[0]),
                move |x| map(&x[0], function),
            ));
        }
    }
    cases
}

/// Pairs of shapes that broadcast in every way: equal, axes of length 1 on either side, axes that are
/// missing.
fn pairs() -> Vec<[Vec<Dim>; 2]> {
    vec![
        [dims!["a", 5, "b"], dims!["a", 5, "b"]],
        [dims!["a", 5, "b"], dims![5, 1]],
        [dims!["a", 1, "b"], dims![1, 5, 1]],
        [dims!["b"], dims!["a", 5, "b"]],
        [dims!["a", 3], vec![]],
        [vec![], vec![]],
    ]
}

/// A case for every pair of shapes.
fn binary(
    method: &'static str,
    build: Binary,
    input: impl Fn(Vec<Dim>) -> Input,
    function: OfTwo,
) -> Vec<Case> {
    let case = |pair: [Vec<Dim>; 2]| {
        Case::new(
            method,
            pair.map(&input).into(),
            move |g, x| build(g, &x[0], &x[1]),
            move |x| {
                let shape = joint(&x[0].shape, &x[1].shape);
                Array::of(&shape, |place| function(x[0].at(place), x[1].at(place)))
            },
        )
    };
    pairs().into_iter().map(case).collect()
}

fn arithmetic() -> Vec<Case> {
    let all: [(&'static str, Binary, OfTwo); 5] = [
        ("add", |g, a, b| g.add(a, b), |a, b| a + b),
        ("sub", |g, a, b| g.sub(a, b), |a, b| a - b),
        ("mul", |g, a, b| g.mul(a, b), |a, b| a * b),
        ("min", |g, a, b| g.min(a, b), f64::min),
        ("max", |g, a, b| g.max(a, b), f64::max),
    ];
    let mut cases = Vec::new();
    for (method, build, function) in all {
        cases.extend(binary(method, build, floats, function));
        cases.extend(binary(method, build, |dims| whole(dims, -9, 9), function));
    }
    let positive = |dims| floats(dims).drawn(Draw::Floats(0.5, 3.0));
    cases.extend(binary("div", |g, a, b| g.div(a, b), positive, |a, b| a / b));
    // Sizes are whole numbers above zero.
    cases.extend(binary("div", |g, a, b| g.div(a, b), |dims| whole(dims, 1, 9), |a, b| (a / b).floor()));
    // Integers round towards zero.
    let negative = vec![whole(dims!["a", 4], -9, -1), whole(dims![4], 2, 5)];
    cases.push(Case::new(
        "div",
        negative,
        |g, x| g.div(&x[0], &x[1]),
        |x| Array::of(&x[0].shape, |place| (x[0].at(place) / x[1].at(place)).trunc()),
    ));
    cases
}

fn comparisons() -> Vec<Case> {
    let all: [(&'static str, Binary, OfTwo); 3] = [
        ("equal", |g, a, b| g.equal(a, b), |a, b| truth(a == b)),
        ("less", |g, a, b| g.less(a, b), |a, b| truth(a < b)),
        ("less_or_equal", |g, a, b| g.less_or_equal(a, b), |a, b| truth(a <= b)),
    ];
    let mut cases = Vec::new();
    for (method, build, function) in all {
        // Few numbers, so that many are equal.
        cases.extend(binary(method, build, |dims| floats(dims).drawn(Draw::Whole(-1, 1)), function));
        cases.extend(binary(method, build, |dims| whole(dims, -1, 1), function));
    }
    cases.extend(binary("and", |g, a, b| g.and(a, b), truths, |a, b| a * b));
    cases
}

fn others() -> Vec<Case> {
    let mut cases = Vec::new();
    for shapes in [
        [dims!["a", 4], dims!["a", 4], dims!["a", 4]],
        [dims!["a", 1], dims![4], dims!["a", 4]],
        [dims!["b"], dims!["a", 1], vec![]],
        [vec![], dims!["a", 3], dims![3]],
    ] {
        let [condition, a, b] = shapes;
        cases.push(Case::new(
            "select",
            vec![truths(condition), floats(a), floats(b)],
            |g, x| g.select(&x[0], &x[1], &x[2]),
            |x| {
                let shape = joint(&joint(&x[0].shape, &x[1].shape), &x[2].shape);
                Array::of(&shape, |place| x[if x[0].at(place) == 1.0 { 1 } else { 2 }].at(place))
            },
        ));
    }
    for dims in [dims!["a", 3, "b"], vec![]] {
        let input = || vec![floats(dims.clone())];
        cases.push(Case::new(
            "add_scalar",
            input(),
            |g, x| g.add_scalar(&x[0], 1.5),
            |x| map(&x[0], |x| x + 1.5),
        ));
        cases.push(Case::new("scale", input(), |g, x| g.scale(&x[0], -0.5), |x| map(&x[0], |x| x * -0.5)));
        cases.push(Case::new(
            "cast",
            input(),
            |g, x| g.cast(&x[0], Element::I64),
            |x| map(&x[0], f64::trunc),
        ));
        let whole = || vec![whole(dims.clone(), -1, 1)];
        cases.push(Case::new("cast", whole(), |g, x| g.cast(&x[0], Element::F32), |x| x[0].clone()));
        cases.push(Case::new("cast", whole(), |g, x| g.cast(&x[0], Element::I32), |x| x[0].clone()));
        cases.push(Case::new(
            "cast",
            whole(),
            |g, x| g.cast(&x[0], Element::Bool),
            |x| map(&x[0], |x| truth(x != 0.0)),
        ));
        // Halves hold these numbers exactly.
        cases.push(Case::new(
            "cast",
            vec![floats(dims.clone()).drawn(Draw::Whole(-2048, 2048))],
            |g, x| {
                let half = g.cast(&x[0], Element::F16);
                g.cast(&half, Element::F32)
            },
            |x| x[0].clone(),
        ));
    }
    cases
}

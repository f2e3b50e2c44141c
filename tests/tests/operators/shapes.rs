//! Operators that move elements and measure shapes.

use arrcoc_models::dims;
use arrcoc_models::graph::{Dim, Value};

use crate::harness::{Array, Case, floats, whole};

pub(crate) fn cases() -> Vec<Case> {
    [reshapes(), parts(), picks(), lengths()].into_iter().flatten().collect()
}

/// The same numbers in another shape.
fn shaped(x: &Array, shape: &[usize]) -> Vec<Array> {
    vec![Array { shape: shape.to_vec(), numbers: x.numbers.clone() }]
}

fn reshapes() -> Vec<Case> {
    let (a, b) = (Dim::Axis("a"), Dim::Axis("b"));
    let mut cases = Vec::new();
    type Shape = fn(usize, usize) -> Vec<usize>;
    let all: [(Vec<Dim>, Vec<Dim>, Shape); 6] = [
        (dims!["a", 6], dims!["a", 2, 3], |a, _| vec![a, 2, 3]),
        (dims!["a", "b", 4], dims![a.times("b"), 4], |a, b| vec![a * b, 4]),
        (dims!["a", "b"], dims!["a", 1, "b", 1], |a, b| vec![a, 1, b, 1]),
        // A size that is left to the operator, and one that is computed.
        (dims!["a", "b", 6], dims![a.times(2), 3, "b"], |a, b| vec![a * 2, 3, b]),
        (dims![1], vec![], |_, _| vec![]),
        (dims!["b", 1], dims!["b"], |_, b| vec![b]),
    ];
    for (from, to, shape) in all {
        cases.push(Case::of_several(
            "reshape",
            vec![floats(from)],
            move |g, x| vec![g.reshape(&x[0], to.clone())],
            move |x, [a, b]| shaped(&x[0], &shape(a, b)),
        ));
    }
    for (dims, order) in [
        (dims!["a", 3, "b"], &[2, 0, 1][..]),
        (dims!["a", 1], &[1, 0]),
        (dims!["a", "b", 2, 3], &[0, 2, 1, 3]),
    ] {
        cases.push(Case::new(
            "transpose",
            vec![floats(dims)],
            move |g, x| g.transpose(&x[0], order),
            move |x| {
                let shape: Vec<usize> = order.iter().map(|&axis| x[0].shape[axis]).collect();
                Array::of(&shape, |place| {
                    let mut source = vec![0; place.len()];
                    order.iter().zip(place).for_each(|(&axis, &at)| source[axis] = at);
                    x[0].at(&source)
                })
            },
        ));
    }
    // The second input only carries the axis.
    for (from, to, carrier) in [
        (dims!["a", 1], dims!["a", 4], dims![1]),
        (dims![1, "a", 1], dims![3, "a", &b], dims!["b"]),
        (dims![1], dims!["b"], dims!["b"]),
    ] {
        let lengths = to.clone();
        cases.push(Case::of_several(
            "expand",
            vec![floats(from), floats(carrier)],
            move |g, x| vec![g.expand(&x[0], to.clone())],
            move |x, sizes| vec![Array::of(&at(&lengths, sizes), |place| x[0].at(place))],
        ));
    }
    cases
}

/// The numbers of a shape.
fn at(dims: &[Dim], [a, b]: [usize; 2]) -> Vec<usize> {
    dims.iter().map(|dim| dim.at(&|name| Some(if name == "a" { a } else { b })).expect("a or b")).collect()
}

fn parts() -> Vec<Case> {
    let mut cases = vec![];
    for axis in [1, -1] {
        cases.push(Case::new(
            "concat",
            vec![floats(dims!["a", 2]), floats(dims!["a", "b"]), floats(dims!["a", 1])],
            move |g, x| g.concat(&x.iter().collect::<Vec<&Value>>(), axis),
            |x| {
                let width = x.iter().map(|x| x.shape[1]).sum();
                Array::of(&[x[0].shape[0], width], |place| {
                    let mut column = place[1];
                    let part = x.iter().find(|part| {
                        let inside = column < part.shape[1];
                        column -= if inside { 0 } else { part.shape[1] };
                        inside
                    });
                    part.expect("a column of a part").at(&[place[0], column])
                })
            },
        ));
    }
    for sizes in [&[1, 2, 3][..], &[6], &[5, 1]] {
        cases.push(Case::of_several(
            "split",
            vec![floats(dims!["a", 6, "b"])],
            move |g, x| g.split(&x[0], sizes, 1),
            move |x, [a, b]| {
                let start = |at: usize| sizes[..at].iter().sum::<usize>();
                let part = |at: usize| {
                    Array::of(&[a, sizes[at], b], |place| {
                        x[0].at(&[place[0], place[1] + start(at), place[2]])
                    })
                };
                (0..sizes.len()).map(part).collect()
            },
        ));
    }
    for (length, dims) in
        [(Dim::Fixed(4), dims!["a", 9]), (Dim::Axis("b"), dims!["a", 9]), (Dim::Fixed(1), dims!["a", 1])]
    {
        let taken = length.clone();
        cases.push(Case::of_several(
            "take",
            vec![floats(dims), floats(dims!["b"])],
            move |g, x| vec![g.take(&x[0], &length, 1)],
            move |x, sizes| {
                let shape = [x[0].shape[0], at(std::slice::from_ref(&taken), sizes)[0]];
                vec![Array::of(&shape, |place| x[0].at(place))]
            },
        ));
    }
    cases.push(Case::of_several(
        "window",
        vec![floats(dims![3, "a", 2]), floats(dims![3, 4, 2])],
        |g, x| {
            let all = g.concat(&[&x[1], &x[0]], 1);
            vec![g.window(&all, 0, &Dim::Axis("a"), 1), g.window(&all, 3, &Dim::Axis("a"), 1)]
        },
        |x, _| {
            let (new, old) = (&x[0], &x[1]);
            let all = |place: &[usize], start: usize| match (place[1] + start).checked_sub(4) {
                Some(at) => new.at(&[place[0], at, place[2]]),
                None => old.at(&[place[0], place[1] + start, place[2]]),
            };
            [0, 3].map(|start| Array::of(&new.shape, |place| all(place, start))).into()
        },
    ));
    cases.push(Case::new(
        "skip",
        vec![floats(dims![9, "a"])],
        |g, x| g.skip(&x[0], 2, 0, Dim::Fixed(7)),
        |x| Array::of(&[7, x[0].shape[1]], |place| x[0].at(&[place[0] + 2, place[1]])),
    ));
    cases.push(Case::new(
        "skip",
        vec![floats(dims![1]), floats(dims!["a"])],
        |g, x| {
            let all = g.concat(&[&x[0], &x[1]], 0);
            g.skip(&all, 1, 0, Dim::Axis("a"))
        },
        |x| x[1].clone(),
    ));
    cases
}

fn picks() -> Vec<Case> {
    let mut cases = Vec::new();
    for (dims, indices, axis) in [
        (dims!["a", 5], dims!["b"], 1usize),
        (dims![5, "a"], dims!["b", 2], 0),
        (dims!["a", 5, 1], vec![], 1),
        (dims![5], dims!["a", 1, "b"], 0),
    ] {
        cases.push(Case::new(
            "gather",
            vec![floats(dims), whole(indices, 0, 4)],
            move |g, x| g.gather(&x[0], &x[1], axis as isize),
            move |x| {
                let (table, indices) = (&x[0], &x[1]);
                let rank = indices.shape.len();
                let shape = [&table.shape[..axis], &indices.shape, &table.shape[axis + 1..]].concat();
                Array::of(&shape, |place| {
                    let index = indices.at(&place[axis..axis + rank]) as usize;
                    table.at(&[&place[..axis], &[index], &place[axis + rank..]].concat())
                })
            },
        ));
    }
    for (dims, indices, axis) in [
        (dims!["a", 5], dims!["a", 3], 1usize),
        (dims![5, "b"], dims!["a", "b"], 0),
        (dims!["a", 5, 2], dims!["a", 1, 2], 1),
    ] {
        cases.push(Case::new(
            "gather_elements",
            vec![floats(dims), whole(indices, 0, 4)],
            move |g, x| g.gather_elements(&x[0], &x[1], axis as isize),
            move |x| {
                Array::of(&x[1].shape, |place| {
                    let mut source = place.to_vec();
                    source[axis] = x[1].at(place) as usize;
                    x[0].at(&source)
                })
            },
        ));
    }
    cases
}

/// Sizes as tensors, and what is made of them.
fn lengths() -> Vec<Case> {
    let (a, b) = (Dim::Axis("a"), Dim::Axis("b"));
    let mut cases = Vec::new();
    for axis in 0..3 {
        cases.push(Case::of_several(
            "shape_of_axis",
            vec![floats(dims!["a", 3, "b"])],
            move |g, x| vec![g.shape_of_axis(&x[0], axis)],
            move |_, [a, b]| vec![Array { shape: vec![1], numbers: vec![[a, 3, b][axis] as f64] }],
        ));
    }
    // What a graph computes of a size is what the exporter computes.
    for dim in [
        Dim::Fixed(4),
        a.clone(),
        a.times(&b).plus(3),
        a.plus(&b).over(2),
        a.rounded_up(4).times(&b),
        b.relative().plus(a.relative()),
    ] {
        let length = dim.clone();
        cases.push(Case::of_several(
            "size",
            vec![floats(dims!["a", "b"])],
            move |g, _| vec![g.size(&dim)],
            move |_, sizes| {
                vec![Array {
                    shape: vec![1],
                    numbers: vec![at(std::slice::from_ref(&length), sizes)[0] as f64],
                }]
            },
        ));
    }
    for (start, length) in
        [(Dim::Fixed(0), a.clone()), (b.clone(), a.clone()), (Dim::Fixed(2), Dim::Fixed(3))]
    {
        let both = [start.clone(), length.clone()];
        cases.push(Case::of_several(
            "range",
            vec![floats(dims!["a", "b"])],
            move |g, _| vec![g.range(&start, &length)],
            move |_, sizes| {
                let both = at(&both, sizes);
                vec![Array::of(&both[1..], |place| (both[0] + place[0]) as f64)]
            },
        ));
    }
    for (dims, padded) in [
        (dims!["a", 3, 2], vec![(1, Dim::Fixed(5))]),
        (dims!["a", "b"], vec![(0, a.rounded_up(4)), (1, b.rounded_up(3))]),
        (dims!["a", 1], vec![(1, Dim::Fixed(1))]),
    ] {
        let lengths = padded.clone();
        cases.push(Case::of_several(
            "pad_to",
            vec![floats(dims)],
            move |g, x| vec![g.pad_to(&x[0], &padded)],
            move |x, sizes| {
                let mut shape = x[0].shape.clone();
                for (axis, length) in &lengths {
                    shape[*axis] = at(std::slice::from_ref(length), sizes)[0];
                }
                vec![Array::of(&shape, |place| {
                    let inside = place.iter().zip(&x[0].shape).all(|(at, length)| at < length);
                    if inside { x[0].at(place) } else { 0.0 }
                })]
            },
        ));
    }
    cases
}

//! What a graph takes: the check of inputs that both libraries share, so that a wrong tensor is named before
//! the library sees it.

use std::collections::{BTreeMap, HashMap};

use super::LibraryError;
use crate::tensor::{ElementType, Tensor};
use arrcoc_bundle::AxisRange;

/// One input of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) element: ElementType,
    pub(super) shape: Vec<Axis>,
}

/// One axis of a graph's input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Axis {
    /// A length known to the graph.
    Fixed(usize),
    /// Any length, the same wherever the name stands; an empty name stands for any length at all.
    Named(String),
}

impl std::fmt::Display for Axis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed(length) => length.fmt(f),
            Self::Named(name) if name.is_empty() => f.write_str("?"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

/// A tensor offered to a graph, as far as the check goes.
pub(super) struct Offer<'a> {
    pub(super) name: &'a str,
    pub(super) element: ElementType,
    pub(super) shape: &'a [usize],
}

impl<'a> Offer<'a> {
    pub(super) fn new(name: &'a str, tensor: &'a Tensor) -> Self {
        Self { name, element: tensor.element(), shape: tensor.shape() }
    }
}

/// Checks that `offers` are exactly what `ports` ask for, axis by axis.
pub(super) fn check(graph: &str, ports: &[Port], offers: &[Offer<'_>]) -> Result<(), LibraryError> {
    let error = |reason| LibraryError::Run { graph: graph.to_owned(), reason };
    if let Some(extra) = offers.iter().find(|offer| !ports.iter().any(|port| port.name == offer.name)) {
        let names: Vec<_> = ports.iter().map(|port| port.name.as_str()).collect();
        return Err(error(format!("there is no input `{}`; expected {}", extra.name, names.join(", "))));
    }
    let mut lengths: HashMap<&str, (usize, &str)> = HashMap::new();
    for port in ports {
        let mut found = offers.iter().filter(|offer| offer.name == port.name);
        let (Some(offer), None) = (found.next(), found.next()) else {
            return Err(error(format!("input `{}` is missing, or given more than once", port.name)));
        };
        if offer.element != port.element {
            let (expected, found) = (port.element, offer.element);
            return Err(error(format!("input `{}`: expected {expected:?}, found {found:?}", port.name)));
        }
        if !fits(&port.shape, offer.shape) {
            let expected: Vec<_> = port.shape.iter().map(Axis::to_string).collect();
            return Err(error(format!(
                "input `{}`: expected shape [{}], found {:?}",
                port.name,
                expected.join(", "),
                offer.shape
            )));
        }
        for (axis, &length) in port.shape.iter().zip(offer.shape) {
            let Axis::Named(axis) = axis else { continue };
            if axis.is_empty() {
                continue;
            }
            let (first, other) = *lengths.entry(axis).or_insert((length, &port.name));
            if first != length {
                return Err(error(format!(
                    "axis `{axis}` is {first} in input `{other}` but {length} in input `{}`",
                    port.name
                )));
            }
        }
    }
    Ok(())
}

/// Checks that every named axis lies within its range, where `ranges` has one: what a plan was compiled for.
pub(super) fn check_ranges(
    graph: &str,
    ports: &[Port],
    offers: &[Offer<'_>],
    ranges: &BTreeMap<String, AxisRange>,
) -> Result<(), LibraryError> {
    for port in ports {
        let Some(offer) = offers.iter().find(|offer| offer.name == port.name) else { continue };
        for (axis, &length) in port.shape.iter().zip(offer.shape) {
            let Axis::Named(axis) = axis else { continue };
            let Some(AxisRange { min, max, .. }) = ranges.get(axis) else { continue };
            if !(*min..=*max).contains(&(length as u64)) {
                let reason = format!(
                    "axis `{axis}` of input `{}`: expected {min} to {max}, which the plan was compiled for, found {length}",
                    port.name
                );
                return Err(LibraryError::Run { graph: graph.to_owned(), reason });
            }
        }
    }
    Ok(())
}

fn fits(expected: &[Axis], found: &[usize]) -> bool {
    expected.len() == found.len()
        && expected
            .iter()
            .zip(found)
            .all(|(axis, length)| *axis == Axis::Fixed(*length) || matches!(axis, Axis::Named(_)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn ports() -> Vec<Port> {
        let named = |name: &str| Axis::Named(name.to_owned());
        let x =
            Port { name: "x".into(), element: ElementType::F32, shape: vec![named("batch"), Axis::Fixed(3)] };
        let y = Port { name: "y".into(), element: ElementType::I64, shape: vec![named("batch"), named("")] };
        vec![x, y]
    }

    type Input<'a> = (&'a str, ElementType, &'a [usize]);

    fn message(offers: &[Input<'_>]) -> Option<String> {
        let offers: Vec<_> =
            offers.iter().map(|&(name, element, shape)| Offer { name, element, shape }).collect();
        check("g", &ports(), &offers).err().map(|error| error.to_string())
    }

    #[test]
    fn matching_inputs_pass_in_any_order() {
        use ElementType::{F32, I64};
        assert_eq!(message(&[("y", I64, &[2, 9]), ("x", F32, &[2, 3])]), None);
        assert_eq!(message(&[("x", F32, &[0, 3]), ("y", I64, &[0, 0])]), None);
    }

    #[test]
    fn lengths_outside_a_plans_range_are_named() {
        let ranges = BTreeMap::from([("batch".to_owned(), AxisRange { min: 2, opt: 2, max: 4 })]);
        let within = |batch: usize| {
            let shape = [batch, 3];
            let offers = [Offer { name: "x", element: ElementType::F32, shape: &shape }];
            check_ranges("g", &ports(), &offers, &ranges).map_err(|error| error.to_string())
        };
        assert_eq!((within(2), within(4)), (Ok(()), Ok(())));
        for batch in [1, 5] {
            let text = within(batch).unwrap_err();
            assert!(text.contains("axis `batch` of input `x`: expected 2 to 4"), "{text}");
        }
    }

    #[test]
    fn every_mismatch_names_the_input() {
        use ElementType::{F32, I32, I64};
        let y: Input<'_> = ("y", I64, &[2, 1]);
        let cases: [(&str, &[Input<'_>]); 7] = [
            ("`x` is missing", &[y]),
            ("more than once", &[("x", F32, &[2, 3]), ("x", F32, &[2, 3]), y]),
            ("no input `z`; expected x, y", &[("x", F32, &[2, 3]), y, ("z", F32, &[1])]),
            ("`x`: expected F32, found I32", &[("x", I32, &[2, 3]), y]),
            ("`x`: expected shape [batch, 3], found [2, 4]", &[("x", F32, &[2, 4]), y]),
            ("`x`: expected shape [batch, 3], found [2]", &[("x", F32, &[2]), y]),
            ("axis `batch` is 1 in input `x` but 2 in input `y`", &[("x", F32, &[1, 3]), y]),
        ];
        for (part, offers) in cases {
            let text = message(offers).unwrap();
            assert!(text.contains(part), "`{part}` is missing in: {text}");
        }
    }
}

//! The distance between two tensors.

use arrcoc_runtime::tensor::{ElementType, Tensor};

/// max |a - b| / max |b| of tensors of one shape and type; infinite when they differ in those, or where
/// either holds something that is no number. Integers are equal (0) or not (infinity): there is no being
/// close to an index.
pub fn distance(a: &Tensor, b: &Tensor) -> f64 {
    if a.shape() != b.shape() || a.element() != b.element() {
        return f64::INFINITY;
    }
    match (a.as_slice::<f32>(), b.as_slice::<f32>()) {
        (Ok(a), Ok(b)) => float_distance(a, b),
        _ if a.element() != ElementType::F32 && a.bytes() == b.bytes() => 0.0,
        _ => f64::INFINITY,
    }
}

/// Cosine of the angle between two tensors as vectors: 1 for integers and for tensors of zeros that are
/// equal, 0 where a comparison makes no sense.
pub fn cosine(a: &Tensor, b: &Tensor) -> f64 {
    match (a.as_slice::<f32>(), b.as_slice::<f32>()) {
        (Ok(a), Ok(b)) if a.len() == b.len() => float_cosine(a, b),
        _ => f64::from(u8::from(distance(a, b) == 0.0)),
    }
}

/// [`cosine`] of slices of one length.
pub fn float_cosine(a: &[f32], b: &[f32]) -> f64 {
    let sum =
        |of: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(&x, &y)| of(x.into(), y.into())).sum::<f64>();
    let norms = (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt();
    if norms == 0.0 { f64::from(u8::from(a == b)) } else { sum(&|x, y| x * y) / norms }
}

/// [`distance`] of slices of one length.
pub fn float_distance(a: &[f32], b: &[f32]) -> f64 {
    let (mut difference, mut largest) = (0.0f64, 0.0f64);
    for (&x, &y) in a.iter().zip(b) {
        if !x.is_finite() || !y.is_finite() {
            return f64::INFINITY;
        }
        difference = difference.max((f64::from(x) - f64::from(y)).abs());
        largest = largest.max(f64::from(y).abs());
    }
    if difference == 0.0 { 0.0 } else { difference / largest }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn distance_is_relative_to_the_largest_reference() {
        assert_eq!(float_distance(&[1.0, 2.5], &[1.0, 2.0]), 0.25);
        assert_eq!(float_distance(&[0.0], &[0.0]), 0.0);
        assert_eq!(float_distance(&[1.0], &[0.0]), f64::INFINITY);
        assert_eq!(float_distance(&[f32::NAN], &[f32::NAN]), f64::INFINITY);
    }

    #[test]
    fn cosine_is_blind_to_length_alone() {
        assert!((float_cosine(&[1.0, 2.0], &[2.0, 4.0]) - 1.0).abs() < 1e-12);
        assert_eq!(float_cosine(&[1.0, 0.0], &[0.0, 3.0]), 0.0);
        assert_eq!((float_cosine(&[0.0], &[0.0]), float_cosine(&[0.0], &[1.0])), (1.0, 0.0));
    }

    #[test]
    fn shapes_types_and_indices_must_agree() {
        let floats = |shape: &[usize]| Tensor::from_vec(shape, vec![1.0f32; 4]).unwrap();
        let ints = |last| Tensor::from_vec(&[4], vec![1i64, 2, 3, last]).unwrap();
        assert_eq!(distance(&floats(&[4]), &floats(&[2, 2])), f64::INFINITY);
        assert_eq!(distance(&floats(&[4]), &ints(4)), f64::INFINITY);
        assert_eq!(distance(&ints(4), &ints(4)), 0.0);
        assert_eq!(distance(&ints(4), &ints(5)), f64::INFINITY);
    }
}

//! Whether stored weights are the checkpoint's, as near as their form can come.
//!
//! A form says what a weight becomes, so there is nothing to estimate and no model to run. Floats must be the
//! checkpoint's, rounded to their bits. With the scale that is stored, every integer must be the nearest one,
//! give or take a thousandth of a step: two integers will do for a weight right between them. Scales must be
//! the ones that their group's weights ask for: to the bit where those fix them, and to a few roundings where
//! the weights were multiplied with factors, which are known no better ([`super::smoothing`]).
//!
//! The scale of a group of 4 bits without a zero point is chosen. It may be any that loses no more than the
//! plain one, so a wrong bit at its end, which loses nothing, is not a fault. Nor is it in a scale of nothing
//! but zeros, which is never used.

use arrcoc_models::graph::quantized::{Bits, Scheme};
use half::f16;

use crate::quantize::stored::Restored;

/// Of half a step: quotients are rounded before they are rounded to integers.
const SLACK: f32 = 1.0 / 1024.0;

/// Of a scale of weights that were multiplied with factors: some four roundings of 32 bits.
const MULTIPLIED: f32 = 4.0 * f32::EPSILON;

/// 16-bit scales below 2^-14 are off by up to 2^-25, and a weight is at most 128 of them.
const SMALL: f32 = 1.0 / 262_144.0;

/// What a comparison of weights found.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Tally {
    /// Weights that are not what their form makes of the checkpoint's.
    pub(super) strayed: u64,
    /// Row-major index of the first of them.
    pub(super) first: Option<u64>,
    /// Sum of squares of what was lost, and of the weights.
    pub(super) lost: f64,
    pub(super) squares: f64,
    /// Whether the weights were multiplied with factors, which are known to a few roundings.
    pub(super) multiplied: bool,
    weights: u64,
    largest: f32,
}

impl Tally {
    fn stray(&mut self, at: usize, count: usize) {
        self.first = self.first.or(Some(self.weights + at as u64));
        self.strayed += count as u64;
    }

    fn advance(&mut self, weights: &[f32], found: impl Iterator<Item = f32>) {
        for (&x, y) in weights.iter().zip(found) {
            self.lost += f64::from(x - y).powi(2);
            self.squares += f64::from(x).powi(2);
        }
        self.weights += weights.len() as u64;
    }

    /// Weights in 32 bits, in order: the same, to the bit.
    pub(super) fn full(&mut self, weights: &[f32], found: &[f32]) {
        for (at, _) in weights.iter().zip(found).enumerate().filter(|(_, (x, y))| x != y) {
            self.stray(at, 1);
        }
        self.advance(weights, found.iter().copied());
    }

    /// Weights in 16 bits: the nearest numbers, to the bit.
    pub(super) fn half(&mut self, weights: &[f32], found: &[f32]) {
        let strays = |(x, y): (&f32, &f32)| f16::from_f32(*x).to_f32() != *y;
        for (at, pair) in weights.iter().zip(found).enumerate() {
            if strays(pair) {
                self.stray(at, 1);
            }
        }
        self.advance(weights, found.iter().copied());
    }

    /// A row of a quantized matrix, whose weights share a scale in groups of `group`.
    pub(super) fn row(&mut self, scheme: Scheme, group: usize, weights: &[f32], found: &[Restored]) {
        let groups = weights.chunks(group).zip(found.chunks(group));
        for (number, (weights, found)) in groups.enumerate() {
            let (first, before) = (number * group, self.strayed);
            for (at, (x, y)) in weights.iter().zip(found).enumerate() {
                if !is_nearest(scheme, *x, *y) {
                    self.stray(first + at, 1);
                }
            }
            // Where single weights are wrong, so may be all that follows from them.
            if self.strayed == before && !is_scaled(scheme, weights, found, self.multiplied) {
                self.stray(first, weights.len());
            }
        }
        self.largest = weights.iter().fold(self.largest, |most, x| most.max(x.abs()));
        self.advance(weights, found.iter().map(|found| found.value));
    }

    /// The one scale of a matrix of 8-bit floats, behind its last row: the least of 16 bits by which the
    /// largest weight is no more than the format's, and none below their normal numbers.
    pub(super) fn scale(&mut self, scale: f32) {
        const LARGEST: f32 = 448.0;
        let nearest = f16::from_f32(self.largest / LARGEST);
        let falls_short = nearest.to_f32() * LARGEST < self.largest;
        let expected = f16::from_bits(nearest.to_bits() + u16::from(falls_short)).max(f16::MIN_POSITIVE);
        if scale != expected.to_f32() {
            self.weights = 0;
            self.stray(0, 1);
        }
    }
}

/// Whether a weight became the nearest number that its scale allows.
fn is_nearest(scheme: Scheme, weight: f32, found: Restored) -> bool {
    let lost = weight - found.value;
    let outward = found.end != 0.0 && lost * found.end > 0.0;
    let bound = match clamping(scheme) {
        Clamping::Chosen if outward => return lost.is_finite(),
        Clamping::Rounded if outward => found.step,
        _ => found.step / 2.0,
    };
    lost.abs() <= bound * (1.0 + SLACK) + small(scheme)
}

/// What becomes of weights beyond the last integer.
enum Clamping {
    /// A scale may be chosen that clamps a few: what that costs, the group's loss says.
    Chosen,
    /// The zero point was rounded, so one end may be half a step short.
    Rounded,
    /// There are none.
    Absent,
}

fn clamping(scheme: Scheme) -> Clamping {
    match scheme {
        Scheme::Tiles(Bits::Four) => Clamping::Chosen,
        Scheme::Blocks(of) if of.symmetric && of.bits == Bits::Four => Clamping::Chosen,
        Scheme::Int4(of) | Scheme::Packed(of) if of.symmetric => Clamping::Chosen,
        Scheme::Blocks(of) if !of.symmetric => Clamping::Rounded,
        Scheme::Int4(_) | Scheme::Packed(_) => Clamping::Rounded,
        _ => Clamping::Absent,
    }
}

/// Only 16-bit scales have small numbers.
fn small(scheme: Scheme) -> f32 {
    match scheme {
        Scheme::PerRow | Scheme::Blocks(_) => 0.0,
        Scheme::Tiles(_) | Scheme::Int4(_) | Scheme::Packed(_) | Scheme::Fp8 => SMALL,
    }
}

/// Whether a group has the scale that its weights ask for.
fn is_scaled(scheme: Scheme, weights: &[f32], found: &[Restored], multiplied: bool) -> bool {
    let Some(step) = found.first().map(|found| found.step) else { return true };
    let (low, high) = weights.iter().fold((0.0f32, 0.0f32), |(low, high), &x| (low.min(x), high.max(x)));
    let largest = high.max(-low);
    let off = if multiplied { MULTIPLIED } else { 0.0 };
    let is = |expected: f32| {
        let least_and_most = [expected * (1.0 - off), expected * (1.0 + off)];
        let [least, most] = match scheme {
            Scheme::PerRow | Scheme::Blocks(_) => least_and_most,
            _ => least_and_most.map(|scale| f16::from_f32(scale).to_f32()),
        };
        // Weights of which their bits leave nothing have no scale.
        most == 0.0 || (least..=most).contains(&step)
    };
    match (scheme, clamping(scheme)) {
        // Any scale does for nothing; 8-bit floats have one for the matrix.
        _ if largest == 0.0 => true,
        (Scheme::Fp8, _) => true,
        (_, Clamping::Chosen) => loses_little(weights, found, largest, small(scheme)),
        (Scheme::Blocks(of), Clamping::Rounded) if of.bits == Bits::Eight => is((high - low) / 255.0),
        (_, Clamping::Rounded) => is((high - low) / 15.0),
        (_, Clamping::Absent) => is(largest / 127.0),
    }
}

/// Whether a symmetric group of 4 bits loses no more than it would with the plain scale, by which the
/// weight of the largest magnitude is seven steps: who chooses another one does so to lose less.
fn loses_little(weights: &[f32], found: &[Restored], largest: f32, small: f32) -> bool {
    let step = largest / 7.0;
    let norm = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| x * x).sum::<f32>().sqrt();
    let plain = norm(&mut weights.iter().map(|x| x - step * (x / step).round_ties_even()));
    let lost = norm(&mut weights.iter().zip(found).map(|(x, found)| x - found.value));
    let of_scale = norm(&mut weights.iter().copied()) * SLACK + small * (weights.len() as f32).sqrt();
    lost <= plain * (1.0 + SLACK) + of_scale
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use arrcoc_models::graph::quantized::Blocks;

    /// Weights in 4 bits with one scale, by hand.
    fn group(integers: &[i32], scale: f32) -> Vec<Restored> {
        let restored = |&integer: &i32| Restored {
            value: scale * integer as f32,
            step: scale.abs(),
            end: if integer == -8 {
                -scale.signum()
            } else {
                scale.signum() * f32::from(u8::from(integer == 7))
            },
        };
        integers.iter().map(restored).collect()
    }

    fn strayed(scheme: Scheme, weights: &[f32], found: &[Restored]) -> u64 {
        let mut tally = Tally::default();
        tally.row(scheme, weights.len(), weights, found);
        tally.strayed
    }

    const FOUR: Scheme = Scheme::Tiles(Bits::Four);

    #[test]
    fn the_nearest_integers_of_a_good_scale_pass() {
        let weights = [0.8, -0.31, 0.04, -0.72, 0.0, 0.26];
        assert_eq!(strayed(FOUR, &weights, &group(&[-8, 3, 0, 7, 0, -3], -0.1)), 0);
        assert_eq!(strayed(FOUR, &[0.0; 4], &group(&[0; 4], 1.0)), 0);
    }

    #[test]
    fn one_integer_off_by_one_is_found() {
        let weights = [0.8, -0.31, 0.04, -0.72, 0.0, 0.26];
        assert_eq!(strayed(FOUR, &weights, &group(&[-8, 3, 1, 7, 0, -3], -0.1)), 1);
    }

    #[test]
    fn scales_that_are_flipped_wide_or_narrow_are_found() {
        let weights = [0.8, -0.31, 0.04, -0.72, 0.0, 0.26];
        assert!(strayed(FOUR, &weights, &group(&[-8, 3, 0, 7, 0, -3], 0.1)) > 0);
        // Twice as wide and twice as narrow, each with the nearest integers.
        assert!(strayed(FOUR, &weights, &group(&[-4, 2, 0, 4, 0, -1], -0.2)) > 0);
        assert!(strayed(FOUR, &weights, &group(&[-8, 6, -1, 7, 0, -5], -0.05)) > 0);
        let eight = Scheme::Blocks(Blocks { bits: Bits::Eight, size: 16, symmetric: true });
        let found = |scale: f32| -> Vec<Restored> {
            let nearest = |x: &f32| Restored { value: scale * (x / scale).round(), step: scale, end: 0.0 };
            weights.iter().map(nearest).collect()
        };
        assert_eq!(strayed(eight, &weights, &found(0.8 / 127.0)), 0);
        assert!(strayed(eight, &weights, &found(0.8 / 120.0)) > 0);
        assert!(strayed(eight, &weights, &found((0.8f32 / 127.0).next_up())) > 0);
        let mut tally = Tally { multiplied: true, ..Tally::default() };
        tally.row(eight, 16, &weights, &found((0.8f32 / 127.0).next_up()));
        assert_eq!(tally.strayed, 0);
    }

    #[test]
    fn floats_are_the_nearest_to_the_bit() {
        let mut tally = Tally::default();
        tally.full(&[1.0, 2.0], &[1.0, 2.0]);
        tally.full(&[3.0, 4.0], &[3.0, 4.0f32.next_up()]);
        assert_eq!((tally.strayed, tally.first), (1, Some(3)));
        let mut tally = Tally::default();
        tally.half(&[1.0, 1.0003, 1e-9], &[1.0, 1.0, 0.0]);
        // The number next to the nearest is nearer than half of the last bit at the other end of the binade.
        let (x, y) = (1.9995f32, f16::from_f32(1.9995));
        tally.half(&[x, x], &[y.to_f32(), f16::from_bits(y.to_bits() - 1).to_f32()]);
        assert_eq!((tally.strayed, tally.first), (1, Some(4)));
    }

    #[test]
    fn the_scale_of_8_bit_floats_fits_the_largest_weight() {
        let with = |scale| {
            let mut tally = Tally::default();
            let restored = |&value: &f32| Restored { value, step: 0.1, end: 0.0 };
            let weights = [0.5, -0.9, 0.1];
            tally.row(Scheme::Fp8, 3, &weights, &weights.iter().map(restored).collect::<Vec<_>>());
            tally.scale(scale);
            tally.strayed
        };
        let least = (0..).map(f16::from_bits).find(|scale| scale.to_f32() * 448.0 >= 0.9).unwrap();
        let beside = [1, -1].map(|by| f16::from_bits(least.to_bits().wrapping_add_signed(by)).to_f32());
        assert_eq!((with(least.to_f32()), beside.map(with)), (0, [1, 1]));
    }
}

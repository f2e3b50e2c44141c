//! Where the answer is, and how much of that became tokens.

/// Whether two rectangles share a part; left, top, right, bottom.
pub(super) fn overlap(one: [f32; 4], other: [f32; 4]) -> bool {
    let [left, top, right, bottom] = other;
    one[2] > left && one[0] < right && one[3] > top && one[1] < bottom
}

/// Of the patches that hold the answer, the share among the tokens; `None` where there are none.
pub(super) fn recall(wanted: &[usize], indices: &[i64]) -> Option<f64> {
    let found = wanted.iter().filter(|&&patch| indices.contains(&(patch as i64))).count();
    (!wanted.is_empty()).then(|| found as f64 / wanted.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recall_is_the_share_of_the_answers_patches() {
        assert_eq!(recall(&[3, 4, 9], &[100, 4, 7, 9]), Some(2.0 / 3.0));
        assert_eq!(recall(&[3], &[100, 4]), Some(0.0));
        assert_eq!(recall(&[], &[1]), None);
    }

    #[test]
    fn rectangles_that_only_touch_share_nothing() {
        let square = [0.0, 0.0, 16.0, 16.0];
        for (other, expected) in [
            ([15.0, 15.0, 20.0, 20.0], true),
            ([16.0, 0.0, 20.0, 16.0], false),
            ([0.0, 16.0, 16.0, 20.0], false),
            ([4.0, 4.0, 5.0, 5.0], true),
        ] {
            assert_eq!((overlap(square, other), overlap(other, square)), (expected, expected), "{other:?}");
        }
    }
}

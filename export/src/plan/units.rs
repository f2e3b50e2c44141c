//! How tables and advice write sizes.

/// Bytes in GiB, with the unit.
pub(super) fn gib(bytes: u64) -> String {
    format!("{} GiB", gib_number(bytes))
}

/// Bytes in GiB, one decimal, without the unit.
pub(super) fn gib_number(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 30))
}

//! Which kernel of an operator this CPU runs.

use std::sync::OnceLock;

/// A kernel of an operator, for one set of instructions: a row of its table.
pub(crate) struct Row<K> {
    /// The instructions that few CPUs have, as Rust spells them.
    pub(crate) instructions: &'static str,
    /// Whether this CPU has all that the kernel takes.
    pub(crate) here: fn() -> bool,
    /// Its functions, and how much work each takes at a time.
    pub(crate) kernel: K,
}

/// All kernels of an operator, the fastest first.
pub(crate) struct Table<K: 'static> {
    rows: &'static [Row<K>],
    chosen: OnceLock<Option<&'static Row<K>>>,
}

impl<K> Table<K> {
    pub(crate) const fn new(rows: &'static [Row<K>]) -> Self {
        Self { rows, chosen: OnceLock::new() }
    }

    /// The first row that this CPU runs; it is asked once.
    pub(crate) fn chosen(&self) -> Option<&'static Row<K>> {
        *self.chosen.get_or_init(|| self.rows.iter().find(|row| (row.here)()))
    }

    /// The chosen row's kernel.
    ///
    /// # Panics
    /// When this CPU runs none.
    #[track_caller]
    pub(crate) fn kernel(&self) -> &'static K {
        match self.chosen() {
            Some(row) => &row.kernel,
            None => panic!("expected a CPU with {}", self.instructions().collect::<Vec<_>>().join(" or ")),
        }
    }

    /// The instructions of every row.
    pub(crate) fn instructions(&self) -> impl Iterator<Item = &'static str> {
        self.rows.iter().map(|row| row.instructions)
    }

    /// Every kernel that this CPU runs: the tests try them all.
    #[cfg(test)]
    pub(crate) fn all_here(&self) -> impl Iterator<Item = &'static K> {
        self.rows.iter().filter(|row| (row.here)()).map(|row| &row.kernel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table<const N: usize>(here: [fn() -> bool; N]) -> Table<usize> {
        let row = |kernel: usize| Row { instructions: ["a", "b", "c"][kernel], here: here[kernel], kernel };
        Table::new(Vec::leak((0..N).map(row).collect()))
    }

    #[test]
    fn the_first_kernel_that_runs_is_chosen() {
        let table = table([|| false, || true, || true]);
        assert_eq!(table.chosen().map(|row| row.instructions), Some("b"));
        assert_eq!(*table.kernel(), 1);
        assert!(table.all_here().eq(&[1, 2]));
        assert!(table.instructions().eq(["a", "b", "c"]));
    }

    #[test]
    #[should_panic(expected = "expected a CPU with a or b")]
    fn a_kernel_that_does_not_run_is_not_to_be_had() {
        let table = table([|| false, || false]);
        assert!(table.chosen().is_none());
        table.kernel();
    }
}

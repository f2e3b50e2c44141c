//! Perplexity over the real graphs of the tiny bundle: what is scored, and what is refused.

#![allow(clippy::unwrap_used)]

#[path = "../../runtime/tests/common/mod.rs"]
mod common;

use std::num::NonZeroUsize;

use arrcoc_bundle::Bundle;
use arrcoc_eval::perplexity::{Perplexity, PerplexityError, Source, perplexity};
use common::{options, tiny_bundle};

/// The `last` tokens of each window; 0 for all.
fn read(windows: &[&[u32]], last: usize) -> Result<Perplexity, PerplexityError> {
    let bundle = Bundle::open(&tiny_bundle("fp32-cpu")).unwrap();
    let windows = Source::Windows(windows.iter().map(|window| window.to_vec()).collect());
    perplexity(&bundle, &options(), windows, NonZeroUsize::new(last), |_, _| {})
}

/// The sum over all scored tokens.
fn total(found: &Perplexity) -> f64 {
    found.nll * found.tokens as f64
}

#[test]
fn windows_add_up_whatever_stands_beside_them_and_the_end_can_be_scored_alone() {
    let (a, b): (&[u32], &[u32]) = (&[5, 9, 40, 7, 7, 31], &[12, 8, 3]);
    let alone = [a, b].map(|window| read(&[window], 0).unwrap());
    let both = read(&[a, b], 0).unwrap();
    assert_eq!((both.tokens, both.windows), (7, 2));
    assert!((total(&both) - total(&alone[0]) - total(&alone[1])).abs() < 1e-9);

    let (end, start) = (read(&[a], 2).unwrap(), read(&[&a[..4]], 0).unwrap());
    assert_eq!((end.tokens, start.tokens), (2, 3));
    assert!((total(&end) + total(&start) - total(&alone[0])).abs() < 1e-9);
    assert_eq!(read(&[a], 5).unwrap().tokens, 5);
    assert!(matches!(read(&[a], 6), Err(PerplexityError::Last { shortest: 6, found: 6 })));
}

#[test]
fn of_all_tokens_one_is_the_likeliest() {
    let bundle = Bundle::open(&tiny_bundle("fp32-cpu")).unwrap();
    let vocabulary = bundle.manifest().decoder.vocab_size as u32;
    let tried: Vec<[u32; 4]> = (0..vocabulary).map(|id| [5, 9, 40, id]).collect();
    let tried: Vec<&[u32]> = tried.iter().map(<[u32; 4]>::as_slice).collect();
    let found = read(&tried, 1).unwrap();
    assert_eq!((found.tokens, found.likeliest, found.windows_likeliest), (vocabulary as usize, 1, 1));
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    let bundle = Bundle::open(&tiny_bundle("fp32-cpu")).unwrap();
    let vocabulary = bundle.manifest().decoder.vocab_size as u32;
    for windows in [&[][..], &[&[][..]], &[&[4]], &[&vec![4; 1 << 20]]] {
        assert!(matches!(read(windows, 0), Err(PerplexityError::Window { .. })));
    }
    let stranger = read(&[&[1, vocabulary]], 0);
    assert!(matches!(stranger, Err(PerplexityError::Id { found, .. }) if found == vocabulary));
}

#![allow(clippy::unwrap_used, missing_docs)]

use super::*;
use crate::decoder::Positions;
use crate::generate::{NoObserver, Share, Tensions};

/// A family whose rows stand on a grid of two columns.
struct OnAGrid {
    embedded: usize,
}

impl VisionModel for OnAGrid {
    fn reads_question(&self) -> bool {
        false
    }

    fn encode(&mut self, _: &Pixels, _: &mut Stages<'_>) -> Result<Features, LibraryError> {
        unreachable!("the features are there")
    }

    fn embed(
        &mut self,
        features: &Features,
        _: &Ask<'_>,
        _: &mut Stages<'_>,
    ) -> Result<Visual, LibraryError> {
        self.embedded += 1;
        assert_eq!(self.embedded, 1, "the second picture comes out of the cache");
        Ok(Visual::toy(features.tensors[0].clone()))
    }

    fn positions(&self, _: &Features, visual: &Visual) -> Option<Vec<Positions>> {
        let run = |run: &std::ops::Range<usize>| Positions {
            each: (0..run.len()).map(|at| [0, at / 2, at % 2]).collect(),
            next: run.len().div_ceil(2).max(2),
        };
        Some(visual.runs.iter().map(run).collect())
    }
}

/// A family is asked once where its rows stand, and the cache keeps the answer with the rows.
#[test]
fn positions_are_a_familys_affair_and_are_cached_with_the_rows() {
    let pictures = Pictures::toy(ImageLimits::default());
    pictures.caches().visuals = ByteLru::new(1 << 20);
    let model = Box::new(OnAGrid { embedded: 0 });
    let mut vision = Vision { pictures: Arc::clone(&pictures), model, target: None };
    let question = Tensor::from_vec(&[1, 1, 8], vec![0f32; 8]).unwrap();
    let mut embed = || {
        let picture = Picture { size: [1, 1], sizing: Sizing::default() };
        let features = Features {
            tensors: vec![Tensor::from_vec(&[1, 5, 8], vec![1f32; 40]).unwrap()],
            picture,
            seen: None,
        };
        let keys = pictures.keys(b"file", picture, &[], Grant::Auto);
        let state =
            pictures.cached(&keys).unwrap_or(State::Encoded(Arc::new(Encoded { features, evidence: None })));
        let prepared = Prepared { keys, grant: Grant::Auto, state, stages: Vec::new() };
        vision.embed(prepared, &question, &NoObserver).unwrap().0
    };
    let grid = Positions { each: vec![[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1], [0, 2, 0]], next: 3 };
    for _ in 0..2 {
        assert_eq!(embed().positions, Some(vec![grid.clone()]));
    }
}

/// The key of what the decoder gets is the whole truth: whatever changes an outcome changes the key.
#[test]
fn keys_tell_apart_all_that_changes_what_is_kept() {
    let pictures = Pictures::toy(ImageLimits::default());
    let size = |side| Picture { size: [side, side], sizing: Sizing::default() };
    let choice = Choice { budget: Budget::Auto, selection: Selection::default(), need: None };
    let tensions = Tensions { explore: 0.250_000_03, ..Tensions::default() };
    let with = |selection| Grant::Choose(Choice { selection, ..choice });
    let grants = [
        Grant::Auto,
        Grant::Full,
        Grant::Tier(0),
        Grant::Tier(1),
        Grant::Choose(choice),
        Grant::Choose(Choice { need: Some(Need::Counting), ..choice }),
        Grant::Choose(Choice { budget: Budget::Tokens(64), ..choice }),
        Grant::Choose(Choice { budget: Budget::Share(Share::new(0.5).unwrap()), ..choice }),
        with(Selection { selector: Some(Selector::MmTok), ..Selection::default() }),
        with(Selection { depth: Some(Depth::Relevant), ..Selection::default() }),
        with(Selection { tensions: Some(tensions), ..Selection::default() }),
        with(Selection { tensions: Some(Tensions::default()), ..Selection::default() }),
    ];
    let mut visuals = std::collections::HashSet::new();
    let mut features = std::collections::HashSet::new();
    for file in [b"one", b"two"] {
        for question in [&[1u32, 2][..], &[1, 3], &[0x0201]] {
            for grant in grants {
                let keys = pictures.keys(file, size(9), question, grant);
                assert!(visuals.insert(keys.visual), "{file:?} {question:?} {grant:?}");
                features.insert(keys.features);
            }
        }
    }
    assert_eq!(features.len(), 2, "a picture is encoded once, whatever is asked");
}

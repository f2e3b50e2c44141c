#![allow(clippy::unwrap_used, missing_docs)]

use super::*;
use crate::decoder::fused::Fused;
use crate::decoder::portable::Portable;
use crate::decoder::{Decoder, Mark, Position};
use crate::toy;
use arrcoc_bundle::manifest::DecoderSpec;

const BEFORE: [u32; 3] = [10, 11, 12];
const BEHIND: [u32; 2] = [20, 21];
/// Rows and columns of the picture.
const GRID: [usize; 2] = [2, 3];
const LEVELS: usize = 2;

fn embedder() -> Embedder {
    Embedder::new(Box::new(toy::Embedding), toy::spec().hidden_size)
}

fn spec(deep_levels: usize) -> DecoderSpec {
    DecoderSpec { deep_levels, ..toy::spec() }
}

fn decoders(spec: &DecoderSpec) -> [Box<dyn Decoder>; 2] {
    let graph = || Box::new(toy::Decoder::default());
    [
        Box::new(Fused::new(graph(), spec, 2, 48).unwrap()),
        Box::new(Portable::new(graph(), spec, 2, 48).unwrap()),
    ]
}

fn layout(rows: usize) -> Layout {
    let segments = vec![
        Segment::Tokens(BEFORE.to_vec()),
        Segment::Rows { image: 0, run: 0, most: rows },
        Segment::Tokens(BEHIND.to_vec()),
    ];
    Layout { segments, question: Vec::new(), images: 1, most_rows: rows, thoughts: None, calls: None }
}

/// Some cells of the grid, which stand where they would in the whole; the text goes on behind its longer
/// side.
fn picture(cells: &[usize]) -> Visual {
    let rows: Vec<f32> = cells.iter().flat_map(|cell| toy::embedding_row(100 + cell)).collect();
    let each = cells.iter().map(|cell| [0, cell / GRID[1], cell % GRID[1]]).collect();
    let deep = (0..LEVELS).flat_map(|level| cells.iter().map(move |cell| 200 + 50 * level + cell));
    let deep = deep.flat_map(toy::embedding_row).collect();
    let mut visual = Visual::toy(Tensor::from_vec(&[1, cells.len(), 8], rows).unwrap());
    visual.positions = Some(vec![Positions { each, next: GRID[1] }]);
    visual.deep = Some(Tensor::from_vec(&[LEVELS, cells.len(), 8], deep).unwrap());
    visual
}

fn prompt(visual: &Visual) -> PromptEmbeds {
    PromptEmbeds::new(&layout(visual.rows.shape()[1]), &[visual.into()])
}

/// Logits of the prompt's end, then of each token fed behind it; and where the slot stands then.
fn answers(decoder: &mut dyn Decoder, prompt: &PromptEmbeds, chunk: usize) -> (Vec<Vec<f32>>, Mark) {
    let (slot, embedder) = (decoder.slots_mut().allocate().unwrap(), embedder());
    let mut last = None;
    for begin in (0..prompt.tokens()).step_by(chunk) {
        let rows = prompt.chunk(begin, prompt.tokens().min(begin + chunk), &embedder).unwrap();
        last = Some(decoder.prefill(slot, &rows).unwrap());
    }
    let mut logits = vec![last.unwrap().values().to_vec()];
    for id in [7, 8] {
        logits.push(decoder.step(&[slot], &embedder.embed(&[id]).unwrap()).unwrap()[0].values().to_vec());
    }
    let mark = decoder.slots().mark(slot);
    decoder.free(slot);
    (logits, mark)
}

/// What [`answers`] must give, from one run over rows that are written out by hand.
fn expected(visual: &Visual, cells: &[usize], deep: bool) -> Vec<Vec<f32>> {
    let embedder = embedder();
    let ids = |ids: &[u32]| embedder.embed(ids).unwrap().as_slice::<f32>().unwrap().to_vec();
    let all = |fed: &[u32]| {
        let mut rows = ids(&BEFORE);
        rows.extend_from_slice(visual.rows.as_slice::<f32>().unwrap());
        rows.extend(ids(&[&BEHIND, fed].concat()));
        let seq = rows.len() / 8;
        let mut each: Vec<Position> = (0..3).map(|at| [at; 3]).collect();
        each.extend(cells.iter().map(|cell| [3, 3 + cell / GRID[1], 3 + cell % GRID[1]]));
        each.extend((6..6 + BEHIND.len() + fed.len()).map(|at| [at; 3]));
        let levels = visual.deep.as_ref().unwrap().as_slice::<f32>().unwrap();
        let mut added = vec![0f32; LEVELS * seq * 8];
        for (level, own) in levels.chunks_exact(cells.len() * 8).enumerate() {
            added[(level * seq + 3) * 8..][..own.len()].copy_from_slice(own);
        }
        let added = Tensor::from_vec(&[LEVELS, 1, seq, 8], added).unwrap();
        Rows {
            embeds: Tensor::from_vec(&[1, seq, 8], rows).unwrap(),
            positions: Some(Positions { next: 6 + BEHIND.len() + fed.len(), each }),
            deep: deep.then_some(added),
        }
    };
    let whole = |fed: &[u32]| {
        let [mut decoder, _] = decoders(&spec(if deep { LEVELS } else { 0 }));
        let slot = decoder.slots_mut().allocate().unwrap();
        decoder.prefill(slot, &all(fed)).unwrap().values().to_vec()
    };
    vec![whole(&[]), whole(&[7]), whole(&[7, 8])]
}

/// Chunked equals whole at every length, and decoding goes on where the whole picture ends: at position 8,
/// with as many keys as there are tokens, whichever cells were taken.
#[test]
fn positions_of_a_family_are_kept_through_chunks_and_decoding() {
    for cells in [&[0, 1, 2, 3, 4, 5][..], &[1, 3, 4], &[5]] {
        let mut visual = picture(cells);
        let expected = expected(&visual, cells, false);
        visual.deep = None;
        let prompt = prompt(&visual);
        for chunk in 1..=prompt.tokens() {
            for mut decoder in decoders(&spec(0)) {
                let (logits, mark) = answers(decoder.as_mut(), &prompt, chunk);
                assert_eq!(logits, expected, "{cells:?} in chunks of {chunk}");
                assert_eq!(mark, Mark { length: prompt.tokens() + 2, position: 3 + 3 + 2 + 2 });
            }
        }
        visual.positions = None;
        let counted = answers(decoders(&spec(0))[0].as_mut(), &self::prompt(&visual), 100);
        assert_ne!(counted.0, expected, "the toy sees positions");
        assert_eq!(counted.1, Mark { length: prompt.tokens() + 2, position: prompt.tokens() + 2 });
    }
}

/// Rows for deeper layers follow their tokens; texts, chunks without a picture and decode steps add zeros.
#[test]
fn rows_for_deeper_layers_follow_their_tokens() {
    let cells = [0, 2, 3, 5];
    let visual = picture(&cells);
    let (prompt, expected) = (prompt(&visual), expected(&visual, &cells, true));
    for chunk in 1..=prompt.tokens() {
        for mut decoder in decoders(&spec(LEVELS)) {
            let (logits, _) = answers(decoder.as_mut(), &prompt, chunk);
            assert_eq!(logits, expected, "in chunks of {chunk}");
        }
    }
    let without =
        answers(decoders(&spec(LEVELS))[0].as_mut(), &self::prompt(&Visual { deep: None, ..visual }), 100);
    assert_ne!(without.0, expected, "the toy sees the levels");
}

#[test]
fn levels_that_the_decoder_has_not_are_refused() {
    let prompt = prompt(&picture(&[0, 1]));
    let rows = prompt.chunk(0, prompt.tokens(), &embedder()).unwrap();
    for levels in [0, 1, 3] {
        for mut decoder in decoders(&spec(levels)) {
            let slot = decoder.slots_mut().allocate().unwrap();
            let error = decoder.prefill(slot, &rows).unwrap_err();
            assert!(error.to_string().contains("deep_embeds"), "{error}");
            assert_eq!(decoder.slots().mark(slot), Mark::default());
        }
    }
}

/// An answer that is begun anew from the prompt, or beside another one, stands where the prompt ended.
#[test]
fn forks_and_rewound_slots_keep_position_and_length_apart() {
    let cells = [1, 4];
    let mut visual = picture(&cells);
    let expected = expected(&visual, &cells, false);
    visual.deep = None;
    let (prompt, embedder) = (prompt(&visual), embedder());
    let step = embedder.embed(&[7]).unwrap();
    for mut decoder in decoders(&spec(0)) {
        let slot = decoder.slots_mut().allocate().unwrap();
        decoder.prefill(slot, &prompt.chunk(0, prompt.tokens(), &embedder).unwrap()).unwrap();
        let mark = decoder.slots().mark(slot);
        assert_eq!(mark, Mark { length: 7, position: 8 });
        decoder.step(&[slot], &embedder.embed(&[99]).unwrap()).unwrap();
        let twin = decoder.fork(slot, mark).unwrap().unwrap();
        assert_eq!(decoder.step(&[twin], &step).unwrap()[0].values(), expected[1]);
        decoder.rewind(slot, mark).unwrap();
        assert_eq!(decoder.step(&[slot], &step).unwrap()[0].values(), expected[1]);
    }
}

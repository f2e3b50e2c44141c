#![allow(clippy::unwrap_used, missing_docs)]

use proptest::prelude::*;

use super::fused::Fused;
use super::portable::Portable;
use super::*;
use crate::library::LibraryError;
use crate::toy;

mod recurrent;

const CAPACITY: usize = 48;

fn decoders(slots: usize) -> [Box<dyn Decoder>; 2] {
    let graph = || Box::new(toy::Decoder::default());
    [
        Box::new(Fused::new(graph(), &toy::spec(), slots, CAPACITY).unwrap()),
        Box::new(Portable::new(graph(), &toy::spec(), slots, CAPACITY).unwrap()),
    ]
}

fn embed(ids: &[u32]) -> Tensor {
    Embedder::new(Box::new(toy::Embedding), toy::spec().hidden_size).embed(ids).unwrap()
}

fn text(ids: &[u32]) -> Rows {
    Rows::plain(embed(ids))
}

/// The logits after a whole sequence, alone in a fresh decoder.
fn lonely(ids: &[u32]) -> Vec<f32> {
    let [mut decoder, _] = decoders(1);
    let slot = decoder.slots_mut().allocate().unwrap();
    decoder.prefill(slot, &text(ids)).unwrap().values().to_vec()
}

#[test]
fn slots_are_taken_lowest_first() {
    let mut slots = Slots::new(3, CAPACITY);
    assert_eq!(
        [slots.allocate(), slots.allocate(), slots.allocate(), slots.allocate()],
        [Some(0), Some(1), Some(2), None]
    );
    slots.free(1);
    slots.free(0);
    assert_eq!((slots.used(), slots.total()), (1, 3));
    assert_eq!(slots.allocate(), Some(0));
}

#[test]
fn usage_counts_tokens_and_not_slots() {
    for mut decoder in decoders(2) {
        assert_eq!(decoder.slots().usage(), 0.0);
        let slot = decoder.slots_mut().allocate().unwrap();
        let other = decoder.slots_mut().allocate().unwrap();
        assert_eq!((decoder.slots().used(), decoder.slots().usage()), (2, 0.0));
        decoder.prefill(slot, &text(&[1; 12])).unwrap();
        decoder.prefill(other, &text(&[1; 11])).unwrap();
        decoder.step(&[other], &embed(&[1])).unwrap();
        assert_eq!(decoder.slots().usage(), 24.0 / (2 * CAPACITY) as f64);
        decoder.free(slot);
        assert_eq!(decoder.slots().usage(), 12.0 / (2 * CAPACITY) as f64);
    }
}

#[test]
fn a_full_slot_is_an_error_and_one_position_stays_spare() {
    for mut decoder in decoders(1) {
        let slot = decoder.slots_mut().allocate().unwrap();
        let most = vec![1; CAPACITY - 1];
        decoder.prefill(slot, &text(&most)).unwrap();
        let error = decoder.step(&[slot], &embed(&[1])).unwrap_err();
        assert!(matches!(error, DecoderError::Full { length: 47, adding: 1, capacity: 48, .. }), "{error}");
        assert_eq!(decoder.slots().mark(slot), Mark { length: 47, position: 47 });
    }
}

#[test]
fn embeddings_of_another_width_are_refused() {
    for mut decoder in decoders(1) {
        let slot = decoder.slots_mut().allocate().unwrap();
        let wrong = Tensor::from_vec(&[1, 2, 3], vec![0f32; 6]).unwrap();
        assert!(matches!(decoder.prefill(slot, &Rows::plain(wrong)), Err(DecoderError::Contract { .. })));
    }
}

#[test]
fn holes_disturb_nobody() {
    for mut decoder in decoders(4) {
        let slots: Vec<usize> = (0..4).map(|_| decoder.slots_mut().allocate().unwrap()).collect();
        // 0 is free, 1 half-way through its prompt, 3 decoding; 2 is free again and reused later.
        decoder.prefill(slots[1], &text(&[10, 11])).unwrap();
        decoder.prefill(slots[2], &text(&[90, 91, 92])).unwrap();
        decoder.prefill(slots[3], &text(&[30])).unwrap();
        decoder.free(slots[0]);
        decoder.free(slots[2]);
        let logits = decoder.step(&[3], &embed(&[31])).unwrap();
        assert_eq!(logits[0].values(), lonely(&[30, 31]));
        assert_eq!(decoder.prefill(1, &text(&[12, 13])).unwrap().values(), lonely(&[10, 11, 12, 13]));
        assert_eq!(decoder.slots_mut().allocate(), Some(0));
        assert_eq!(decoder.prefill(0, &text(&[40, 41])).unwrap().values(), lonely(&[40, 41]));
        let logits = decoder.step(&[3, 0], &embed(&[32, 42])).unwrap();
        assert_eq!(logits[0].values(), lonely(&[30, 31, 32]));
        assert_eq!(logits[1].values(), lonely(&[40, 41, 42]));
    }
}

#[test]
fn a_fork_equals_a_second_prefill() {
    for mut decoder in decoders(2) {
        let slot = decoder.slots_mut().allocate().unwrap();
        decoder.prefill(slot, &text(&[1, 2, 3])).unwrap();
        let mark = decoder.slots().mark(slot);
        decoder.step(&[slot], &embed(&[4])).unwrap();
        let twin = decoder.fork(slot, mark).unwrap().unwrap();
        assert_eq!(decoder.fork(slot, mark).unwrap(), None, "no third slot");
        let logits = decoder.step(&[twin, slot], &embed(&[9, 5])).unwrap();
        assert_eq!(logits[0].values(), lonely(&[1, 2, 3, 9]));
        assert_eq!(logits[1].values(), lonely(&[1, 2, 3, 4, 5]));
        decoder.rewind(slot, mark).unwrap();
        assert_eq!(decoder.step(&[slot], &embed(&[7])).unwrap()[0].values(), lonely(&[1, 2, 3, 7]));
    }
}

#[test]
fn a_failed_portable_step_moves_no_slot() {
    let [_, mut decoder] = decoders(2);
    for _ in 0..2 {
        decoder.slots_mut().allocate().unwrap();
    }
    decoder.prefill(0, &text(&[1])).unwrap();
    decoder.prefill(1, &text(&[1; CAPACITY - 1])).unwrap();
    assert!(decoder.step(&[0, 1], &embed(&[2, 2])).is_err());
    assert_eq!(decoder.slots().mark(0), Mark { length: 1, position: 1 });
    assert_eq!(decoder.step(&[0], &embed(&[2])).unwrap()[0].values(), lonely(&[1, 2]));
}

/// Feeding a prompt in pieces gives what feeding it token by token gave a lonely decoder.
fn check_chunked(decoders: [Box<dyn Decoder>; 2], ids: &[u32], cuts: &[usize], whole: &[f32]) {
    for mut decoder in decoders {
        let slot = decoder.slots_mut().allocate().unwrap();
        let (mut rest, mut last) = (ids, None);
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (chunk, after) = rest.split_at((*cut).min(rest.len()));
            last = Some(decoder.prefill(slot, &text(chunk)).unwrap());
            rest = after;
        }
        assert_eq!(last.unwrap().values(), whole);
    }
}

/// Stepping all rows together gives each what it gets from a lonely decoder.
fn check_batch(decoders: [Box<dyn Decoder>; 2], rows: &[Vec<u32>], lonely: fn(&[u32]) -> Vec<f32>) {
    for mut decoder in decoders {
        let mut slots = Vec::new();
        for row in rows {
            let slot = decoder.slots_mut().allocate().unwrap();
            decoder.prefill(slot, &text(&row[..row.len() - 1])).unwrap();
            slots.push(slot);
        }
        let last: Vec<u32> = rows.iter().map(|row| row[row.len() - 1]).collect();
        let logits = decoder.step(&slots, &embed(&last)).unwrap();
        for (found, row) in logits.iter().zip(rows) {
            assert_eq!(found.values(), lonely(row));
        }
    }
}

proptest! {
    #[test]
    fn chunked_equals_whole(ids in prop::collection::vec(0u32..260, 1..CAPACITY), cuts in prop::collection::vec(1usize..9, 1..6)) {
        check_chunked(decoders(1), &ids, &cuts, &lonely(&ids));
    }

    #[test]
    fn batch_equals_single(rows in prop::collection::vec(prop::collection::vec(0u32..260, 2..20), 1..5)) {
        check_batch(decoders(rows.len()), &rows, lonely);
    }
}

/// A cache that no machine has is refused; it ends nothing.
#[test]
fn a_cache_beyond_all_memory_is_an_error() {
    for slots in [1 << 44, usize::MAX] {
        let refused =
            Fused::new(Box::new(toy::Decoder::default()), &toy::spec(), slots, CAPACITY).err().unwrap();
        let of_memory = |error: &LibraryError| {
            matches!(error, LibraryError::Tensor(crate::tensor::TensorError::Memory { .. }))
        };
        assert!(of_memory(&refused), "{refused}");
    }
}

//! Slots whose decoder has a recurrent layer beside those with keys and values.

use super::*;

fn decoders(slots: usize) -> [Box<dyn Decoder>; 2] {
    let graph = || Box::new(toy::Decoder::default());
    let spec = toy::recurrent_spec();
    [
        Box::new(Fused::new(graph(), &spec, slots, CAPACITY).unwrap()),
        Box::new(Portable::new(graph(), &spec, slots, CAPACITY).unwrap()),
    ]
}

/// The logits after a whole sequence, token by token, alone in a fresh decoder.
fn lonely(ids: &[u32]) -> Vec<f32> {
    let [mut decoder, _] = decoders(1);
    let slot = decoder.slots_mut().allocate().unwrap();
    let rows = ids.iter().map(|id| decoder.step(&[slot], &embed(&[*id])).unwrap()[0].values().to_vec());
    rows.last().unwrap()
}

/// It is another decoder than the plain one, and its memory counts.
#[test]
fn earlier_tokens_reach_the_recurrent_layer() {
    assert_ne!(lonely(&[1, 2, 3]), super::lonely(&[1, 2, 3]));
    let spec = toy::recurrent_spec();
    let numbers = 2 * 8 + 2 * 4;
    assert_eq!(state_bytes(&spec), numbers * 4);
    assert_eq!(kv_bytes(&spec, 3, 10) - kv_bytes(&toy::spec(), 3, 10), 3 * 2 * numbers * 4);
}

#[test]
fn holes_disturb_nobody() {
    for mut decoder in decoders(4) {
        let slots: Vec<usize> = (0..4).map(|_| decoder.slots_mut().allocate().unwrap()).collect();
        decoder.prefill(slots[1], &text(&[10, 11])).unwrap();
        decoder.prefill(slots[2], &text(&[90, 91, 92])).unwrap();
        decoder.prefill(slots[3], &text(&[30])).unwrap();
        decoder.free(slots[0]);
        decoder.free(slots[2]);
        assert_eq!(decoder.step(&[3], &embed(&[31])).unwrap()[0].values(), lonely(&[30, 31]));
        assert_eq!(decoder.prefill(1, &text(&[12, 13])).unwrap().values(), lonely(&[10, 11, 12, 13]));
        // A slot that is taken again remembers nothing of the one before.
        assert_eq!((decoder.slots_mut().allocate(), decoder.slots_mut().allocate()), (Some(0), Some(2)));
        assert_eq!(decoder.prefill(2, &text(&[40, 41])).unwrap().values(), lonely(&[40, 41]));
        let logits = decoder.step(&[3, 2], &embed(&[32, 42])).unwrap();
        assert_eq!(logits[0].values(), lonely(&[30, 31, 32]));
        assert_eq!(logits[1].values(), lonely(&[40, 41, 42]));
    }
}

/// As the scheduler has several answers of one prompt: forks where it ends, and slots that go back there.
#[test]
fn answers_begin_where_the_prompt_ended() {
    for mut decoder in decoders(2) {
        let slot = decoder.slots_mut().allocate().unwrap();
        decoder.prefill(slot, &text(&[1, 2, 3])).unwrap();
        decoder.prefill(slot, &text(&[4, 5, 6, 7, 8, 9])).unwrap();
        let prompt = decoder.slots().mark(slot);
        decoder.step(&[slot], &embed(&[4])).unwrap();
        let twin = decoder.fork(slot, prompt).unwrap().unwrap();
        assert_eq!(decoder.fork(slot, prompt).unwrap(), None, "no third slot");
        let logits = decoder.step(&[twin, slot], &embed(&[20, 5])).unwrap();
        assert_eq!(logits[0].values(), lonely(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 20]));
        assert_eq!(logits[1].values(), lonely(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 4, 5]));
        for (slot, next) in [(twin, 21), (slot, 22), (twin, 23)] {
            decoder.rewind(slot, prompt).unwrap();
            let logits = decoder.step(&[slot], &embed(&[next])).unwrap();
            assert_eq!(logits[0].values(), lonely(&[1, 2, 3, 4, 5, 6, 7, 8, 9, next]));
        }
        decoder.rewind(slot, Mark::default()).unwrap();
        assert_eq!(decoder.prefill(slot, &text(&[50, 51])).unwrap().values(), lonely(&[50, 51]));
    }
}

#[test]
fn what_is_forgotten_is_refused_and_nothing_moves() {
    for mut decoder in decoders(2) {
        let slot = decoder.slots_mut().allocate().unwrap();
        decoder.prefill(slot, &text(&[1, 2])).unwrap();
        let early = decoder.slots().mark(slot);
        decoder.prefill(slot, &text(&[3])).unwrap();
        let refused = [decoder.rewind(slot, early).err(), decoder.fork(slot, early).err()];
        for error in refused {
            assert!(matches!(error, Some(DecoderError::Forgotten { length: 3, mark: 2, .. })), "{error:?}");
        }
        assert_eq!(decoder.slots().used(), 1);
        assert_eq!(decoder.step(&[slot], &embed(&[4])).unwrap()[0].values(), lonely(&[1, 2, 3, 4]));
    }
}

/// The graph fails in the second of three runs, of which the first changed the slot.
#[test]
fn a_failed_prefill_leaves_the_slot_as_it_was() {
    let graph = || Box::new(toy::Decoder { fail_at: Some(9), ..toy::Decoder::default() });
    let spec = toy::recurrent_spec();
    let decoders: [Box<dyn Decoder>; 2] = [
        Box::new(Fused::new(graph(), &spec, 1, CAPACITY).unwrap()),
        Box::new(Portable::new(graph(), &spec, 1, CAPACITY).unwrap()),
    ];
    for mut decoder in decoders {
        let slot = decoder.slots_mut().allocate().unwrap();
        decoder.prefill(slot, &text(&[1, 2])).unwrap();
        let mark = decoder.slots().mark(slot);
        assert!(decoder.prefill(slot, &text(&[9; 12])).is_err());
        assert_eq!(decoder.slots().mark(slot), mark);
        assert_eq!(decoder.step(&[slot], &embed(&[3])).unwrap()[0].values(), lonely(&[1, 2, 3]));
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

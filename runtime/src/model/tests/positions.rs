//! Where the rows of a picture stand, from the scheduler to the answer.

use super::*;
use crate::decoder::Positions;

/// A picture that stands on a grid: its chunks give what the whole gives, in both flavours, and not what rows
/// that are counted give.
#[test]
fn positions_of_a_family_reach_the_decoder() {
    let answer = |target, prefill_chunk, counted: bool| {
        let (model, jobs) = model(&Setup { target, prefill_chunk, ..Setup::default() });
        let generation = model.submit(Request { choices: 2, ..with_image(IMAGE) }).unwrap();
        let job = jobs.recv().unwrap();
        let rows: Vec<f32> = (30..36).flat_map(toy::embedding_row).collect();
        let mut visual = Visual::toy(crate::tensor::Tensor::from_vec(&[1, 6, 8], rows).unwrap());
        let each = (0..6).map(|cell| [0, cell / 3, cell % 3]).collect();
        visual.positions = (!counted).then(|| vec![Positions { each, next: 3 }]);
        model.ready.as_ref().unwrap().send(Ready { job, visuals: vec![visual] }).unwrap();
        collect(generation).tokens
    };
    let whole = answer(Target::Cpu, 1000, false);
    assert_ne!(whole, answer(Target::Cpu, 1000, true));
    for target in Target::ALL {
        for prefill_chunk in [1, 4, 7, 1000] {
            assert_eq!(answer(target, prefill_chunk, false), whole, "{target:?} {prefill_chunk}");
        }
    }
}

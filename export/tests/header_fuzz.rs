//! The header reader against random files: it may refuse, it must not panic, and what it accepts lies inside
//! the file.

#![allow(clippy::unwrap_used)]

mod common;

use arrcoc_export::checkpoint::read_header;
use common::join;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Reads `file`; checks what the reader promises of an accepted header.
fn read(file: &[u8]) -> bool {
    let Ok(tensors) = read_header(&mut &*file, file.len() as u64) else { return false };
    let mut end = None;
    for tensor in &tensors {
        assert!(tensor.bytes.start <= tensor.bytes.end && tensor.bytes.end <= file.len() as u64);
        assert!(end.is_none_or(|end| end == tensor.bytes.start), "a gap or an overlap was accepted");
        end = Some(tensor.bytes.end);
        let elements: usize = tensor.shape.iter().product();
        assert_eq!((elements * tensor.dtype.size()) as u64, tensor.bytes.end - tensor.bytes.start);
    }
    assert!(end.is_none_or(|end| end == file.len() as u64), "bytes after the last tensor were accepted");
    true
}

/// A sound file of a few tensors.
fn sound(sizes: &[usize]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut offset = 0;
    header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    for (i, size) in sizes.iter().enumerate() {
        let end = offset + size * 2;
        let entry = json!({ "dtype": "BF16", "shape": [size], "data_offsets": [offset, end] });
        header.insert(format!("layer.{i}.weight"), entry);
        offset = end;
    }
    join(&Value::Object(header), &vec![7; offset])
}

/// A JSON value such as a header might hold in the wrong place.
fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u64>().prop_map(|n| json!(n)),
        (0u64..64).prop_map(|n| json!(n)),
        any::<i64>().prop_map(|n| json!(n)),
        any::<f64>().prop_map(|x| json!(x)),
        "[A-Z0-9_]{0,8}".prop_map(|s| json!(s)),
        prop::collection::vec(any::<u64>(), 0..4).prop_map(|list| json!(list)),
        prop::collection::vec(0u64..32, 0..4).prop_map(|list| json!(list)),
        Just(Value::Null),
        Just(json!({})),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes(file in prop::collection::vec(any::<u8>(), 0..300)) {
        read(&file);
    }

    #[test]
    fn mutated_bytes(
        sizes in prop::collection::vec(0usize..9, 0..6),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        truncate in any::<bool>(),
    ) {
        let mut file = sound(&sizes);
        for (place, byte) in edits {
            let place = place.index(file.len());
            file[place] = byte;
        }
        if truncate {
            file.truncate(cut.index(file.len()));
        }
        read(&file);
    }

    #[test]
    fn mutated_json(
        sizes in prop::collection::vec(0usize..9, 1..6),
        tensor in any::<prop::sample::Index>(),
        key in prop::sample::select(vec!["dtype", "shape", "data_offsets", "other"]),
        value in value(),
    ) {
        let (mut header, data) = common::split(&sound(&sizes));
        header[format!("layer.{}.weight", tensor.index(sizes.len()))][key] = value;
        read(&join(&header, &data));
    }

    /// Any set of ranges: accepted exactly when they tile the data.
    #[test]
    fn layouts_are_accepted_exactly_when_they_tile(
        sizes in prop::collection::vec(1u64..10, 1..6),
        shift in prop::option::weighted(0.7, (any::<prop::sample::Index>(), 0u64..3, 0u64..3)),
        extra in prop::sample::select(vec![0, 0, 0, 1]),
    ) {
        let mut ranges = Vec::new();
        let mut offset = 0;
        for size in sizes {
            ranges.push((offset, offset + size));
            offset += size;
        }
        if let Some((which, back, on)) = shift {
            let which = which.index(ranges.len());
            let (begin, end) = &mut ranges[which];
            *begin = begin.saturating_sub(back);
            *end += on;
        }
        let mut covered = vec![0; offset as usize + extra];
        let mut inside = true;
        for &(begin, end) in &ranges {
            inside &= end as usize <= covered.len();
            covered.iter_mut().take(end as usize).skip(begin as usize).for_each(|n| *n += 1);
        }
        let tiles = inside && covered.iter().all(|&n| n == 1);
        let entry = |&(begin, end): &(u64, u64)| {
            json!({ "dtype": "I8", "shape": [end - begin], "data_offsets": [begin, end] })
        };
        let header = ranges.iter().enumerate().map(|(i, range)| (format!("t{i}"), entry(range))).collect();
        let file = join(&Value::Object(header), &vec![7; covered.len()]);
        prop_assert_eq!(read(&file), tiles);
    }

    #[test]
    fn sound_files_are_accepted(sizes in prop::collection::vec(0usize..9, 0..6)) {
        prop_assert!(read(&sound(&sizes)));
    }
}

#[test]
fn deep_nesting_is_refused() {
    let json = "[".repeat(100_000);
    let file = [&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat();
    assert!(!read(&file));
    let json = format!("{{\"__metadata__\":{}", "[".repeat(100_000));
    let file = [&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat();
    assert!(!read(&file));
}

//! Weights that are not numbers.
//!
//! One NaN makes every answer "!!!!" without an error anywhere; here it gets its tensor's name.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use arrcoc_bundle::Bundle;
use serde::Serialize;

use super::VerifyError;
use crate::onnx::{
    self, BOOL, FLOAT, FLOAT8E4M3FN, FLOAT16, INT4, INT8, INT32, INT64, Location, UINT4, UINT8,
};
use crate::progress::Progress;

const CHUNK_BYTES: usize = 1 << 20;

/// What the scan of all weights found.
#[derive(Debug, Default, Serialize)]
pub struct WeightReport {
    /// Tensors looked at.
    pub tensors: usize,
    /// Their elements.
    pub elements: u64,
    /// Tensors with NaN or infinite elements.
    pub not_finite: Vec<NotFinite>,
}

/// A tensor with elements that are not finite numbers.
#[derive(Debug, Serialize)]
pub struct NotFinite {
    /// Graph that uses it.
    pub graph: String,
    /// Tensor: the checkpoint's name for it.
    pub tensor: String,
    /// How many elements are not finite.
    pub count: u64,
    /// Row-major index of the first one.
    pub first: u64,
}

/// How floats of a type are told from what is no finite number.
#[derive(Debug, Clone, Copy)]
struct FloatFormat {
    /// Bytes.
    size: usize,
    /// Bits in the upper two bytes (of one byte: in that one) that NaN and infinity have all of: the
    /// exponent's, or, where there are no infinities, the mantissa's too.
    ones: u16,
}

const SINGLE: FloatFormat = FloatFormat { size: 4, ones: 0x7f80 };
const HALF: FloatFormat = FloatFormat { size: 2, ones: 0x7c00 };
const E4M3: FloatFormat = FloatFormat { size: 1, ones: 0x7f };

/// Elements that are not finite, in one tensor.
#[derive(Debug)]
struct Scan {
    format: FloatFormat,
    elements: u64,
    count: u64,
    first: Option<u64>,
}

impl Scan {
    fn new(format: FloatFormat) -> Self {
        Self { format, elements: 0, count: 0, first: None }
    }

    /// Looks at the next little-endian floats.
    fn feed(&mut self, bytes: &[u8]) {
        let FloatFormat { size, ones } = self.format;
        // Counting without branches keeps the loop at memory speed.
        let upper = |float: &[u8]| match size {
            1 => u16::from(float[0]),
            _ => u16::from_le_bytes([float[size - 2], float[size - 1]]),
        };
        let is_wild = |float: &[u8]| upper(float) & ones == ones;
        let wild = bytes.chunks_exact(size).map(|float| u64::from(is_wild(float))).sum::<u64>();
        if wild > 0 && self.first.is_none() {
            self.first = bytes.chunks_exact(size).position(is_wild).map(|i| self.elements + i as u64);
        }
        self.count += wild;
        self.elements += (bytes.len() / size) as u64;
    }
}

/// Looks at every weight of the bundle once, shared ones included.
pub(super) fn scan(bundle: &Bundle, progress: Progress) -> Result<WeightReport, VerifyError> {
    let mut report = WeightReport::default();
    let mut seen: HashSet<Location> = HashSet::new();
    let data_bytes = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len());
    let total = bundle.manifest().files.values().map(|path| data_bytes(path)).sum();
    let mut step = progress.step("weights", total);
    for (graph, file) in &bundle.manifest().graphs {
        for tensor in &onnx::read(&file.path)?.initializers {
            let format = match tensor.data_type {
                FLOAT => SINGLE,
                FLOAT16 => HALF,
                FLOAT8E4M3FN => E4M3,
                // Whole numbers and truth values are always finite.
                UINT4 | INT4 | UINT8 | INT8 | INT32 | INT64 | BOOL => continue,
                // Another precision needs a scan of its own: passing over it would call garbage finite.
                found => return Err(VerifyError::WeightType { tensor: tensor.name.clone(), found }),
            };
            let mut scan = Scan::new(format);
            match tensor.location(&file.path)? {
                Some(place) if !seen.insert(place.clone()) => continue,
                Some(place) => {
                    let path = bundle.file_path(&place.file)?;
                    scan_external(path, &place, &mut scan)
                        .map_err(|source| VerifyError::Read { path: path.to_owned(), source })?;
                    step.advance(place.length);
                }
                None => scan.feed(&tensor.raw_data),
            }
            report.tensors += 1;
            report.elements += scan.elements;
            report.not_finite.extend(scan.first.map(|first| NotFinite {
                graph: graph.clone(),
                tensor: tensor.name.clone(),
                count: scan.count,
                first,
            }));
        }
    }
    step.finish();
    Ok(report)
}

fn scan_external(path: &Path, place: &Location, scan: &mut Scan) -> std::io::Result<()> {
    let file = File::open(path)?;
    let mut buffer = vec![0; CHUNK_BYTES];
    let (mut at, end) = (place.offset, place.offset.saturating_add(place.length));
    while at < end {
        let chunk = &mut buffer[..CHUNK_BYTES.min((end - at) as usize)];
        file.read_exact_at(chunk, at)?;
        scan.feed(chunk);
        at += chunk.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nan_and_infinity_are_counted_and_placed() {
        let mut scan = Scan::new(SINGLE);
        let bytes = |floats: &[f32]| floats.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>();
        scan.feed(&bytes(&[0.0, -1.0, f32::MAX, f32::MIN_POSITIVE / 2.0]));
        assert_eq!((scan.count, scan.first), (0, None));
        scan.feed(&bytes(&[1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY]));
        assert_eq!((scan.elements, scan.count, scan.first), (8, 3, Some(5)));

        let mut scan = Scan::new(HALF);
        let halves = [half::f16::MAX, half::f16::MIN_POSITIVE, half::f16::INFINITY, half::f16::NAN];
        scan.feed(&halves.map(half::f16::to_le_bytes).concat());
        assert_eq!((scan.elements, scan.count, scan.first), (4, 2, Some(2)));

        let mut scan = Scan::new(E4M3);
        scan.feed(&[0, 0x7e, 0xfe, 0x7f, 0xff]);
        assert_eq!((scan.elements, scan.count, scan.first), (5, 2, Some(3)));
    }
}

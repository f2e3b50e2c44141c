//! PIL's `resize` with `BILINEAR` on bytes, in PIL's own fixed-point arithmetic, so that the encoder sees byte for byte
//! what it was trained on. (General resizing libraries round differently: up to 2 levels where they enlarge.)
//!
//! After `src/libImaging/Resample.c` of Pillow: a triangle filter as wide as the picture shrinks, weights of 22 bits,
//! rows first, rounded to bytes, then columns.

use ::image::RgbImage;
use rayon::prelude::*;

const CHANNELS: usize = 3;
const BITS: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (BITS - 1);

/// The source pixels of one target pixel: where they begin, and their weights.
struct Window {
    start: usize,
    weights: Vec<i32>,
}

/// Resizes to `width` x `height` pixels.
pub(crate) fn resize(image: &RgbImage, width: usize, height: usize) -> Vec<u8> {
    let (source_width, source_height) = (image.width() as usize, image.height() as usize);
    let narrowed = if width == source_width {
        None
    } else {
        Some(resize_rows(image.as_raw(), source_width, &windows(source_width, width)))
    };
    let narrowed = narrowed.as_deref().unwrap_or(image.as_raw());
    if height == source_height {
        return narrowed.to_vec();
    }
    resize_columns(narrowed, width, &windows(source_height, height))
}

fn windows(source: usize, target: usize) -> Vec<Window> {
    let scale = source as f64 / target as f64;
    let support = scale.max(1.0);
    let window = |at: usize| {
        let center = (at as f64 + 0.5) * scale;
        // Casts saturate at 0.
        let start = (center - support + 0.5) as usize;
        let end = ((center + support + 0.5) as usize).min(source);
        let triangle = |at: usize| (1.0 - ((at as f64 - center + 0.5) / support).abs()).max(0.0);
        let sum: f64 = (start..end).map(triangle).sum();
        let fixed = |weight: f64| (weight / sum * f64::from(1 << BITS) + 0.5) as i32;
        Window { start, weights: (start..end).map(|at| fixed(triangle(at))).collect() }
    };
    (0..target).map(window).collect()
}

fn resize_rows(pixels: &[u8], width: usize, windows: &[Window]) -> Vec<u8> {
    let mut target = vec![0; pixels.len() / width * windows.len()];
    let lines = target.par_chunks_exact_mut(windows.len() * CHANNELS);
    lines.zip(pixels.par_chunks_exact(width * CHANNELS)).for_each(|(line, source)| {
        for (pixel, window) in line.chunks_exact_mut(CHANNELS).zip(windows) {
            let mut sums = [HALF; CHANNELS];
            for (weight, source) in
                window.weights.iter().zip(source[window.start * CHANNELS..].chunks_exact(CHANNELS))
            {
                for (sum, byte) in sums.iter_mut().zip(source) {
                    *sum += weight * i32::from(*byte);
                }
            }
            pixel.copy_from_slice(&sums.map(to_byte));
        }
    });
    target
}

fn resize_columns(pixels: &[u8], width: usize, windows: &[Window]) -> Vec<u8> {
    let stride = width * CHANNELS;
    let mut target = vec![0; windows.len() * stride];
    target.par_chunks_exact_mut(stride).zip(windows).for_each(|(line, window)| {
        let mut sums = vec![HALF; stride];
        for (weight, source) in
            window.weights.iter().zip(pixels[window.start * stride..].chunks_exact(stride))
        {
            for (sum, byte) in sums.iter_mut().zip(source) {
                *sum += weight * i32::from(*byte);
            }
        }
        for (byte, sum) in line.iter_mut().zip(sums) {
            *byte = to_byte(sum);
        }
    });
    target
}

fn to_byte(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

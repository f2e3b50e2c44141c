//! PIL's `resize` on bytes, in PIL's own fixed-point arithmetic, so that the encoder sees byte for byte
//! what it was trained on. (General resizing libraries round differently: up to 2 levels where they enlarge.)
//!
//! After `src/libImaging/Resample.c` of Pillow: a filter as wide as the picture shrinks, weights of 22 bits,
//! one axis after the other, rounded to bytes in between.

use ::image::RgbImage;
use arrcoc_bundle::processors::Resampling;
use rayon::prelude::*;

use super::allocate::{self, NoMemory};

const CHANNELS: usize = 3;
const BITS: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (BITS - 1);

/// The source pixels of one target pixel: where they begin, and their weights.
struct Window {
    start: usize,
    weights: Vec<i32>,
}

/// The support of a filter, in source pixels where nothing shrinks, and the filter.
fn kernel(filter: Resampling) -> (f64, fn(f64) -> f64) {
    match filter {
        Resampling::Bilinear => (1.0, triangle),
        Resampling::Bicubic => (2.0, keys),
        Resampling::Lanczos => (3.0, lanczos),
    }
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

/// Keys' cubic with a = -0.5.
fn keys(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// A sinc under the middle of a wider one.
fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| {
        if x == 0.0 {
            return 1.0;
        }
        let x = x * std::f64::consts::PI;
        x.sin() / x
    };
    if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

/// The bytes of an image of `width` x `height` pixels: resized, or as they are where it has that size.
///
/// # Errors
/// [`NoMemory`].
pub(crate) fn brought_to(
    image: &RgbImage,
    width: usize,
    height: usize,
    filter: Resampling,
) -> Result<Vec<u8>, NoMemory> {
    match (image.width() as usize, image.height() as usize) == (width, height) {
        true => allocate::copied(image.as_raw()),
        false => resize(image, width, height, filter),
    }
}

/// Resizes to `width` x `height` pixels.
///
/// # Errors
/// [`NoMemory`].
pub(crate) fn resize(
    image: &RgbImage,
    width: usize,
    height: usize,
    filter: Resampling,
) -> Result<Vec<u8>, NoMemory> {
    let (source_width, source_height) = (image.width() as usize, image.height() as usize);
    let (lines, columns) = (height != source_height, width != source_width);
    let rows = |pixels: &[u8]| resize_rows(pixels, source_width, &windows(source_width, width, filter)?);
    let columns_of =
        |pixels: &[u8], width| resize_columns(pixels, width, &windows(source_height, height, filter)?);
    let pixels = image.as_raw();
    match (columns, lines) {
        (false, false) => allocate::copied(pixels),
        (true, false) => rows(pixels),
        (false, true) => columns_of(pixels, width),
        (true, true) if columns_first([source_width, source_height], [width, height]) => {
            rows(&columns_of(pixels, source_width)?)
        }
        (true, true) => columns_of(&rows(pixels)?, width),
    }
}

/// Whether Pillow (13 and later) squeezes the columns before the rows: where the height loses more than twice
/// as many pixels as the width. Each pass is rounded to bytes, so the order can be seen.
fn columns_first([source_width, source_height]: [usize; 2], [width, height]: [usize; 2]) -> bool {
    let (narrower, lower) = (source_width as i64 - width as i64, source_height as i64 - height as i64);
    lower > 0 && lower > 2 * narrower
}

fn windows(source: usize, target: usize, filter: Resampling) -> Result<Vec<Window>, NoMemory> {
    let (support, weight) = kernel(filter);
    let scale = source as f64 / target as f64;
    let widening = scale.max(1.0);
    let (support, narrowing) = (support * widening, 1.0 / widening);
    let mut windows = allocate::room(target)?;
    for at in 0..target {
        let center = (at as f64 + 0.5) * scale;
        // Casts saturate at 0.
        let start = (center - support + 0.5) as usize;
        let end = ((center + support + 0.5) as usize).min(source);
        let weight = |at: usize| weight((at as f64 - center + 0.5) * narrowing);
        let sum: f64 = (start..end).map(weight).sum();
        // Away from zero; casts cut off.
        let fixed = |weight: f64| {
            let weight = weight / sum * f64::from(1 << BITS);
            (weight + 0.5_f64.copysign(weight)) as i32
        };
        let mut weights = allocate::room(end - start)?;
        weights.extend((start..end).map(|at| fixed(weight(at))));
        windows.push(Window { start, weights });
    }
    Ok(windows)
}

fn resize_rows(pixels: &[u8], width: usize, windows: &[Window]) -> Result<Vec<u8>, NoMemory> {
    let mut target = allocate::filled(pixels.len() / width * windows.len(), 0)?;
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
    Ok(target)
}

fn resize_columns(pixels: &[u8], width: usize, windows: &[Window]) -> Result<Vec<u8>, NoMemory> {
    let stride = width * CHANNELS;
    let mut target = allocate::filled(windows.len() * stride, 0)?;
    target.par_chunks_exact_mut(stride).zip(windows).try_for_each(|(line, window)| {
        let mut sums = allocate::filled(stride, HALF)?;
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
        Ok(())
    })?;
    Ok(target)
}

fn to_byte(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

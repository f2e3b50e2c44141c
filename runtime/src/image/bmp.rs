//! Whether a run-length encoded BMP holds all of its pixels. The decoder leaves black what is missing; PIL
//! refuses it.

use std::borrow::Cow;

use super::{Unusable, allocate};

/// Counts the pixels of a run-length encoded BMP as PIL's decoder does, and gives it the mark of its end,
/// which PIL does not ask for; other files are for the decoder to judge.
///
/// # Errors
/// [`Unusable`] says how many pixels are missing.
pub(super) fn split(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Unusable> {
    let u32_at = |at: usize| {
        let bytes = bytes.get(at..at + 4)?;
        Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    let header = || Some((u32_at(10)?, u32_at(14)?, u32_at(18)?, u32_at(22)?, u32_at(30)?));
    let Some((offset, size, width, height, compression @ (1 | 2))) = header() else {
        return Ok(Cow::Borrowed(bytes));
    };
    // The oldest header has no compression.
    if size < 40 {
        return Ok(Cow::Borrowed(bytes));
    }
    // A negative height stands for lines from top to bottom.
    let height = (height as i32).unsigned_abs();
    let expected = u64::from(width) * u64::from(height);
    let data = bytes.get(offset as usize..).unwrap_or_default();
    let found = count(data, offset, u64::from(width), expected, compression == 2);
    if found < expected {
        return Err(format!("it holds {found} of {expected} pixels").into());
    }
    let mut whole = allocate::room(bytes.len() + 2)?;
    whole.extend_from_slice(bytes);
    whole.extend_from_slice(&[0, 1]);
    Ok(Cow::Owned(whole))
}

/// Pixels that the runs of `data` make, up to `wanted`.
fn count(data: &[u8], offset: u32, width: u64, wanted: u64, four_bits: bool) -> u64 {
    let (mut at, mut x, mut pixels) = (0, 0_u64, 0_u64);
    while pixels < wanted {
        let Some(&[run, value]) = data.get(at..at + 2) else { break };
        at += 2;
        match (run, value) {
            (0, 0) => {
                pixels = pixels.next_multiple_of(width.max(1));
                x = 0;
            }
            (0, 1) => break,
            (0, 2) => {
                let Some(&[right, up]) = data.get(at..at + 2) else { break };
                at += 2;
                pixels = wanted.min(pixels + u64::from(right) + u64::from(up) * width);
                x = pixels % width.max(1);
            }
            (0, length) => {
                let most = (wanted - pixels).min(u64::from(length));
                let bytes = if four_bits { most.div_ceil(2) } else { most };
                let found = bytes.min((data.len() - at) as u64);
                at += found as usize;
                pixels += if four_bits { (found * 2).min(most) } else { found };
                if found < bytes {
                    break;
                }
                x += u64::from(length);
                // Runs begin at even places of the file.
                at += (offset as usize + at) % 2;
            }
            (run, _) => {
                let run = u64::from(run).min(width.saturating_sub(x));
                pixels += run;
                x += run;
            }
        }
    }
    pixels
}

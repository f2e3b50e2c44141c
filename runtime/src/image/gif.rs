//! Whether a GIF holds the whole of its first frame, and how large that is. The decoder takes a frame whose
//! end is missing; PIL refuses it.

/// Walks from block to block up to the end of the first frame's data; returns width and height of the frame,
/// which may differ from the picture's.
///
/// # Errors
/// What is missing.
pub(super) fn check(bytes: &[u8]) -> Result<(u32, u32), String> {
    const TRAILER: u8 = b';';
    let ends = || format!("it ends after {} bytes, inside or before its first frame", bytes.len());
    let table = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    let byte = |at: usize| bytes.get(at).copied().ok_or_else(ends);
    // Signature, size, flags of the colour table, background, aspect.
    let mut at = 13 + table(byte(10)?);
    loop {
        match byte(at)? {
            b'!' => at = blocks_end(bytes, at + 2).ok_or_else(ends)?,
            b',' => {
                // Place, size, flags of the colour table, length of the first codes.
                let data = at + 11 + table(byte(at + 9)?);
                let side = |low: u8, high: u8| u32::from(low) | u32::from(high) << 8;
                let width = side(byte(at + 5)?, byte(at + 6)?);
                let height = side(byte(at + 7)?, byte(at + 8)?);
                // The block that ends the data may be missing, but not a part of the last block before it.
                return blocks_end(bytes, data).map(|_| (width, height)).ok_or_else(ends);
            }
            TRAILER => return Err("it holds no frame".to_owned()),
            _ => at += 1,
        }
    }
}

/// Where the blocks that begin at `at` end: behind a block without bytes, of which there may be one behind
/// the file's end.
fn blocks_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    while at < bytes.len() {
        let length = usize::from(bytes[at]);
        at += 1 + length;
        if length == 0 {
            return Some(at);
        }
    }
    (at == bytes.len()).then_some(at + 1)
}

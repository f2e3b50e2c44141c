//! Memory whose size follows from a picture. Where the system does not give it, the request fails and the
//! process goes on.

/// Memory that the system did not give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoMemory {
    /// How much was asked for.
    pub(crate) bytes: usize,
}

/// An empty list with room for `length` elements.
///
/// # Errors
/// [`NoMemory`].
pub(crate) fn room<T>(length: usize) -> Result<Vec<T>, NoMemory> {
    let mut list = Vec::new();
    reserve(&mut list, length)?;
    Ok(list)
}

/// `length` times the same value.
///
/// # Errors
/// [`NoMemory`].
pub(crate) fn filled<T: Copy>(length: usize, value: T) -> Result<Vec<T>, NoMemory> {
    let mut list = room(length)?;
    list.resize(length, value);
    Ok(list)
}

/// Makes room for this many elements more.
///
/// # Errors
/// [`NoMemory`].
pub(crate) fn reserve<T>(list: &mut Vec<T>, more: usize) -> Result<(), NoMemory> {
    let bytes = list.len().saturating_add(more).saturating_mul(size_of::<T>());
    list.try_reserve_exact(more).map_err(|_| NoMemory { bytes })
}

/// A list with a slice's elements.
///
/// # Errors
/// [`NoMemory`].
pub(crate) fn copied<T: Copy>(from: &[T]) -> Result<Vec<T>, NoMemory> {
    let mut list = room(from.len())?;
    list.extend_from_slice(from);
    Ok(list)
}

/// Whether `bytes` are to be had, for a library that would end the process if they were not. They are given
/// back at once: another thread may be faster, so whoever asks leaves some room.
///
/// # Errors
/// [`NoMemory`].
pub(crate) fn expect(bytes: usize) -> Result<(), NoMemory> {
    room::<u8>(bytes).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::ImageError;

    #[test]
    fn what_is_not_to_be_had_is_an_error_that_says_how_much() {
        assert_eq!(filled(3, 7), Ok(vec![7; 3]));
        assert_eq!(copied(&[1, 2]), Ok(vec![1, 2]));
        assert_eq!(room::<u32>(usize::MAX / 4), Err(NoMemory { bytes: usize::MAX / 4 * 4 }));
        assert_eq!(filled(usize::MAX, 0_u64), Err(NoMemory { bytes: usize::MAX }));
        assert_eq!(expect(usize::MAX), Err(NoMemory { bytes: usize::MAX }));
        let mut list = vec![0_u16; 2];
        assert_eq!(reserve(&mut list, isize::MAX as usize), Err(NoMemory { bytes: usize::MAX }));
        let text = ImageError::from(NoMemory { bytes: 12_000 }).to_string();
        assert!(text.contains("12000 bytes") && text.contains("later"), "{text}");
    }
}

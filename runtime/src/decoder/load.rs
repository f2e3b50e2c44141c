//! The decoder of a bundle, for whoever loads a model.

use arrcoc_bundle::manifest::{DecoderSpec, RecurrentSpec};
use arrcoc_bundle::{Bundle, Role};

use super::Decoder;
use super::fused::Fused;
use super::portable::Portable;
use crate::error::LoadError;
use crate::library::{Library, LibraryError};
use crate::tensor::{ElementType, TensorError};

/// Loads the decoder of a bundle, in the flavour of its target.
///
/// # Errors
/// [`LoadError`] when the graph does not load.
pub fn load(
    bundle: &Bundle,
    runtime: &dyn Library,
    slots: usize,
    capacity: usize,
) -> Result<Box<dyn Decoder>, LoadError> {
    let graph = runtime.load_from(bundle, bundle.manifest().only(Role::Decoder))?;
    let spec = &bundle.manifest().decoder;
    let decoder: Result<Box<dyn Decoder>, LibraryError> = match bundle.manifest().target.shares_cache() {
        true => Fused::new(graph, spec, slots, capacity).map(|fused| Box::new(fused) as _),
        false => Portable::new(graph, spec, slots, capacity)
            .map(|portable| Box::new(portable) as _)
            .map_err(LibraryError::from),
    };
    decoder.map_err(|error| match error {
        LibraryError::Tensor(TensorError::Memory { .. }) => {
            LoadError::KvCache { bytes: kv_bytes(spec, slots, capacity) }
        }
        error => error.into(),
    })
}

/// Keys and values of every layer that has some, and what recurrent layers remember: now, and at the end of
/// the prompt. A manifest and a configuration may ask for more than numbers hold.
pub fn kv_bytes(spec: &DecoderSpec, slots: usize, capacity: usize) -> u64 {
    let element = ElementType::from(spec.cache_element).size();
    let layers = spec.attention_layers().count();
    let factors = [layers, spec.kv_heads, spec.head_dim, element, slots, capacity];
    let cached = factors.into_iter().fold(2, |bytes: u64, factor| bytes.saturating_mul(factor as u64));
    cached.saturating_add(state_bytes(spec).saturating_mul(2).saturating_mul(slots as u64))
}

/// What the recurrent layers remember of a slot; nothing where there are none.
pub fn state_bytes(spec: &DecoderSpec) -> u64 {
    let numbers = spec.recurrent.as_ref().map_or(0, RecurrentSpec::numbers);
    numbers.saturating_mul(ElementType::F32.size() as u64)
}

//! The decoder of a bundle, for whoever loads a model.

use arrcoc_bundle::manifest::DecoderSpec;
use arrcoc_bundle::{Bundle, Role, Target};

use super::Decoder;
use super::fused::Fused;
use super::portable::Portable;
use crate::error::LoadError;
use crate::library::Library;
use crate::tensor::ElementType;

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
    Ok(match bundle.manifest().target {
        Target::Cpu => {
            let bytes = kv_bytes(spec, slots, capacity);
            let fused = Fused::new(graph, spec, slots, capacity);
            Box::new(fused.map_err(|_| LoadError::KvCache { bytes })?)
        }
        Target::Portable => Box::new(Portable::new(graph, spec, slots, capacity)),
    })
}

/// Keys and values of every layer. A manifest and a configuration may ask for more than numbers hold.
pub fn kv_bytes(spec: &DecoderSpec, slots: usize, capacity: usize) -> u64 {
    let element = ElementType::from(spec.cache_element).size();
    let factors = [spec.layers, spec.kv_heads, spec.head_dim, element, slots, capacity];
    factors.into_iter().fold(2, |bytes: u64, factor| bytes.saturating_mul(factor as u64))
}

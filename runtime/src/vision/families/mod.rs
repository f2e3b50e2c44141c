//! The families of checkpoints that the runtime can prepare pictures for: one file each, and one line here.

use arrcoc_bundle::Manifest;

use super::VisionOptions;
use super::family::Family;
use crate::error::LoadError;

pub mod arr_coc_ovis;
mod idefics3;

/// All of them.
const FAMILIES: &[&dyn Family] = &[&arr_coc_ovis::ArrCocOvis, &idefics3::Idefics3];

/// The family of a bundle, whose section has been checked.
///
/// # Errors
/// [`LoadError::Family`] for a family that this version does not know, [`LoadError::Bundle`] for a section that makes no sense.
pub(crate) fn of(manifest: &Manifest) -> Result<&'static dyn Family, LoadError> {
    let known = FAMILIES.iter().find(|family| family.names().contains(&manifest.family.as_str()));
    let Some(family) = known else {
        let known = FAMILIES.iter().flat_map(|family| family.names()).copied().collect::<Vec<_>>().join(", ");
        return Err(LoadError::Family { found: manifest.family.clone(), known });
    };
    family.check(manifest)?;
    Ok(*family)
}

/// Refuses an input size of the encoder where the family has only one: what is set is never silently ignored.
///
/// # Errors
/// [`LoadError::Options`] names the families that have several.
pub(crate) fn check_image_size(
    family: &dyn Family,
    manifest: &Manifest,
    options: &VisionOptions,
) -> Result<(), LoadError> {
    let Some(found) = options.image_size.filter(|_| !family.has_image_sizes()) else { return Ok(()) };
    let several = FAMILIES.iter().filter(|family| family.has_image_sizes());
    let several = several.flat_map(|family| family.names()).copied().collect::<Vec<_>>().join(", ");
    let expected = format!(
        "none for a bundle of the family `{}`, whose encoder has one input size; only {several} has several",
        manifest.family
    );
    Err(LoadError::Options { what: "image_size", expected, found: found.to_string() })
}

//! The families of checkpoints that the runtime can prepare pictures for: one file each, and one line here.

use arrcoc_bundle::Manifest;

use super::VisionOptions;
use super::family::Family;
use crate::error::LoadError;

pub mod arr_coc_ovis;
mod idefics3;
mod qwen_vl;

/// All of them.
const FAMILIES: &[&dyn Family] = &[&arr_coc_ovis::ArrCocOvis, &idefics3::Idefics3, &qwen_vl::QwenVl];

/// The family of a bundle, whose section has been checked.
///
/// # Errors
/// [`LoadError::Family`] for a family that this version does not know, [`LoadError::Bundle`] for a section
/// that makes no sense.
pub(crate) fn of(manifest: &Manifest) -> Result<&'static dyn Family, LoadError> {
    let known = FAMILIES.iter().find(|family| family.names().contains(&manifest.family.as_str()));
    let Some(family) = known else {
        let known = FAMILIES.iter().flat_map(|family| family.names()).copied().collect::<Vec<_>>().join(", ");
        return Err(LoadError::Family { found: manifest.family.clone(), known });
    };
    family.check(manifest)?;
    Ok(*family)
}

/// Checks what a manifest says of its family, as loading does.
///
/// # Errors
/// As loading fails.
pub fn check(manifest: &Manifest) -> Result<(), LoadError> {
    of(manifest).map(drop)
}

/// Refuses an input size of the encoder where the family has only one: what is set is never silently ignored.
///
/// # Errors
/// [`LoadError::Options`] names the families that have several.
pub(crate) fn check_image_size(
    family: &dyn Family,
    name: &str,
    options: &VisionOptions,
) -> Result<(), LoadError> {
    let Some(found) = options.image_size.filter(|_| !family.has_image_sizes()) else { return Ok(()) };
    let several = FAMILIES.iter().filter(|family| family.has_image_sizes());
    let several = several.flat_map(|family| family.names()).copied().collect::<Vec<_>>().join(", ");
    let expected = format!(
        "none for a bundle of the family `{name}`: only {several} has several input sizes to choose from"
    );
    Err(LoadError::Options { what: "image_size", expected, found: found.to_string() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Every family is asked; the message names those for which a size counts.
    #[test]
    fn an_input_size_is_refused_where_there_is_only_one() {
        let some = VisionOptions { image_size: Some(512), ..VisionOptions::default() };
        for family in FAMILIES {
            let refused = check_image_size(*family, "of_this_one", &some).err();
            assert_eq!(refused.is_none(), family.has_image_sizes(), "{:?}", family.names());
            if let Some(error) = refused {
                let text = error.to_string();
                for part in ["image_size", "`of_this_one`", "arr_coc_ovis", "found 512"] {
                    assert!(text.contains(part), "`{part}` is missing in: {text}");
                }
            }
            check_image_size(*family, "of_this_one", &VisionOptions::default()).unwrap();
        }
    }
}

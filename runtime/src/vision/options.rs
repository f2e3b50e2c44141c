//! What can be set of the vision side; every family gets the whole of it.

use crate::generate::Budget;
use crate::image::ImageLimits;

/// How to run the vision side.
#[derive(Debug, Clone)]
pub struct VisionOptions {
    /// Square input size of the encoder, pixels, for families that have several; the bundle lists them.
    /// `None` takes the native one.
    pub image_size: Option<usize>,
    /// What an image may cost.
    pub limits: ImageLimits,
    /// What images get whose request does not say; the family's own unless set.
    pub budget: Option<Budget>,
    /// Bound of the image-feature cache, bytes; 0 turns it off.
    pub feature_cache_bytes: usize,
    /// Bound of the visual-token cache, bytes; 0 turns it off.
    pub token_cache_bytes: usize,
}

impl Default for VisionOptions {
    fn default() -> Self {
        Self {
            image_size: None,
            limits: ImageLimits::default(),
            budget: None,
            feature_cache_bytes: 256 << 20,
            token_cache_bytes: 64 << 20,
        }
    }
}

//! Whole pictures, for whoever chooses among their rows by other means than a request has: an evaluation.

use std::time::Duration;

use super::family::{Ask, Grant};
use super::stages::Stages;
use super::{Encoded, Image, ImagePlan, Prepared, Refusal, State, Vision, Visual};
use crate::generate::{NoObserver, Stage};
use crate::image::ImageError;
use crate::library::LibraryError;
use crate::selection::Evidence;
use crate::tensor::Tensor;

/// All rows of a picture, and what choosing among them goes by besides.
pub struct Whole {
    /// The rows.
    pub visual: Visual,
    /// What the pixels say, for [`crate::selection::choose`].
    pub evidence: Option<Evidence>,
    /// Stages that ran; none of those that the cache of features made needless.
    pub stages: Vec<(Stage, Duration)>,
}

/// A picture that there are no rows of.
#[derive(Debug, thiserror::Error)]
pub enum WholeError {
    /// The model does not see pictures so.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The file.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A graph failed.
    #[error(transparent)]
    Library(#[from] LibraryError),
}

impl Vision {
    /// What stands in a picture's place in a prompt where all of its rows may be kept; only the file's header
    /// is read.
    ///
    /// # Errors
    /// [`WholeError::Refused`] or [`WholeError::Image`].
    pub fn whole_plan(&self, image: &Image) -> Result<ImagePlan, WholeError> {
        self.pictures.check(&image.sizing)?;
        Ok(self.pictures.plan(image, Grant::Full)?)
    }

    /// All rows of a picture. The encoder runs once: features are cached as those of requests are.
    ///
    /// # Errors
    /// [`WholeError`].
    pub fn whole(&mut self, image: &Image) -> Result<Whole, WholeError> {
        self.pictures.check(&image.sizing)?;
        let (grant, question) = (Grant::Full, Tensor::from_vec(&[1, 0, 0], Vec::<f32>::new()));
        let keys = self.pictures.keys(&image.file, self.pictures.picture(image)?, &[], grant);
        let cached = self.pictures.caches().features.get(&keys.features);
        let (state, mut ran) = match cached {
            Some(encoded) => (State::Encoded(encoded), Vec::new()),
            None => {
                let prepared = self.pictures.prepare_file(image, keys, grant, &NoObserver)?;
                let Prepared { state, stages, .. } = prepared;
                (state, stages)
            }
        };
        let mut stages = Stages::new(&NoObserver);
        let encoded = self.encoded(state, &keys, &mut stages)?;
        let Encoded { features, evidence } = encoded.as_ref();
        let question = question.map_err(LibraryError::from)?;
        let mut visual = self.model.embed(features, &Ask { question: &question, grant }, &mut stages)?;
        visual.positions = self.model.positions(features, &visual);
        ran.extend(stages.into_ran());
        Ok(Whole { visual, evidence: evidence.clone(), stages: ran })
    }
}

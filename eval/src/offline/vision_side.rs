//! What an arm needs of a row, and what it makes of it: the contract of the two kinds of vision sides.

use std::collections::HashMap;
use std::hash::Hash;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::arm_budget::{ArmBudget, Unsupported};
use super::capacity::Capacity;
use super::{OfflineError, Question};
use crate::arms::{Arm, Positions};
use crate::neck::NeckFileError;
use crate::times::StageTimes;
use arrcoc_runtime::generate::{Budget, Image};
use arrcoc_runtime::image::DecodedImage;
use arrcoc_runtime::prompt::Layout;
use arrcoc_runtime::vision::Visual;

/// What makes visual tokens by arms. There are two: a composite's graphs with other relevances in the
/// allocator's place, and a stock model's rows, some of which are kept.
pub(super) trait VisionSide {
    /// The arms that `all` stands for, in the order of reports.
    fn arms(&self) -> Vec<Arm>;

    /// Whether there is such an arm.
    fn has(&self, arm: Arm) -> bool;

    /// The positions that there are.
    fn positions(&self) -> &'static [Positions];

    /// Checks that an arm can have a budget; what means the same comes out the same.
    ///
    /// # Errors
    /// [`Unsupported`] says why it cannot.
    fn arm_budget(&self, arm: Arm, budget: Budget) -> Result<ArmBudget, Unsupported>;

    /// Makes the visual tokens of an example.
    ///
    /// # Errors
    /// [`OfflineError::MissingInput`] when the example has not what the arm needs, or an engine's error.
    fn visual_tokens(
        &mut self,
        example: &Example,
        arm_budget: ArmBudget,
        positions: Positions,
    ) -> Result<VisualTokens, OfflineError>;

    /// What there is room for, where patches lie in a fixed grid.
    fn capacity(&self) -> Option<&Capacity> {
        None
    }

    /// Encoder input, pixels, where there is one size.
    fn image_size(&self) -> Option<usize> {
        None
    }

    /// Reads the trained neck of the grid; its SHA-256, hex.
    ///
    /// # Errors
    /// [`NeckFileError`] where the file holds none, or there is no grid.
    fn read_neck(&mut self, path: &Path) -> Result<String, NeckFileError> {
        Err(NeckFileError::NoGrid(path.to_path_buf()))
    }
}

/// A question about a picture, with what else the arms need.
pub struct Example {
    /// The picture's file.
    pub(super) image: Image,
    /// The same, decoded.
    pub(super) decoded: DecodedImage,
    pub(super) question: Question,
    /// Another row's question, for [`crate::arms::Method::Shuffled`].
    pub other: Option<Question>,
    /// The question asked before, for [`crate::arms::Method::FirstQuestion`].
    pub first: Option<Question>,
    /// Where the answer is, in pixels of the image: left, top, right, bottom.
    pub answer_box: Option<[f32; 4]>,
    /// For [`crate::arms::Method::Random`].
    pub seed: u64,
    /// Tells it from all others.
    number: u64,
}

impl Example {
    /// A question about a picture: its file, and what was decoded of it.
    pub fn new(image: impl Into<Image>, decoded: DecodedImage, question: Question) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let (other, first, answer_box, seed) = Default::default();
        Self { image: image.into(), decoded, question, other, first, answer_box, seed, number }
    }
}

/// What several arms and budgets share of one example; of the next one, nothing.
pub(super) struct Shared<K, V> {
    number: u64,
    made: HashMap<K, Arc<V>>,
}

impl<K: Eq + Hash, V> Shared<K, V> {
    pub(super) fn new() -> Self {
        Self { number: 0, made: HashMap::new() }
    }

    /// What is known of an example.
    pub(super) fn of(&mut self, example: &Example) -> &mut HashMap<K, Arc<V>> {
        if std::mem::replace(&mut self.number, example.number) != example.number {
            self.made.clear();
        }
        &mut self.made
    }
}

/// The visual tokens of an example, made by one arm.
#[derive(Debug, Clone)]
pub struct VisualTokens {
    /// The prompt that they stand in.
    pub(super) layout: Arc<Layout>,
    /// What the decoder reads, and where it stands.
    pub(super) visual: Visual,
    /// Tokens, gist cells included.
    pub tokens: usize,
    /// The adapter's tier, where there is one.
    pub tier: Option<usize>,
    /// What each token is, in the order of the tokens: an index of the patches that the arm gave, or beyond
    /// them of a gist cell; of a stock model, of all rows of the picture.
    pub indices: Vec<i64>,
    /// Of the patches where the answer is, the share that became tokens; `None` without an answer box, or
    /// where tokens are not patches of the picture.
    pub recall: Option<f64>,
    /// Time per stage of the vision side. The encoder runs once for all arms and questions of a picture, and
    /// has here what it took then.
    pub times: StageTimes,
}

impl VisualTokens {
    /// The tokens as the decoder reads them, row by row, `[T, H]`.
    pub fn embeds(&self) -> &[f32] {
        self.visual.rows.as_slice().unwrap_or(&[])
    }
}

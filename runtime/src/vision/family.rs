//! What a family of checkpoints must do with pictures. Read this before you add one.
//!
//! A family is three values. [`Family`] opens a bundle. Its [`Processor`] needs no graph: from a file's
//! header alone it says what stands in the picture's place in the prompt ([`ImagePlan`]), and later it makes
//! the encoder's input ([`Pixels`]), on any thread. Its [`VisionModel`] runs the graphs, on the vision
//! thread: pixels to features, which may be cached, features to the rows that the decoder reads ([`Visual`]),
//! and where these stand, unless they are counted as text is.

use std::fmt::Display;
use std::ops::Range;
use std::sync::Arc;

use arrcoc_bundle::processors::PixelScale;
use arrcoc_bundle::quote::excerpt;
use arrcoc_bundle::{Bundle, BundleError, Manifest};

use super::options::VisionOptions;
use super::stages::Stages;
use crate::decoder::{Position, Positions};
use crate::error::LoadError;
use crate::generate::{Budget, Need, Place, Receipt, Selection, Selector, Sizing};
use crate::image::{DecodedImage, ImageError};
use crate::library::{Library, LibraryError};
use crate::tensor::Tensor;

/// A family of checkpoints.
pub(crate) trait Family: Sync {
    /// The values of `model_type` that it stands for.
    fn names(&self) -> &'static [&'static str];

    /// Checks the family's section of a manifest; no graph is loaded.
    ///
    /// # Errors
    /// [`BundleError`] names the field.
    fn check(&self, manifest: &Manifest) -> Result<(), BundleError>;

    /// Whether the encoder has several input sizes, so that [`VisionOptions::image_size`] means something.
    fn has_image_sizes(&self) -> bool {
        false
    }

    /// The longest that the family's own axes get with these options, for whoever plans memory: no picture
    /// has more rows than the `context`, tokens. Axes of the decoder are not among them.
    fn longest(
        &self,
        manifest: &Manifest,
        options: &VisionOptions,
        context: usize,
    ) -> Vec<(&'static str, u64)>;

    /// Loads the graphs of the vision side.
    ///
    /// # Errors
    /// [`LoadError`] when a graph does not load, or an option does not fit the bundle.
    fn load(
        &self,
        bundle: &Bundle,
        library: &dyn Library,
        options: &VisionOptions,
    ) -> Result<LoadedFamily, LoadError>;
}

/// A family, ready for pictures.
pub(crate) struct LoadedFamily {
    pub(crate) processor: Arc<dyn Processor>,
    pub(crate) model: Box<dyn VisionModel>,
}

/// The part of a family that needs no graph; any thread may use it.
pub(crate) trait Processor: Send + Sync {
    /// Budgets that a request may name, ascending; empty where any will do.
    fn budgets(&self) -> &[usize] {
        &[]
    }

    /// What images get whose request does not say: the model as its checkpoint has it.
    fn default_budget(&self) -> Budget {
        Budget::Full
    }

    /// How a request may have tokens chosen; none where the model has an allocator of its own.
    fn selectors(&self) -> &'static [Selector] {
        &Selector::ALL
    }

    /// What a budget means here.
    ///
    /// # Errors
    /// [`Refusal`] when it is none of the model's.
    fn grant(&self, budget: Budget, selection: &Selection) -> Result<Grant, Refusal> {
        Ok(match budget {
            Budget::Full => Grant::Full,
            budget => Grant::Choose(Choice { budget, selection: *selection, need: None }),
        })
    }

    /// Whether pictures can be seen so; what passes makes none larger than the largest that the model was
    /// loaded for. By default all are prepared alike.
    ///
    /// # Errors
    /// [`Refusal`] when an argument means nothing here, or too much.
    fn check(&self, sizing: &Sizing) -> Result<(), Refusal> {
        let Some(name) = sizing.set() else { return Ok(()) };
        let expected = "nothing: all pictures of this model are prepared alike".to_owned();
        Err(Refusal { field: SIZING, expected, found: format!("`{name}`") })
    }

    /// What stands in a picture's place in the prompt.
    ///
    /// # Errors
    /// [`ImageError`] for a picture that the family cannot take.
    fn plan(&self, picture: Picture, grant: Grant) -> Result<ImagePlan, ImageError>;

    /// What the encoder reads.
    ///
    /// # Errors
    /// [`ImageError`] for a picture that the family cannot take, or that there is no memory for.
    fn pixels(&self, image: &DecodedImage, sizing: Sizing) -> Result<Pixels, ImageError>;

    /// Width and height of pictures that make the encoder's input the smallest and the largest, among those
    /// whose rows fit a context, tokens: what a model is warmed up with.
    fn extremes(&self, _context: usize) -> [[u32; 2]; 2] {
        [[64, 64]; 2]
    }

    /// What the pixels of a picture depend on besides its file and [`Self::identity`]: part of the caches'
    /// keys. What comes to the same must be the same here. Empty where nothing does.
    fn geometry(&self, _picture: Picture) -> String {
        String::new()
    }

    /// All that the pixels depend on besides the file and [`Self::geometry`]: part of the caches' keys.
    fn identity(&self) -> String;
}

/// The part of a family that runs graphs.
pub(crate) trait VisionModel: Send {
    /// Whether the rows depend on the question.
    fn reads_question(&self) -> bool;

    /// Runs the encoder.
    ///
    /// # Errors
    /// [`LibraryError`] when a graph fails.
    fn encode(&mut self, pixels: &Pixels, stages: &mut Stages<'_>) -> Result<Features, LibraryError>;

    /// Features to the rows that the decoder reads.
    ///
    /// # Errors
    /// [`LibraryError`] when a graph fails, or is not what the family expects.
    fn embed(
        &mut self,
        features: &Features,
        ask: &Ask<'_>,
        stages: &mut Stages<'_>,
    ) -> Result<Visual, LibraryError>;

    /// Where the rows of each run stand: as many [`Positions`] as [`Visual::runs`], counted from where the
    /// run begins. `next` says how far the run moves the text behind it: by what the whole picture takes,
    /// however few of its rows were taken. `None` counts rows as text.
    fn positions(&self, _features: &Features, _visual: &Visual) -> Option<Vec<Positions>> {
        None
    }
}

/// Checks a field of a family's section.
///
/// # Errors
/// [`BundleError::Field`] unless `ok`.
pub(crate) fn field(name: &str, expected: &str, ok: bool, found: impl Display) -> Result<(), BundleError> {
    if ok {
        return Ok(());
    }
    let field = if name.contains('.') { name.to_owned() } else { format!("processor.{name}") };
    Err(BundleError::Field { field, expected: expected.to_owned(), found: excerpt(&found.to_string()) })
}

/// Checks the section's `scale`.
///
/// # Errors
/// [`BundleError::Field`] where a pixel would become no number.
pub(crate) fn check_scale(scale: &PixelScale) -> Result<(), BundleError> {
    let finite = scale.tables().iter().flatten().all(|x| x.is_finite());
    field("scale", "finite numbers, and a deviation above 0", finite, format!("{scale:?}"))
}

/// A budget, as a model understands it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Grant {
    /// The model decides.
    Auto,
    /// The tier of this index.
    Tier(usize),
    /// Nothing chooses.
    Full,
    /// A selector chooses, for the question.
    Choose(Choice),
}

/// What a request wants of a picture's tokens, in a model without an allocator.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// How many.
    pub budget: Budget,
    /// How they are chosen.
    pub selection: Selection,
    /// What the question's words say.
    pub need: Option<Need>,
}

/// A picture, before it is prepared: what is to be known of its geometry follows from this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Picture {
    /// Width and height, upright, pixels.
    pub(crate) size: [u32; 2],
    /// How large the model sees it.
    pub(crate) sizing: Sizing,
}

/// The fields of requests that a family may refuse.
pub(crate) const BUDGET: &str = "arrcoc.budget";
pub(crate) const SELECTOR: &str = "arrcoc.selector";
pub(crate) const DEPTH: &str = "arrcoc.depth";
pub(crate) const SKIP_BLANK: &str = "arrcoc.skip_blank";
pub(crate) const SIZING: &str = "mm_processor_kwargs";

/// What a request asks for is none of the model's.
#[derive(Debug, Clone, thiserror::Error)]
#[error("expected {expected}, found {found}")]
pub struct Refusal {
    /// The field of the request.
    pub field: &'static str,
    /// What the model allows.
    pub expected: String,
    /// What was asked for.
    pub found: String,
}

/// What stands in a picture's place in a prompt, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImagePlan {
    /// Texts and runs of visual rows.
    pub spans: Vec<Span>,
    /// Most visual rows of all runs together, where they are fewer than the runs could hold.
    most: Option<usize>,
    /// How far all runs move the positions of the text behind them, where that is not one for each row.
    advance: Option<usize>,
}

/// A part of an [`ImagePlan`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Span {
    /// Text of the model's own, tokenised as a part of the prompt: headers of tiles, breaks between rows.
    Text(String),
    /// At most this many visual rows. Each run of a plan has a range of [`Visual::runs`].
    Rows(usize),
}

impl ImagePlan {
    /// Texts and runs.
    pub fn new(spans: Vec<Span>) -> Self {
        Self { spans, most: None, advance: None }
    }

    /// One run of visual rows and nothing else.
    pub fn rows(most: usize) -> Self {
        Self::new(vec![Span::Rows(most)])
    }

    /// The same, behind which text goes on so many positions further.
    #[must_use]
    pub(crate) fn advancing(self, positions: usize) -> Self {
        Self { advance: Some(positions), ..self }
    }

    /// How far the text behind it moves, positions: by the whole picture, however few of its rows are kept.
    pub fn advance(&self) -> usize {
        self.advance.unwrap_or_else(|| self.all_rows())
    }

    /// The same, of which at most so many rows are kept.
    #[must_use]
    pub(crate) fn keeping(self, most: usize) -> Self {
        Self { most: Some(most), ..self }
    }

    /// Rows that all runs could hold: what is encoded.
    pub fn all_rows(&self) -> usize {
        self.spans.iter().map(|span| if let Span::Rows(most) = span { *most } else { 0 }).sum()
    }

    /// Most visual rows that the decoder reads.
    pub fn most_rows(&self) -> usize {
        self.all_rows().min(self.most.unwrap_or(usize::MAX))
    }
}

/// A picture as the encoder reads it.
#[derive(Debug, Clone)]
pub(crate) struct Pixels {
    /// The encoder's inputs, by name.
    pub(crate) tensors: Vec<(&'static str, Tensor)>,
    /// What it was made of.
    pub(crate) picture: Picture,
    /// Which of the picture's rows are encoded, in order; `None` for all.
    pub(crate) seen: Option<Arc<[bool]>>,
}

/// What an encoder made of a picture.
#[derive(Debug, Clone)]
pub(crate) struct Features {
    /// The encoder's outputs.
    pub(crate) tensors: Vec<Tensor>,
    /// As in [`Pixels`].
    pub(crate) picture: Picture,
    /// As in [`Pixels`].
    pub(crate) seen: Option<Arc<[bool]>>,
}

impl Features {
    /// Whether the row of this number is encoded.
    pub(crate) fn sees(&self, row: usize) -> bool {
        self.seen.as_ref().is_none_or(|seen| seen.get(row).copied().unwrap_or(false))
    }

    /// The places of the rows that are encoded, and of the others.
    pub(crate) fn parted(&self, places: Vec<Place>) -> (Vec<Place>, Vec<Place>) {
        let (seen, blank): (Vec<_>, Vec<_>) =
            places.into_iter().enumerate().partition(|(row, _)| self.sees(*row));
        let plain = |places: Vec<(usize, Place)>| places.into_iter().map(|(_, place)| place).collect();
        (plain(seen), plain(blank))
    }

    /// Memory that they hold, bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.tensors.iter().map(|tensor| tensor.bytes().len()).sum()
    }
}

/// What is asked about a picture.
pub(crate) struct Ask<'a> {
    /// `[1, Q, H]`: the question's token embeddings; empty for models that do not read it.
    pub(crate) question: &'a Tensor,
    pub(crate) grant: Grant,
}

/// The rows of one picture, for the decoder.
#[derive(Debug, Clone)]
pub struct Visual {
    /// `[1, rows, H]`.
    pub rows: Tensor,
    /// Which rows each run of the picture's plan has, in order.
    pub runs: Vec<Range<usize>>,
    /// What [`VisionModel::positions`] says, one per run.
    pub positions: Option<Vec<Positions>>,
    /// What is added behind the decoder's first layers, `[levels, rows, H]`, where the decoder has such
    /// levels (DeepStack; `deep_levels` of the manifest).
    pub deep: Option<Tensor>,
    /// Where each row looks, and why.
    pub receipt: Arc<Receipt>,
}

impl Visual {
    /// Rows that stand one behind the other, as text does, and reach the decoder's first layer only.
    pub fn new(rows: Tensor, runs: Vec<Range<usize>>, receipt: Receipt) -> Self {
        Self { rows, runs, positions: None, deep: None, receipt: Arc::new(receipt) }
    }

    /// Memory that it holds, bytes.
    pub(crate) fn bytes(&self) -> usize {
        let deep = self.deep.as_ref().map_or(0, |deep| deep.bytes().len());
        let positions = self.positions.iter().flatten().map(|run| run.each.len() * size_of::<Position>());
        self.rows.bytes().len() + deep + positions.sum::<usize>() + self.receipt.bytes()
    }
}

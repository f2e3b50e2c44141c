//! `mm_processor_kwargs`: how large the model sees the images of a request, in the words of transformers'
//! image processors and of vLLM.

use std::borrow::Cow;

use arrcoc_runtime::generate::Sizing;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::config::Limits;
use crate::error::ApiError;
use crate::fields::{self, check_own, fields, nested, optional_flag, whole};
use crate::json::Field;

/// Largest number that is worth reading.
const MOST: i64 = 1 << 40;

pub(super) const HELP: &str = "Arguments of the model's image processor; the model says which it has, and no \
     image gets larger than the checkpoint would have it";

fields! {
    /// The arguments.
    pub(super) struct Arguments {
        min_pixels: Option<i64> = whole(1, MOST), "";
        max_pixels: Option<i64> = whole(1, MOST), "";
        size: Edges = nested::<Edges, _>(Edges::of), "";
        do_image_splitting: Option<bool> = optional_flag(), "";
    }
}

fields! {
    /// `size`.
    #[derive(Default)]
    pub(super) struct Edges {
        shortest_edge: Option<i64> = whole(1, MOST), "";
        longest_edge: Option<i64> = whole(1, MOST), "";
    }
}

impl Arguments {
    /// Reads the arguments; whether the model has them is the runtime's to say.
    pub(super) fn of(field: &Field<'_>, limits: &Limits) -> Result<Sizing, ApiError> {
        let Some(object) = field.object("an object")? else { return Ok(Sizing::default()) };
        check_own(&object, field.path(), Self::NAMES)?;
        let Self { min_pixels, max_pixels, size, do_image_splitting } = Self::read(&object, limits)?;
        Ok(Sizing {
            min_pixels: min_pixels.map(i64::unsigned_abs),
            max_pixels: max_pixels.map(i64::unsigned_abs),
            shortest_edge: size.shortest_edge.map(i64::unsigned_abs),
            longest_edge: size.longest_edge.map(i64::unsigned_abs),
            do_image_splitting,
            coarse: false,
            skip_blank: false,
        })
    }
}

impl Edges {
    fn of(field: &Field<'_>, limits: &Limits) -> Result<Self, ApiError> {
        let object = field.object("an object with `shortest_edge` and `longest_edge`")?;
        let Some(object) = object else { return Ok(Self::default()) };
        check_own(&object, field.path(), Self::NAMES)?;
        Self::read(&object, limits)
    }
}

impl JsonSchema for Arguments {
    fn schema_name() -> Cow<'static, str> {
        "ImageProcessorArguments".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        fields::only(generator, &[Self::describe])
    }
}

impl JsonSchema for Edges {
    fn schema_name() -> Cow<'static, str> {
        "ImageProcessorSize".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        fields::only(generator, &[Self::describe])
    }
}

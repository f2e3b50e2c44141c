//! `mm_processor_kwargs`: how large the model sees the images of a request, in the words of transformers'
//! image processors and of vLLM.

use arrcoc_runtime::generate::Sizing;
use schemars::{Schema, SchemaGenerator, json_schema};

use crate::config::Limits;
use crate::error::ApiError;
use crate::json::{Field, Object};
use crate::openai::fields::check_own;

/// Largest number that is worth reading.
const MOST: i64 = 1 << 40;

const NAMES: [&str; 4] = ["min_pixels", "max_pixels", "size", "do_image_splitting"];
const EDGES: [&str; 2] = ["shortest_edge", "longest_edge"];

pub(super) const HELP: &str = "Arguments of the model's image processor; the model says which it has, and no \
     image gets larger than the checkpoint would have it";

/// Reads the arguments; whether the model has them is the runtime's to say.
pub(super) fn read(field: &Field<'_>, _: &Limits) -> Result<Sizing, ApiError> {
    let Some(object) = field.object("an object")? else { return Ok(Sizing::default()) };
    check_own(&object, field.path(), &NAMES)?;
    let size = object.field("size");
    let size = size.object("an object with `shortest_edge` and `longest_edge`")?;
    if let Some(size) = &size {
        check_own(size, "mm_processor_kwargs.size", &EDGES)?;
    }
    let edge = |name| size.as_ref().map_or(Ok(None), |size| number(size, name));
    Ok(Sizing {
        min_pixels: number(&object, "min_pixels")?,
        max_pixels: number(&object, "max_pixels")?,
        shortest_edge: edge("shortest_edge")?,
        longest_edge: edge("longest_edge")?,
        do_image_splitting: object.field("do_image_splitting").flag()?,
        coarse: false,
    })
}

fn number(object: &Object<'_>, name: &str) -> Result<Option<u64>, ApiError> {
    Ok(object.field(name).whole(1, MOST)?.and_then(|number| u64::try_from(number).ok()))
}

pub(super) fn schema(_: &mut SchemaGenerator) -> Schema {
    let number = || json_schema!({"type": ["integer", "null"], "minimum": 1, "maximum": MOST});
    json_schema!({
        "type": ["object", "null"],
        "additionalProperties": false,
        "properties": {
            "min_pixels": number(),
            "max_pixels": number(),
            "size": {
                "type": ["object", "null"],
                "additionalProperties": false,
                "properties": {"shortest_edge": number(), "longest_edge": number()},
            },
            "do_image_splitting": {"type": ["boolean", "null"]},
        },
    })
}

//! Our own part of a request: `arrcoc`.

use std::borrow::Cow;

use arrcoc_runtime::generate::Budget;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::fields::{self, by, check_own, fields, flag};
use crate::config::Limits;
use crate::error::ApiError;
use crate::json::Field;

/// Most visual tokens that are worth asking for.
const MOST: i64 = 1 << 20;

fields! {
    /// `arrcoc`, checked for form. Whether the model has that budget is the runtime's to say.
    #[derive(Default)]
    pub(super) struct Extension {
        budget: Option<Budget> = by(budget, budget_schema),
            "Visual tokens per image: `auto` lets the question decide, numbers are those of /v1/models";
        explain: bool = flag(), "Return where the tokens went";
    }
}

impl Extension {
    pub(super) fn of(field: &Field<'_>, limits: &Limits) -> Result<Self, ApiError> {
        let Some(object) = field.object("an object with `budget` or `explain`")? else {
            return Ok(Self::default());
        };
        check_own(&object, field.path(), Self::NAMES)?;
        Self::read(&object, limits)
    }
}

impl JsonSchema for Extension {
    fn schema_name() -> Cow<'static, str> {
        "Extension".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        fields::only(generator, &[Self::describe])
    }
}

/// `None` where the request does not say.
fn budget(field: &Field<'_>, _: &Limits) -> Result<Option<Budget>, ApiError> {
    Ok(match field.is_set() {
        false => None,
        true if field.is_one_of(&["\"auto\""]) => Some(Budget::Auto),
        true if field.is_one_of(&["\"full\""]) => Some(Budget::Full),
        true => {
            let tokens = field.whole(1, MOST).ok().flatten().and_then(|tokens| usize::try_from(tokens).ok());
            let expected = "\"auto\", \"full\" where the model has it, or one of the numbers of tokens that /v1/models lists";
            Some(Budget::Tokens(tokens.ok_or_else(|| field.wrong(expected))?))
        }
    })
}

fn budget_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "oneOf": [{"const": "auto"}, {"const": "full"}, {"type": "integer", "minimum": 1, "maximum": MOST}, {"type": "null"}],
        "default": "auto",
    })
}

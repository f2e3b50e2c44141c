//! Our own part of a request: `arrcoc`.

use arrcoc_runtime::generate::Budget;

use super::names::check_own;
use crate::error::ApiError;
use crate::json::Object;

/// Most visual tokens that are worth asking for.
const MOST: i64 = 1 << 20;

/// `arrcoc`, checked for form. Whether the model has that budget is the runtime's to say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Extension {
    /// Visual tokens per image; `None` where the request does not say.
    pub(super) budget: Option<Budget>,
    /// Return receipts.
    pub(super) explain: bool,
}

impl Extension {
    pub(super) fn read(body: &Object<'_>) -> Result<Self, ApiError> {
        let field = body.field("arrcoc");
        let Some(object) = field.object("an object with `budget` or `explain`")? else {
            return Ok(Self::default());
        };
        check_own(&object, "arrcoc", &["budget", "explain"])?;
        let field = object.field("budget");
        let budget = match field.is_set() {
            false => None,
            true if field.is_one_of(&["\"auto\""]) => Some(Budget::Auto),
            // Known, so that the refusal says what the model lacks; no model of today has it.
            true if field.is_one_of(&["\"full\""]) => Some(Budget::Full),
            true => {
                let tokens =
                    field.whole(1, MOST).ok().flatten().and_then(|tokens| usize::try_from(tokens).ok());
                let expected = "\"auto\" or one of the numbers of tokens that /v1/models lists";
                Some(Budget::Tokens(tokens.ok_or_else(|| field.wrong(expected))?))
            }
        };
        Ok(Self { budget, explain: object.field("explain").flag()?.unwrap_or(false) })
    }
}

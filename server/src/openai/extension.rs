//! Our own part of a request: `arrcoc`.

use std::borrow::Cow;

use arrcoc_runtime::generate::{Budget, Depth, Selection, Selector, Share, Tensions};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use crate::config::Limits;
use crate::error::ApiError;
use crate::fields::{self, by, check_own, fields, flag, nested, number};
use crate::json::Field;

/// Most visual tokens that are worth asking for.
const MOST: i64 = 1 << 20;

fields! {
    /// `arrcoc`, checked for form. Whether the model has that budget is the runtime's to say.
    #[derive(Default)]
    pub(crate) struct Extension {
        budget: Option<Budget> = by(budget, budget_schema),
            "Visual tokens per image: `auto` lets the question decide, `full` keeps all, whole numbers are those of \
             /v1/models where it lists any, numbers below 1 a share of all";
        selector: Option<Selector> = by(selector, selector_schema),
            "How they are chosen, of the selectors of /v1/models";
        tensions: Option<Tensions> = nested::<TensionFields, _>(TensionFields::of),
            "What `balanced`, `top-k` and `auto` weigh";
        depth: Option<Depth> = by(depth, depth_schema),
            "Whether each token kept gets all levels of rows for deeper layers, or the relevant half only";
        skip_blank: bool = flag(),
            "Leave out parts of images that hold nothing before they are encoded";
        explain: bool = flag(), "Return where the tokens went";
    }
}

fields! {
    /// `arrcoc.tensions`: what is not said is as it is by default.
    pub(super) struct TensionFields {
        propositional: Option<f32> = number(0.0, 1.0), "Weight of how much there is to read in a place";
        perspectival: Option<f32> = number(0.0, 1.0), "Weight of how far it stands out";
        participatory: Option<f32> = number(0.0, 1.0), "Weight of how near it is to the question";
        explore: Option<f32> = number(0.0, 1.0), "Exploit (0) against explore (1)";
        diversify: Option<f32> = number(0.0, 1.0), "Focus (0) against diversify (1)";
        particularize: Option<f32> = number(0.0, 1.0), "Compress (0) against particularize (1): how many `auto` takes";
    }
}

impl Extension {
    pub(crate) fn of(field: &Field<'_>, limits: &Limits) -> Result<Self, ApiError> {
        let Some(object) = field.object("an object with `budget`, `selector` or `explain`")? else {
            return Ok(Self::default());
        };
        check_own(&object, field.path(), Self::NAMES)?;
        Self::read(&object, limits)
    }

    /// How tokens are chosen.
    pub(crate) fn selection(&self) -> Selection {
        Selection { selector: self.selector, tensions: self.tensions, depth: self.depth }
    }
}

impl TensionFields {
    fn of(field: &Field<'_>, limits: &Limits) -> Result<Option<Tensions>, ApiError> {
        let Some(object) = field.object("an object of numbers from 0 to 1")? else { return Ok(None) };
        check_own(&object, field.path(), Self::NAMES)?;
        let own = Self::read(&object, limits)?;
        let default = Tensions::default();
        let [propositional, perspectival, participatory] = default.knowing;
        let tensions = Tensions {
            knowing: [
                own.propositional.unwrap_or(propositional),
                own.perspectival.unwrap_or(perspectival),
                own.participatory.unwrap_or(participatory),
            ],
            explore: own.explore.unwrap_or(default.explore),
            diversify: own.diversify.unwrap_or(default.diversify),
            particularize: own.particularize.unwrap_or(default.particularize),
        };
        if tensions.knowing.iter().all(|weight| *weight == 0.0) {
            return Err(
                field.wrong("a weight above 0 for `propositional`, `perspectival` or `participatory`")
            );
        }
        Ok(Some(tensions))
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

impl JsonSchema for TensionFields {
    fn schema_name() -> Cow<'static, str> {
        "Tensions".into()
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
            let share = || Share::new(field.number(0.0, 1.0).ok().flatten()?.into()).map(Budget::Share);
            let expected = "\"auto\", \"full\", a number of tokens (one of those that /v1/models lists, where it does), \
                            or a share of all above 0 and below 1";
            Some(tokens.map(Budget::Tokens).or_else(share).ok_or_else(|| field.wrong(expected))?)
        }
    })
}

pub(crate) fn budget_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "oneOf": [
            {"const": "auto"},
            {"const": "full"},
            {"type": "integer", "minimum": 1, "maximum": MOST},
            {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
            {"type": "null"}
        ],
    })
}

fn selector(field: &Field<'_>, _: &Limits) -> Result<Option<Selector>, ApiError> {
    named(field, &Selector::ALL.map(Selector::name), Selector::named)
}

fn selector_schema(_: &mut SchemaGenerator) -> Schema {
    one_of(&Selector::ALL.map(Selector::name))
}

fn depth(field: &Field<'_>, _: &Limits) -> Result<Option<Depth>, ApiError> {
    named(field, &Depth::ALL.map(Depth::name), Depth::named)
}

fn depth_schema(_: &mut SchemaGenerator) -> Schema {
    one_of(&Depth::ALL.map(Depth::name))
}

/// One of some names, where the request has one.
fn named<T>(
    field: &Field<'_>,
    names: &[&str],
    value: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, ApiError> {
    if !field.is_set() {
        return Ok(None);
    }
    let found = field.text().ok().flatten().and_then(|name| value(&name));
    found.map(Some).ok_or_else(|| field.wrong(format_args!("one of {}", names.join(", "))))
}

fn one_of(names: &[&str]) -> Schema {
    let names: Vec<Value> = names.iter().map(|&name| name.into()).chain([Value::Null]).collect();
    json_schema!({"enum": names})
}

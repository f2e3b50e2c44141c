//! What a template may name: filters, tests, and the methods of each type. What they do stands in the file of
//! each kind.

use super::value::Value;

/// Filters.
pub(super) const FILTERS: [&str; 38] = [
    "safe",
    "abs",
    "attr",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "first",
    "float",
    "format",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "select",
    "selectattr",
    "sort",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "unique",
    "upper",
];

/// Tests, behind `is`.
pub(super) const TESTS: [&str; 37] = [
    "defined",
    "undefined",
    "none",
    "boolean",
    "true",
    "false",
    "integer",
    "float",
    "number",
    "string",
    "mapping",
    "iterable",
    "sequence",
    "callable",
    "sameas",
    "in",
    "lower",
    "upper",
    "odd",
    "even",
    "divisibleby",
    "eq",
    "equalto",
    "==",
    "ne",
    "!=",
    "lt",
    "lessthan",
    "<",
    "le",
    "<=",
    "gt",
    "greaterthan",
    ">",
    "ge",
    ">=",
    "escaped",
];

/// Methods of a `str`.
pub(super) const STRING_METHODS: [&str; 38] = [
    "strip",
    "lstrip",
    "rstrip",
    "upper",
    "lower",
    "title",
    "capitalize",
    "swapcase",
    "startswith",
    "endswith",
    "replace",
    "split",
    "rsplit",
    "splitlines",
    "join",
    "find",
    "rfind",
    "index",
    "rindex",
    "count",
    "removeprefix",
    "removesuffix",
    "partition",
    "rpartition",
    "zfill",
    "center",
    "ljust",
    "rjust",
    "format",
    "isdigit",
    "isdecimal",
    "isnumeric",
    "isalpha",
    "isalnum",
    "isspace",
    "isupper",
    "islower",
    "isascii",
];

/// Methods of a `dict`.
pub(super) const DICT_METHODS: [&str; 5] = ["keys", "values", "items", "get", "copy"];

/// Methods of a `list`.
pub(super) const LIST_METHODS: [&str; 3] = ["index", "count", "copy"];

/// Methods of a `tuple`.
pub(super) const TUPLE_METHODS: [&str; 2] = ["index", "count"];

/// Whether a value has this method. Those that change a list or a dictionary do not count: transformers'
/// sandbox hides them too.
pub(super) fn has_method(value: &Value, name: &str) -> bool {
    match value {
        Value::Str(_) => STRING_METHODS.contains(&name),
        Value::Dict(_) => DICT_METHODS.contains(&name),
        Value::List(_) => LIST_METHODS.contains(&name),
        Value::Tuple(_) => TUPLE_METHODS.contains(&name),
        Value::Loop(_) => ["cycle", "changed"].contains(&name),
        _ => false,
    }
}

/// Python's methods that are not here. A template that calls one is refused when it is loaded.
const REFUSED: [&str; 14] = [
    "casefold",
    "encode",
    "expandtabs",
    "translate",
    "maketrans",
    "isidentifier",
    "isprintable",
    "istitle",
    "format_map",
    "fromkeys",
    "bit_length",
    "hex",
    "is_integer",
    "as_integer_ratio",
];

pub(super) fn refused(name: &str) -> bool {
    REFUSED.contains(&name)
}

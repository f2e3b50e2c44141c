"""Random JSON schemas: nested, with enumerations, patterns, bounds, unions and recursion. What the server refuses is not
among them. And random expressions, each as a grammar too."""

import json
import random

NAMES = ["a", "b c", "name", "größe", 'quo"te', "back\\slash", "x/y", "~", "$ref", "type", ""]
PATTERNS = ["^[a-f]{2,5}$", "x+", r"^\d{3}-\d{2}$", "^(red|green)s?$", "[^a-z]$", "^.{3}$", r"^\w+ \w+$"]
FORMATS = ["date", "time", "date-time", "ipv4", "uuid", "email", "hostname", "unheard-of"]
VALUES = [None, True, False, 0, -7, 3.5, 12345678901, "", "é\n\"", "plain", [], [1, "two"], {"k": None}, {"b": 1, "a": [2]}]


def number(rng: random.Random) -> dict:
    kind = rng.choice(["number", "integer"])
    schema = {"type": kind}
    low = rng.choice([-1000, -3, -0.5, 0, 1, 2.25, 99]) if kind == "number" else rng.randint(-200, 200)
    high = low + rng.choice([1, 2, 10, 12345])
    for bound, open_bound, value in (("minimum", "exclusiveMinimum", low), ("maximum", "exclusiveMaximum", high)):
        if rng.random() < 0.5:
            # Between these two there is at least one more number.
            schema[rng.choice([bound, open_bound]) if high - low > 2 else bound] = value
    if kind == "integer" and rng.random() < 0.2 and not set(schema) - {"type", "minimum"}:
        schema["multipleOf"] = rng.choice([2, 5, 7, 10])
    return schema


def string(rng: random.Random) -> dict:
    schema = {"type": "string"}
    match rng.randrange(4):
        case 0:
            schema["pattern"] = rng.choice(PATTERNS)
        case 1:
            schema["format"] = rng.choice(FORMATS)
        case 2:
            schema["minLength"] = rng.randrange(4)
            schema["maxLength"] = schema["minLength"] + rng.randrange(6)
        case _:
            schema["maxLength"] = 12
    return schema


def array(rng: random.Random, depth: int, refs: list) -> dict:
    schema = {"type": "array", "items": any_schema(rng, depth - 1, refs)}
    if rng.random() < 0.3:
        schema["prefixItems"] = [any_schema(rng, depth - 1, refs) for _ in range(rng.randrange(1, 3))]
        if rng.random() < 0.5:
            schema["items"] = False
    elif rng.random() < 0.5:
        schema["minItems"] = rng.randrange(3)
    schema["maxItems"] = 4
    return schema


def object_(rng: random.Random, depth: int, refs: list) -> dict:
    names = rng.sample(NAMES, rng.randrange(5))
    schema = {"type": "object", "properties": {name: any_schema(rng, depth - 1, refs) for name in names}}
    schema["required"] = [name for name in names if rng.random() < 0.6]
    match rng.randrange(4):
        case 0:
            schema["additionalProperties"] = any_schema(rng, 0, [])
        case 1:
            schema["patternProperties"] = {"^z[0-9]+$": any_schema(rng, 0, [])}
            schema["additionalProperties"] = False
            schema["maxProperties"] = 6
            if len(schema["required"]) != len(names):
                del schema["maxProperties"]
        case _:
            schema["additionalProperties"] = False
    return schema


def union(rng: random.Random, depth: int, refs: list) -> dict:
    match rng.randrange(4):
        case 0:
            options = [{"type": rng.choice(["null", "boolean"])}, number(rng), string(rng)]
            return {"oneOf": rng.sample(options, 2)}
        case 1:
            def tagged(tag: str) -> dict:
                inner = {"kind": {"const": tag}, "value": any_schema(rng, depth - 1, refs)}
                return {"type": "object", "properties": inner, "required": ["kind"], "additionalProperties": False}
            return {"oneOf": [tagged("one"), tagged("two"), tagged("three")]}
        case 2:
            both = [{"type": "object", "properties": {name: any_schema(rng, 0, [])}, "required": [name]} for name in "pq"]
            return {"allOf": both}
        case _:
            return {"anyOf": [any_schema(rng, depth - 1, refs) for _ in range(rng.randrange(1, 4))]}


def any_schema(rng: random.Random, depth: int, refs: list) -> dict:
    leaves = [
        lambda: {"type": rng.choice(["null", "boolean"])},
        lambda: number(rng),
        lambda: string(rng),
        lambda: {"enum": rng.sample(VALUES, rng.randrange(1, 5))},
        lambda: {"const": rng.choice(VALUES)},
        lambda: {"type": rng.sample(["null", "boolean", "integer"], 2), "maximum": 50, "minimum": 0, "title": "annotated"},
    ]
    if depth <= 0:
        return rng.choice(leaves)()
    branches = [lambda: array(rng, depth, refs), lambda: object_(rng, depth, refs), lambda: union(rng, depth, refs)]
    if refs:
        branches.append(lambda: {"$ref": rng.choice(refs)})
    return rng.choice(leaves + branches * 3)()


def schema(seed: int) -> dict:
    """The schema of a number."""
    rng = random.Random(seed)
    depth = rng.randrange(1, 5)
    if rng.random() < 0.4:
        return any_schema(rng, depth, [])
    refs = ["#/$defs/tree", "#/$defs/leaf", "#/$defs/a~1b"]
    tree = {"type": "object", "properties": {"left": {"$ref": "#/$defs/tree"}, "value": any_schema(rng, 1, refs)},
            "required": ["value"], "additionalProperties": False}
    defs = {"tree": tree, "leaf": any_schema(rng, 0, []), "a/b": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}}
    return {"$defs": defs} | any_schema(rng, depth, refs)


def expression(rng: random.Random, depth: int) -> tuple[str, str]:
    """A regular expression, and the same in GBNF."""
    if depth == 0:
        if rng.random() < 0.5:
            return rng.choice([("[a-f]", "[a-f]"), ("[^x-z\\n]", "[^x-z\\n]"), ("[0-9é]", "[0-9é]"), ("[A-Z_]", "[A-Z_]")])
        text = rng.choice(["a", "Hallo", "é", "(", "x+y", '"', "\\", " "])
        return "".join("\\" + char if char in '\\(+"' else char for char in text), json.dumps(text, ensure_ascii=False)
    parts = [expression(rng, depth - 1) for _ in range(rng.randrange(1, 4))]
    match rng.randrange(3):
        case 0:
            return "".join(part[0] for part in parts), " ".join(part[1] for part in parts)
        case 1:
            return "(" + "|".join(part[0] for part in parts) + ")", "(" + " | ".join(part[1] for part in parts) + ")"
        case _:
            sign = rng.choice(["?", "{2}", "{1,3}", "{0,4}"])
            return f"({parts[0][0]}){sign}", f"({parts[0][1]}){sign}"

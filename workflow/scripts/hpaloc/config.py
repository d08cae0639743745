"""The configuration: checked against its schema, filled with defaults, recipes inherited.

Runs where Snakemake runs, before anything else: nothing but the standard library and
what Snakemake itself needs is imported. Every fault is told at once, each with its key
and what is allowed.
"""

import copy
import datetime
import difflib
import json
import math
import os
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from hpaloc.hpa.own_files import is_list
from hpaloc.listing import ignored_by, pattern_regex
from hpaloc.log import InputError
from hpaloc.provenance import NO_RESULTS, OF_ALL_RUNS
from hpaloc.scheme import check_scheme

SCHEMA = Path(__file__).resolve().parents[2] / "schemas" / "config.schema.yaml"


def load_schema() -> dict:
    return yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))


def resolve(config: dict) -> dict:
    """The whole configuration with every key present. Raises InputError listing all faults."""
    schema = load_schema()
    config = copy.deepcopy(config)
    # Other names than texts would break the rest of the check.
    faults = [
        f"{place or 'the top level'}: the key {_as_yaml(name)} is {_made_by_yaml(name)}"
        for place, name in _other_keys(config)
    ]
    _refuse(faults)
    recipes = config.get("recipes")
    if isinstance(recipes, dict):
        # Inheritance comes before the defaults: an unset key is the parent's, not the default.
        config["recipes"] = {name: _inherited(name, recipes, faults) for name in recipes}
    _fill(config, schema, schema)
    faults += [f"{key}: {value} is no finite number." for key, value in _not_finite(config)]
    for error in Draft202012Validator(schema).iter_errors(config):
        faults += _in_words(error)
    if not faults:
        faults += list(_contradictions(config))
    _refuse(faults)
    return config


def _refuse(faults: list[str]) -> None:
    if faults:
        lines = "\n".join(f"  - {fault}" for fault in dict.fromkeys(faults))
        raise InputError(f"The configuration cannot be used:\n{lines}")


def trained_folds(config: dict) -> list[tuple[str, int]]:
    """Recipe and fold of every network that a resolved configuration asks for, each once.

    A generation that is not trained on all folds is trained on the first.
    """
    folds = sorted(config["folds"]["train"])
    pairs = [(recipe, fold) for recipe in config["train"] for fold in folds]
    pairs += [(recipe, folds[0]) for recipe in config["generations"]]
    return list(dict.fromkeys(pairs))


def _not_finite(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """YAML's .nan and .inf, which pass every bound of a schema."""
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for name, part in parts:
            yield from _not_finite(part, f"{key}.{name}".strip("."))
    elif isinstance(value, float) and not math.isfinite(value):
        yield key, value


def _other_keys(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Keys that are no texts, such as an unquoted 01, and the map that they are in."""
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for name, part in parts:
            if isinstance(value, dict) and not isinstance(name, str):
                yield place, name
            else:
                yield from _other_keys(part, f"{place}.{name}".strip("."))


def _inherited(name: str, recipes: dict, faults: list[str]) -> Any:
    """A recipe laid over the ones it inherits from: maps merge, all else is replaced."""
    chain = [name]
    while isinstance(recipes[chain[-1]], dict) and (above := recipes[chain[-1]].get("inherit")):
        if above not in recipes:
            faults.append(f"recipes.{chain[-1]}.inherit: there is no recipe {above!r}.")
            break
        if above in chain:
            faults.append(f"recipes.{name}.inherit: {' -> '.join([*chain, above])} is a circle.")
            break
        chain.append(above)
    if not isinstance(recipes[name], dict):
        return recipes[name]
    merged: dict = {}
    for ancestor in reversed(chain):
        if isinstance(recipes[ancestor], dict):
            merged = _merged(merged, recipes[ancestor])
    merged.pop("inherit", None)
    return merged


def _merged(below: dict, above: dict) -> dict:
    merged = copy.deepcopy(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        # An epoch or a step, never both: the newer one replaces the other.
        both &= key != "scale_up_at"
        # A map that names another kind of thing (an optimizer, a schedule) replaces the old one.
        if both and value.get("name", merged[key].get("name")) == merged[key].get("name"):
            merged[key] = _merged(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _fill(value: Any, schema: dict, root: dict) -> None:
    """Sets the default of every key that is not there, in place, down the tree.

    Of keys that are paths (``format: path``), ``~`` becomes the user's home folder.
    """
    schema = _looked_up(schema, root)
    schema = _variant(value, schema, root) or schema
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        for item in value:
            _fill(item, schema["items"], root)
    if not isinstance(value, dict):
        return
    for key, part in schema.get("properties", {}).items():
        part = _looked_up(part, root)
        if key not in value and "default" in part:
            value[key] = copy.deepcopy(part["default"])
        if key in value:
            if part.get("format") == "path" and isinstance(value[key], str):
                value[key] = os.path.expanduser(value[key])
            _fill(value[key], part, root)
    if isinstance(part := schema.get("additionalProperties"), dict):
        for key in value.keys() - schema.get("properties", {}).keys():
            _fill(value[key], part, root)


def _looked_up(schema: dict, root: dict) -> dict:
    if "$ref" not in schema:
        return schema
    found: Any = root
    for key in schema["$ref"].removeprefix("#/").split("/"):
        found = found[key]
    return found | {key: value for key, value in schema.items() if key != "$ref"}


def _variant(value: Any, schema: dict, root: dict) -> dict | None:
    """Of ``allOf: if/then`` alternatives the one that the value's kind or name chooses."""
    for branch in schema.get("allOf", []):
        if "if" in branch and isinstance(value, dict):
            condition = dict(branch["if"])
            if Draft202012Validator(condition).is_valid(value):
                return _looked_up(branch["then"], root)
    return None


def _in_words(error: ValidationError) -> list[str]:
    """What is wrong and what is allowed; of alternatives, by the one that was meant."""
    key = ".".join(str(part) for part in error.absolute_path) or "the top level"
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = list(error.schema.get("properties", {}))
        unknown = [name for name in error.instance if name not in known]
        close = difflib.get_close_matches(str(unknown[0]), known, 1) if unknown else []
        hint = f" Did you mean {close[0]!r}?" if close else ""
        names = ", ".join(map(repr, unknown))
        return [f"{key}: unknown key {names}.{hint} Allowed: {', '.join(known)}."]
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        return [f"{key}: the key {', '.join(map(repr, missing))} is missing."]
    is_nested = isinstance(error.instance, dict | list)
    if error.validator == "anyOf" and is_nested and (meant := _meant_by(error)):
        return [words for inner in meant for words in _in_words(inner)]
    if "string" in _types(error.schema) and not is_nested and not isinstance(error.instance, str):
        said = _as_yaml(error.instance)
        return [
            f"{key}: {said} is {_made_by_yaml(error.instance)} Allowed: {allowed(error.schema)}."
        ]
    said = json.dumps(error.instance, default=str)
    said = said if len(said) <= 80 else said[:77] + "..."
    return [f"{key}: {said} is not allowed. Allowed: {allowed(error.schema)}."]


def _meant_by(error: ValidationError) -> list[ValidationError]:
    """The faults against the alternative that was meant: the only one of the value's type.

    Of several maps it is the only one that has the value's keys. Empty where that cannot be told.
    """
    faults: dict[int, list[ValidationError]] = {}
    for inner in error.context:
        faults.setdefault(inner.schema_path[0], []).append(inner)

    def of_itself(fault: ValidationError) -> bool:
        return len(fault.relative_path) == 0

    def only(wrong: tuple[str, ...]) -> list[list[ValidationError]]:
        return [
            found
            for found in faults.values()
            if not any(of_itself(fault) and fault.validator in wrong for fault in found)
        ]

    for wrong in (("type", "enum", "const"), ("type", "enum", "const", "additionalProperties")):
        if len(fitting := only(wrong)) == 1:
            return fitting[0]
    return []


def _types(schema: dict) -> set[str]:
    types = schema.get("type", [])
    found = {types} if isinstance(types, str) else set(types)
    return found.union(*(_types(part) for part in schema.get("anyOf", [])))


def _as_yaml(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime.date) else json.dumps(value, default=str)


def _made_by_yaml(value: Any) -> str:
    """Why something that looked like a text is none, and what to do: an end of a sentence."""
    if value is None:
        return "nothing, which YAML makes of an empty value, ~ and null. Write a text, or quote it."
    if isinstance(value, bool):
        kind, text = "a truth value to YAML, as are yes, no, on and off", "yes" if value else "no"
    elif isinstance(value, datetime.date):
        kind, text = "a date to YAML", value.isoformat()
    elif isinstance(value, int):
        kind, text = "a number to YAML, which drops leading zeros", f"{value:02d}"
    else:
        kind, text = "a number to YAML", str(value)
    return f'{kind}. If a text is meant, quote it as it is written, such as "{text}".'


def allowed(schema: dict) -> str:
    """What a schema admits, in words: ``a whole number, at least 1``."""
    if "enum" in schema:
        return ", ".join(json.dumps(value) for value in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(allowed(part) for part in schema[key])
    names = {
        "integer": "a whole number", "number": "a number", "string": "a text",
        "boolean": "true or false", "array": "a list", "object": "a map", "null": "null",
    }  # fmt: skip
    types = schema.get("type", "object")
    words = [" or ".join(names[name] for name in ([types] if isinstance(types, str) else types))]
    if types == "object" and schema.get("required") == list(schema.get("properties", {})):
        words = [f"a map of {', '.join(schema['required'])}"]
    bounds = {
        "minimum": "at least {}", "exclusiveMinimum": "above {}", "maximum": "at most {}",
        "exclusiveMaximum": "below {}", "pattern": "of the form {}", "multipleOf": "a multiple of {}",
        "minItems": "at least {} of them", "maxItems": "at most {} of them",
        "minLength": "not empty", "uniqueItems": "each once", "minProperties": "at least {} key",
    }  # fmt: skip
    words += [text.format(schema[name]) for name, text in bounds.items() if name in schema]
    if isinstance(schema.get("items"), dict) and types == "array":
        words.append(f"each {allowed(schema['items'])}")
    return ", ".join(words)


def _contradictions(config: dict) -> Iterator[str]:
    """Faults that no schema can see: one key against another."""
    sources, recipes, folds = config["sources"], config["recipes"], config["folds"]
    for key, names in (("run", [config["run"]]), ("sources", sources), ("recipes", recipes)):
        for name in sorted(NO_RESULTS.union(OF_ALL_RUNS).intersection(names)):
            yield f"{key}: {name!r} is a folder of results that is there for all runs; choose another name."
    for key, path in _input_files(config):
        if "{" in path and "}" in path:
            yield f"{key}: {path!r} holds braces, which Snakemake takes for a wildcard. Rename the file or folder."
    for key in ("train_source", "test_source"):
        if config[key] not in sources:
            yield f"{key}: there is no source {config[key]!r}. Sources: {', '.join(sources)}."
    for name, source in sources.items():
        yield from (f"sources.{name}.{fault}" for fault in _source_faults(source))
        if source["kind"] == "hpa" and (fault := _disjoint_fault(name, sources)):
            yield f"sources.{name}.select.antibody_disjoint_from: {fault}"
    if config["train_source"] == config["test_source"]:
        yield "test_source: it is the training source; test data must never be trained on."
    if any(fold > folds["n"] for fold in folds["train"]):
        yield f"folds.train: {folds['train']} names a fold above {folds['n']} (folds.n)."
    for key in ("train", "evaluate", "generations"):
        for name in config[key]:
            if name not in recipes:
                yield f"{key}: there is no recipe {name!r}. Recipes: {', '.join(recipes)}."
    for name in config["evaluate"]:
        if name not in config["train"]:
            yield f"evaluate: {name!r} is not in train: {', '.join(config['train'])}."
    for name, recipe in recipes.items():
        if recipe["image_size"] < 32 * recipe["pool"]:
            yield (
                f"recipes.{name}.image_size: {recipe['image_size']} is too small for pool"
                f" {recipe['pool']}: the network halves the image five times; at least"
                f" {32 * recipe['pool']} is needed."
            )
        if (recipe["network"], recipe["pretrained"]) == ("seresnext_small", "imagenet"):
            yield (
                f"recipes.{name}.pretrained: seresnext_small has no ImageNet weights. Allowed: null"
                " or the path of a file of its weights."
            )
        try:
            check_scheme(recipe["augmentation"], f"recipes.{name}.augmentation")
        except InputError as fault:
            yield str(fault)
    trained = sources.get(config["train_source"], {})
    if trained.get("kind") == "local" and trained.get("labels") is None:
        yield f"sources.{config['train_source']}.labels: a training source needs labels."
    if trained.get("part") == "test":
        yield f"sources.{config['train_source']}.part: the competition's test set has no labels."
    for key in ("genes", "entries", "images"):
        for address in config["fetch"]["addresses"][key]:
            if fault := _address_fault(key, address):
                yield f"fetch.addresses.{key}: {address!r} {fault}"


def _input_files(config: dict) -> Iterator[tuple[str, str]]:
    """Keys and paths of the user's own files that are inputs of rules, which may hold no braces."""
    for name, recipe in config["recipes"].items():
        if recipe["pretrained"] is not None:
            yield f"recipes.{name}.pretrained", recipe["pretrained"]
    for number, sheet in enumerate(config["evaluation"]["human_answers"]):
        for key in ("answers", "truth"):
            if sheet[key] is not None:
                yield f"evaluation.human_answers.{number}.{key}", sheet[key]


def _disjoint_fault(name: str, sources: dict) -> str | None:
    """Why a source cannot be kept apart from the one it names, through others too; else None."""
    chain = [name]
    while other := sources[chain[-1]].get("select", {}).get("antibody_disjoint_from"):
        if other not in sources:
            return f"there is no source {other!r}. Sources: {', '.join(sources)}."
        if other in chain:
            return f"{' -> '.join([*chain, other])} is a circle."
        chain.append(other)
    return None


_PARTS_OF_ADDRESSES = {
    "genes": set(),
    "entries": {"gene"},
    "images": {"antibody", "plate", "well", "n", "suffix", "colour"},
}


def _address_fault(key: str, address: str) -> str | None:
    """What is wrong with the parts in braces of an address; None where all is well."""
    try:
        parts = {name for _, name, _, _ in string.Formatter().parse(address) if name is not None}
    except ValueError as error:
        return f"has braces that do not close ({error})."
    allowed_parts = _PARTS_OF_ADDRESSES[key]
    if unknown := parts - allowed_parts:
        return f"holds {{{min(unknown)}}}. Allowed: {', '.join(sorted(allowed_parts)) or 'none'}."
    if lacking := allowed_parts - {"suffix"} - parts:
        return f"lacks {{{min(lacking)}}}."
    return None


def _source_faults(source: dict) -> Iterator[str]:
    if source["kind"] == "simulated":
        fewest, most = source["cells"]
        if fewest > most:
            yield f"cells: {source['cells']} names the most cells before the fewest."
    if source["kind"] == "hpa" and source["select"]["walk"] == "paper":
        others = ("genes", "ids", "at_most", "antibody_disjoint_from")
        if named := [key for key in others if source["select"][key] is not None]:
            yield (
                f"select: the paper's images are a fixed set; leave out {', '.join(named)}, or set"
                " walk to all."
            )
        if source["index"] != "atlas" and is_list(source["index"]):
            yield "index: the paper's images are chosen from the atlas's entries, not from a list."
    if source["kind"] != "local":
        return
    if os.path.normpath(source["folder"]) == ".":
        yield "folder: name the folder of the images, not the working folder itself."
    try:
        pattern_regex(source["pattern"], source["channels"])
    except InputError as fault:
        yield str(fault)
    try:
        ignored_by(source["ignore"])
    except InputError as fault:
        yield str(fault)
    grey = source["grey_range"]
    if grey["method"] == "percentile" and grey["low"] >= grey["high"]:
        yield f"grey_range: low, {grey['low']}, must be below high, {grey['high']}."
    tiles = source["tiles"]
    if tiles and (tiles["pixel_size"] is None) != (tiles["source_pixel_size"] is None):
        yield "tiles: state both pixel_size and source_pixel_size (µm), or neither."


def check_source(name: str, settings: dict, record: Path) -> None:
    """Refuses a source that was made with other settings than the config's.

    ``record`` is the source's settings.json; where it is absent the source is not made yet. A
    source of another version is not refused, whose settings lack keys or, of a simulated one,
    state another version: the code triggers, and it is made again.
    """
    if not record.is_file():
        return
    made = json.loads(record.read_text(encoding="utf-8"))["settings"]
    both = made.keys() & settings.keys() - {"version"}
    differ = sorted(key for key in both if made[key] != settings[key])
    if not differ:
        return
    raise InputError(
        f"The source {name!r} was made with other settings than the configuration names:\n"
        + "".join(
            f"  {key}: made with {json.dumps(made[key])},"
            f" the configuration says {json.dumps(settings[key])}\n"
            for key in differ
        )
        + f"Give the source of the configuration another name, or delete {record.parent.parent}"
        " and run again."
    )

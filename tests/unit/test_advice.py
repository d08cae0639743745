"""Messages advise only what can be done: keys and options that they name exist where they point to."""

import functools
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpaloc.config import load_schema
from hpaloc.digest import SCRIPTS

PROJECT = SCRIPTS.parents[1]
SCHEMA = load_schema()
FILES = sorted([*SCRIPTS.rglob("*.py"), *(PROJECT / "workflow/rules").glob("*.smk")])
# What is told while a source of one kind is made has to be done with that kind's keys.
OF_KIND = {
    "hpa/": "hpa",
    "kaggle/": "kaggle",
    "hpaloc/local.py": "local",
    "grey_range.py": "local",
    "simulate/": "simulated",
}
ENDINGS = (
    "csv|json|parquet|txt|tsv|npy|npz|py|sha256|yaml|zip|xml|gz|jpg|png|tif|part|sif|db|safetensors"
)
# Of Snakemake and torch, and of what programs are told by these in the messages.
OTHER_OPTIONS = {
    "--force", "--sdm", "--configfile", "--unlock", "--use-conda", "--cores",
    "--gpus", "--nv", "--rocm", "--device", "--group-add", "--apptainer-args", "--ulimit",
}  # fmt: skip


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each string, neighbours joined, what is filled in as {…}; no docstrings."""
    parts: list[str] = []
    start, is_doc = 0, True
    with open(path, "rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.STRING:
                start = start if parts else token.start[0]
                is_doc |= token.string.startswith(('"""', "'" * 3))
                prefix, text = re.fullmatch(r"""(?s)(\w*)(['"].*)""", token.string).groups()
                text = text.strip("\"'")
                parts.append(re.sub(r"\{[^{}]*\}", "{…}", text) if "f" in prefix.lower() else text)
            elif token.type not in (tokenize.NL, tokenize.COMMENT):
                if parts and not is_doc:
                    yield start, "".join(parts)
                parts, is_doc = [], False


def keys_of(part: dict, schema: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple, dict]]:
    """The path of every key below a part of the schema, with what the schema says of it."""
    if "$ref" in part:
        part = schema["$defs"][part["$ref"].removeprefix("#/$defs/")] | part
    for key, value in part.get("properties", {}).items():
        yield (*path, key), value
        yield from keys_of(value, schema, (*path, key))
    for branch in [*part.get("anyOf", []), *(rule["then"] for rule in part.get("allOf", []))]:
        if path or "properties" in branch:
            yield from keys_of(branch, schema, path)


@functools.cache
def keys_for(path: Path) -> dict[tuple, dict]:
    schema = SCHEMA
    kinds = {kind for place, kind in OF_KIND.items() if place in path.as_posix()}
    kinds = kinds or {"hpa", "kaggle", "local", "simulated"}
    found = dict(keys_of(schema, schema))
    for part, place in [*((kind, "sources") for kind in kinds), ("recipe", "recipes")]:
        for key, value in keys_of(schema["$defs"][part], schema):
            found[(place, "{…}", *key)] = value
    found["sources", "{…}", "kind"] = schema["$defs"]["source"]["properties"]["kind"]
    return found


def advised(text: str) -> Iterator[tuple[str, str | None]]:
    """Keys in a message, and the value that is advised for them."""
    names = r"[a-z_]+"
    for found in re.finditer(
        rf"(?<![\w.{{/~*])({names}(?:\.(?:{names}|\{{…\}}))+)(?![\w/(*])", text
    ):
        if not re.search(rf"\.(?:{ENDINGS})$", found[1]):
            yield found[1], None
    for found in re.finditer(
        rf"[Ss]et (?:the source's |its |the config's |the recipe's )?({names}(?:\.{names})*) to"
        rf" ({names})\b",
        text,
    ):
        yield found[1], found[2]
    before = r"\b(?:set|choose|take|with|and|or)"
    for found in re.finditer(rf"{before} `?({names}): ({names}|\d+)\b", text):
        yield found[1], found[2]


def fault_of(key: str, value: str | None, keys: dict[tuple, dict]) -> str | None:
    parts = tuple(key.split("."))
    heads = {name for path in keys_for(SCRIPTS) for name in path[:-1]}
    ends = [
        about
        for path, about in keys.items()
        if len(parts) <= len(path)
        and all(a == b or "{…}" in (a, b) for a, b in zip(parts[::-1], path[::-1], strict=False))
    ]
    if len(parts) > 1:
        return None if ends or parts[0] not in heads else "there is no such key"
    choices = [about["enum"] for about in ends if "enum" in about]
    if value and choices and not any(value in map(str, enum) for enum in choices):
        return f"{value} is not among {choices}"
    return None


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_keys_in_messages_exist_where_they_are_advised(path):
    keys = keys_for(path)
    for line, text in strings(path):
        if " " in text:  # a message
            for key, value in advised(text):
                fault = fault_of(key, value, keys)
                assert fault is None, f"{path.name}:{line}: {key}: {fault}: {text}"


@pytest.mark.parametrize(
    ("place", "text", "wrong"),
    [
        ("hpaloc/hpa/image_list.py", "Name it as columns.labels.", "columns.labels"),
        ("hpaloc/local.py", "Name it as columns.labels.", None),
        ("hpaloc/local.py", "Name it as columns.{…}.", None),
        ("hpaloc/hpa/walk.py", "or set bad_entries: skip.", None),
        ("hpaloc/hpa/walk.py", "or set bad_entries: leave_out.", "bad_entries"),
        ("hpaloc/hpa/walk.py", "or set the source's unreachable to skip.", "unreachable"),
        ("rules/common.smk", "add a source with kind: kagle and part: test", "kind"),
        ("rules/common.smk", "add a source with kind: kaggle and part: tests", "part"),
        ("hpaloc/folds.py", "see folds.groups", "folds.groups"),
        ("hpaloc/folds.py", "see folds.group_by and results/folds/folds.parquet", None),
        ("hpaloc/training.py", "Try a smaller optimizer.rate", "optimizer.rate"),
        ("rules/common.smk", "sources.{…}.labels: there is no table", None),
        ("rules/common.smk", "sources.{…}.lables: there is no table", "sources.{…}.lables"),
    ],
)
def test_the_check_of_messages_finds_what_is_not_there(place, text, wrong):
    keys = keys_for(SCRIPTS / place)
    found = [key for key, value in advised(text) if fault_of(key, value, keys)]
    assert found == ([wrong] if wrong else [])


def test_options_in_messages_are_those_of_a_program():
    options = set(OTHER_OPTIONS)
    for path in SCRIPTS.rglob("*.py"):
        options |= set(re.findall(r'"(--[a-z-]+)"', path.read_text(encoding="utf-8")))
    for path in FILES:
        for line, text in strings(path):
            if " " in text and path.suffix == ".py":
                for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text):
                    assert option in options, f"{path.name}:{line}: {option}: {text}"


def test_targets_of_make_in_messages_are_there():
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    for path in FILES:
        for line, text in strings(path):
            for target in re.findall(r"\(make ([a-z-]+)|; make ([a-z-]+) names", text):
                assert set(target) & targets, f"{path.name}:{line}: make {target}: {text}"

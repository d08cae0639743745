"""Writes what the documents take from the project: tables of configuration keys and of transforms,
and the rule graph.

python docs/update_readme.py           rewrites them between their marks in README.md and docs/
python docs/update_readme.py --check   changes nothing; status 1 where a document is out of date
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
README = PROJECT / "README.md"
AUGMENTATION = PROJECT / "docs" / "augmentation.md"
sys.path.insert(0, str(PROJECT / "workflow" / "scripts"))

from hpaloc.config import allowed, load_schema
from hpaloc.scheme import TRANSFORMS, Choice, Flag, Interval, Number, Parameter, Whole

# Where a part of the schema stands in a configuration.
PLACES = (
    ("", None),
    ("sources.<name>", "kaggle"),
    ("sources.<name>", "hpa"),
    ("sources.<name>", "local"),
    ("sources.<name>", "simulated"),
    ("recipes.<name>", "recipe"),
)


def config_table() -> str:
    schema = load_schema()
    lines = ["| key | default | allowed | what it does |", "| --- | --- | --- | --- |"]
    for place, part in PLACES:
        if place.startswith("sources"):
            lines.append(f"| **`sources.<name>` with `kind: {part}`** | | | |")
        found = schema["$defs"][part] if part else schema
        lines += _rows(found, place, schema)
    return "\n".join(lines)


def _rows(part: dict, place: str, schema: dict) -> Iterator[str]:
    for key, value in part.get("properties", {}).items():
        if "const" in value:
            continue
        if "$ref" in value:
            value = schema["$defs"][value["$ref"].removeprefix("#/$defs/")] | value
        name = f"{place}.{key}".strip(".")
        nested = list(_nested(value, schema))
        default = "" if nested or "default" not in value else f"`{json.dumps(value['default'])}`"
        words = "" if nested else allowed(value)
        cells = [f"`{name}`", default, words, value["description"]]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
        for inner in nested:
            yield from _rows(inner, name, schema)


def _nested(value: dict, schema: dict) -> Iterator[dict]:
    """The maps below a key: its own properties, or those of its alternatives."""
    # A map of free choices, such as colours, is described by its own row.
    if any("default" in part or "enum" in part for part in value.get("properties", {}).values()):
        yield value
    for branch in value.get("allOf", []):
        yield schema["$defs"][branch["then"]["$ref"].removeprefix("#/$defs/")]


def transform_table() -> str:
    lines = [
        "| transform | parameter | default | allowed | what it does |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, known in TRANSFORMS.items():
        lines.append(f"| `{name}` | | | | {known.meaning} |")
        for key, parameter in known.parameters.items():
            given = parameter.default
            given = list(given) if isinstance(given, tuple) else given
            default = "" if given is None else f"`{json.dumps(given)}`"
            lines.append(f"| | `{key}` | {default} | {_range(parameter)} | {parameter.meaning} |")
    return "\n".join(lines)


def _range(parameter: Parameter) -> str:
    """What a parameter of a transform may be, in words."""
    if isinstance(parameter, Choice):
        return f"{', '.join(parameter.options)}, or a list of them"
    if isinstance(parameter, Flag):
        return "true, false"
    if isinstance(parameter, Interval | Number | Whole):
        kind = {Interval: "an interval [from, to]", Number: "a number", Whole: "a whole number"}
        return f"{kind[type(parameter)]} from {parameter.lowest:g} to {parameter.highest:g}"
    return ""


def rule_graph() -> str:
    """Snakemake's own graph, less its colours and numbering, which change with every rule."""
    snakemake = Path(sys.executable).parent / "snakemake"
    command = [snakemake, "--rulegraph", "mermaid-js"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    name = dict(re.findall(r"^\s*(id\d+)\[(\w+)\]", done.stdout, re.MULTILINE))
    arrows = re.findall(r"^\s*(id\d+) --> (id\d+)", done.stdout, re.MULTILINE)
    after: dict[str, set[str]] = {rule: set() for rule in name.values()}
    for start, end in arrows:
        if name[end] != "all":
            after[name[start]].add(name[end])
    lines = [
        f"  {rule} --> {end}"
        for rule in sorted(after)
        for end in sorted(after[rule])
        # What another arrow leads to is left out: the graph stays readable.
        if not any(_reaches(other, end, after) for other in after[rule] - {end})
    ]
    return "\n".join(["```mermaid", "flowchart LR", *lines, "```"])


def _reaches(start: str, end: str, after: dict[str, set[str]]) -> bool:
    return start == end or any(_reaches(rule, end, after) for rule in after[start])


DOCUMENTS = {
    README: {"configuration": config_table, "rule graph": rule_graph},
    AUGMENTATION: {"transforms": transform_table},
}


def updated(path: Path, text: str) -> str:
    for mark, make in DOCUMENTS[path].items():
        begin, end = f"<!-- {mark}: made by docs/update_readme.py -->", f"<!-- end of {mark} -->"
        text, count = re.subn(
            f"({re.escape(begin)}\n).*?({re.escape(end)})",
            lambda found, make=make: f"{found[1]}{make()}\n{found[2]}",
            text,
            flags=re.DOTALL,
        )
        if count != 1:
            sys.exit(f"{path.name}: the marks {begin} … {end} must stand there once.")
    return text


if __name__ == "__main__":
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        new = updated(path, text)
        if "--check" not in sys.argv[1:]:
            path.write_text(new, encoding="utf-8")
        elif new != text:
            sys.exit(f"{path.name} is out of date: run python docs/update_readme.py")

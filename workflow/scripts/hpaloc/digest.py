"""A digest of a program's code that sees edits and nothing else.

Snakemake's own triggers cannot be used for this: file times change with every
clone, and modules that a script imports are not looked at. The digest covers the
syntax tree of a script and of every ``hpaloc`` module that it imports, directly or
not, so comments, docstrings, blank lines and the version of Python do not count.
"""

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1]

# How a program checks its arguments and reports, what it notes of its origin, and which of several
# GPUs it runs on, cannot change what it makes.
WITHOUT_EFFECT = {
    "hpaloc.arguments", "hpaloc.compile_cache", "hpaloc.gpu_lock", "hpaloc.gpu_support",
    "hpaloc.log", "hpaloc.progress", "hpaloc.provenance",
}  # fmt: skip


def code_digest(rule: str, scripts: Path = SCRIPTS) -> str:
    """sha256 (hex) of ``scripts/<rule>.py`` and the ``hpaloc`` modules that it imports."""
    digest = hashlib.sha256()
    for path in program_files(rule, scripts):
        digest.update(path.relative_to(scripts).as_posix().encode())
        digest.update(_understood(path)[1].encode())
    return digest.hexdigest()


def program_files(rule: str, scripts: Path = SCRIPTS) -> list[Path]:
    """The script of a rule and the ``hpaloc`` modules it reaches, sorted."""
    found: set[Path] = set()
    waiting = [scripts / f"{rule}.py"]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        for name in _understood(path)[0]:
            if name not in WITHOUT_EFFECT and (module := _module_file(name, scripts)):
                waiting.append(module)
    return sorted(found)


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Dotted names of all that a module imports; for ``from a import b`` both a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _module_file(name: str, scripts: Path) -> Path | None:
    if name != "hpaloc" and not name.startswith("hpaloc."):
        return None
    base = scripts.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _understood(path: Path) -> tuple[list[str], str]:
    """What a file imports, and its essence. Most modules are in the digests of many programs."""
    return _understood_text(path.read_text(encoding="utf-8"), str(path))


@functools.cache
def _understood_text(text: str, path: str) -> tuple[list[str], str]:
    tree = ast.parse(text, filename=path)
    return list(imported_modules(tree)), _essence(tree)


def _essence(node: object) -> str:
    # ast.dump differs between Python versions (fields added, empty ones left out or not);
    # leaving out every empty field makes the same text of the same code.
    if isinstance(node, ast.AST):
        fields = [
            f"{name}={_essence(value)}"
            for name, value in ast.iter_fields(node)
            if value is not None and value != [] and name not in ("kind", "type_comment")
        ]
        return f"{type(node).__name__}({','.join(fields)})"
    if isinstance(node, list):
        return f"[{','.join(_essence(item) for item in node if not _is_docstring(item))}]"
    return repr(node)


def _is_docstring(node: object) -> bool:
    # A bare string is an expression without effect wherever it stands.
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )

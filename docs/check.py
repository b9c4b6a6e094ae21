"""Checks the documentation against the code: `make lint` runs it.

    python -m docs.check [FILE ...]

- Links lead to files and headings that exist.
- Names in backticks that look like files, modules or what is in them exist.
- `import` lines in Python blocks, and in the cells of notebooks, import what exists.
- Commands that start a driver have its flags, and overrides of fields that its config has.

Nothing is run. Prints a line for each fault, and ends with status 1 if there is any.
"""

import ast
import functools
import json
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence

from bert_jax import config as configs
from docs.commands import ROOT, command_faults, commands
from docs.markdown import Page

PAGES = ("README.md", "CONTRIBUTING.md", "docs/**/*.md", "launch/*.md", "experiments/*.md")
# Endings of files that are no modules: `config.json` does not name `json` in config.py.
_DATA = (
    "csv gz json jsonl md npy npz parquet png safetensors sh svg toml tsv txt zst model bin".split()
)
_FOLDERS = (
    "bert_jax",
    "benchmarks",
    "configs",
    "docs",
    "experiments",
    "launch",
    "notebooks",
    "tests",
)


def main(arguments: Sequence[str]) -> int:
    """Checks the pages, all by default; returns the exit status."""
    paths = [ROOT / each for each in arguments] or [p for each in PAGES for p in ROOT.glob(each)]
    pages = [Page(path) for path in sorted(paths)]
    notebooks = [] if arguments else sorted((ROOT / "notebooks").glob("*.ipynb"))
    faults = [fault for page in pages for fault in page_faults(page)]
    faults += [fault for path in notebooks for fault in notebook_faults(path)]
    count = len(pages) + len(notebooks)
    print("\n".join(faults) or f"{count} pages of documentation are sound")
    return 1 if faults else 0


def page_faults(page: Page) -> Iterator[str]:
    """Yields what is wrong with a page, each with its place."""
    where = page.path.relative_to(ROOT) if page.path.is_relative_to(ROOT) else page.path
    for line in page.links():
        if fault := link_fault(page, line.text):
            yield f"{where}:{line.number}: {fault}"
    if not page.is_superseded:  # it names what there was
        for line in page.code_spans():
            if fault := name_fault(page, line.text) or target_fault(line.text):
                yield f"{where}:{line.number}: {fault}"
    for block in page.blocks:
        for line in block.lines:
            if fault := target_fault(line.text):
                yield f"{where}:{line.number}: {fault}"
        if block.language == "python":
            text = "\n".join(line.text for line in block.lines)
            yield from (f"{where}:{block.lines[0].number}: {each}" for each in import_faults(text))
    for command in commands(page):
        yield from (f"{where}:{command.line}: {each}" for each in command_faults(command))


def link_fault(page: Page, target: str) -> str:
    """Returns what is wrong with the target of a link, '' if nothing is."""
    if re.match(r"\w+:", target):
        return ""
    file, _, anchor = target.partition("#")
    path = page.path.parent / file if file else page.path
    if not path.exists():
        return f"the link {target} leads nowhere"
    if anchor and anchor not in Page(path).anchors():
        return f"the link {target} names a heading that is not there"
    return ""


def name_fault(page: Page, span: str) -> str:
    """Returns what is wrong with a name in backticks, '' if nothing is or it is not one of ours."""
    name = span.removesuffix("()").removesuffix(":")
    if re.fullmatch(r"[\w/.{},*-]+\.py(:\w+)?", name) or (
        name.partition("/")[0] in _FOLDERS and re.fullmatch(r"[\w/.-]+", name) and "/" in name
    ):
        return "" if _is_file(page, name.partition(":")[0]) else f"there is no file {name}"
    if match := re.fullmatch(r"--config\.([\w.]+)(=.*)?", name):
        return "" if match[1] in _fields() else f"no config has a field {match[1]}"
    name = name.partition("=")[0]
    if re.fullmatch(r"\w+(\.\w+)+", name) and name.rpartition(".")[2] not in _DATA:
        first = name.partition(".")[0]
        if (first in _FOLDERS or first in _stems()) and not _is_defined(name):
            return f"nothing is called {name}"
    return ""


def target_fault(text: str) -> str:
    """Returns what is wrong with `make TARGET`, '' if nothing is."""
    match = re.match(r"make ([a-z][\w-]*)( |$)", text)
    if not match or re.search(rf"^{match[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE):
        return ""
    return f"the Makefile has no target {match[1]}"


def _is_file(page: Page, name: str) -> bool:
    if "*" in name or "{" in name:
        return True
    folders = (ROOT, ROOT / "bert_jax", page.path.parent)
    if any((folder / name).exists() for folder in folders):
        return True
    return "/" not in name and name in {path.name for path in _python_files()}


@functools.cache
def _python_files() -> tuple[pathlib.Path, ...]:
    return tuple(path for folder in _FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))


@functools.cache
def _stems() -> frozenset[str]:
    return frozenset(path.stem for path in _python_files() if "tests" not in path.parts)


def _is_defined(name: str) -> bool:
    """Returns True if a dotted name is a module, a name in a module, or a field of a config."""
    if name in _fields() or any(f.startswith(f"{name}.") for f in _fields()):
        return True
    parts = name.split(".")
    for path in _python_files():
        dotted = path.relative_to(ROOT).with_suffix("").as_posix().split("/")
        dotted = dotted[:-1] if dotted[-1] == "__init__" else dotted
        for cut in range(1, len(parts) + 1):
            if dotted[-cut:] == parts[:cut] and _holds(path, parts[cut:]):
                return True
    folder = ROOT.joinpath(*parts)
    return folder.is_dir() or (ROOT / "bert_jax").joinpath(*parts).is_dir()


def _holds(path: pathlib.Path, names: list[str]) -> bool:
    """Returns True if a module defines a name, or a class in it a name."""
    body = _body(path)
    for name in names:
        found = [node for node in body if name in _names_of(node)]
        if not found:
            return False
        body = getattr(found[0], "body", [])
    return True


@functools.cache
def _body(path: pathlib.Path) -> list[ast.stmt]:
    return ast.parse(path.read_text()).body


def _names_of(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.ImportFrom | ast.Import):
        return {alias.asname or alias.name for alias in node.names}
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {each.id for each in targets if isinstance(each, ast.Name)}
    return set()


@functools.cache
def _fields() -> frozenset[str]:
    roots = (configs.DistillConfig(), configs.SweepConfig())
    return frozenset(name for root in roots for name, _ in configs.flatten(root))


def notebook_faults(path: pathlib.Path) -> Iterator[str]:
    """Yields what the cells of a notebook import, and that does not exist."""
    for number, cell in enumerate(json.loads(path.read_text())["cells"]):
        if cell["cell_type"] == "code":
            code = "".join(line for line in cell["source"] if line[0] not in "%!")  # IPython's
            for fault in import_faults(code):
                yield f"{path.relative_to(ROOT)}: cell {number}: {fault}"


def import_faults(text: str) -> Iterator[str]:
    """Yields the names that Python code imports of our packages, and that do not exist."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        yield f"the Python code has a syntax error: {error.msg}"
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name.partition(".")[0] in _FOLDERS and not _is_defined(name):
                yield f"nothing is called {name}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

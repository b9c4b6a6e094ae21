"""Extracts English prose from the docstrings of the installed Python and its packages.

Every machine has this text: `sources` reads it as a pretraining corpus, and the quickstart makes a
classification task of it (are two words swapped?). Files are parsed, never imported.
"""

import ast
import dataclasses
import hashlib
import inspect
import os
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

import sentencex

PYTHON = "python"  # the package name of the standard library

_SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "testing", "_vendor", "idlelib", "site-packages", "dist-packages"}
)
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_PYTHON_FILE = re.compile(r"(?!test_)(?!.*_test\.py).*\.py")
_TOPICS = "pydoc_data.topics"

# Sections of numpydoc in which lines with the indent of the title are signatures, not prose.
_FIELD_SECTIONS = frozenset(
    {"attributes", "keyword arguments", "methods", "other parameters", "parameters", "properties"}
    | {"raises", "receives", "return", "returns", "warns", "yields"}
)
_SECTIONS_WITHOUT_PROSE = frozenset({"see also", "references", "authors", "routine listings"})
# Directives of reStructuredText whose body is prose; the body of any other is dropped.
_PROSE_DIRECTIVES = frozenset(
    {"admonition", "attention", "caution", "danger", "hint", "important", "note", "notes", "tip"}
    | {"warning", "deprecated", "versionadded", "versionchanged"}
)

_LICENCE = re.compile(
    r"licensed under|permission is hereby granted|redistribution and use|warrant(y|ies) of"
    r"|licen[cs]e agreement|all rights reserved",
    re.IGNORECASE,
)
_DIRECTIVE = re.compile(r"\.\.( +([\w:-]+)::\s*(.*)| .*|$)")
_RULE = re.compile(r"[^\w\s](?:[^\w\s]| (?=[^\w\s]))+")  # ----, ====, === ===, +---+
_TABLE_ROW = re.compile(r"[|+].*[|+]$|.*\S(?: {3,}|\s*\|\s+)\S")
_SIGNATURE = re.compile(r"[*`\w][^:]{0,80}? : ")  # x : array_like, optional
_FIELDS_HEADING = re.compile(
    r"(?:args|arguments|parameters|keyword args|keyword arguments|returns?|yields?|raises?"
    r"|attributes|fields|options|kwargs):",
    re.IGNORECASE,
)
_HEADING = re.compile(r"#+ .*|(?:[A-Z]\w*|<[^>]*>)(?: \w+){0,3}:{1,2}")
_FIELD = re.compile(
    r"[*`\"']*[\w.*, -]{1,40}[`\"']*\s*(?:\([^()]*(?:\([^()]*\)[^()]*)*\))?\s*:(?:\s+|$)"
)
_FIELD_LIST = re.compile(r"[:@](\w+)(?: [^:`]*)?:(?:\s+|$)")  # :param int x: words
_FIELDS_WITHOUT_PROSE = frozenset({"type", "rtype", "vartype", "license", "copyright", "author"})
_LIST_ITEM = re.compile(r"(?:[-*+•o]|\(?(?:\d{1,2}|[a-z])[.)])\s+")

# Inline markup and the words it stands for, in this order.
_MARKUP = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r":math:`[^`]*`", r"\\"),  # a formula; the backslash condemns its sentence
        (r"`([^`<]+?)\s*<[^`>]*>`_{0,2}", r"\1"),  # a link with a text
        (r"\[([^][]+)\]\([^()\s]*\)", r"\1"),  # the same in Markdown
        (r"\s?\[(?:\d+|[A-Z]\w*)\]_", ""),  # a citation
        (r":[\w:]*\w:`[~!]?([^`]*)`", r"\1"),  # a role
        (r"`+[~!]?([^`]*)`+_{0,2}", r"\1"),
        (r"(?<![\w*])\*{1,2}([^\s*](?:[^*]*[^\s*])?)\*{1,2}(?![\w*])", r"\1"),
        (r"(?<!\w)_{1,2}([A-Za-z][^_]*)_{1,2}(?!\w)", r"\1"),
        (r"\s+", " "),
    )
)
_SENTENCE = re.compile(r"[\"'(]*[A-Z].*[.!?][\"')]*")
_NOT_PROSE = re.compile(
    r"://|www\.|[\\{}<>=|;$\[\]\x00-\x1f\x7f-\x9f]|\w\([^()]*\w|@\w|--|\.\.\. | \.$|[Cc]opyright"
)
_WORD = re.compile(r"[(\"']*[^\W\d_]+(?:[-'/][^\W\d_]+)*[.,:!?)\"']*")


@dataclasses.dataclass(frozen=True, slots=True)
class Docstring:
    """The prose of one docstring."""

    package: str  # "numpy"; "python" for the standard library
    module: str  # "numpy.linalg._linalg"
    sentences: list[str]


@dataclasses.dataclass(frozen=True, slots=True)
class SourceFile:
    """A Python file whose docstrings are read."""

    path: Path
    package: str
    module: str
    size: int  # bytes


def source_files() -> list[SourceFile]:
    """Lists the files of the standard library, then those of the packages, each sorted by path.

    Tests and copies of other packages are left out.
    """
    paths = sysconfig.get_paths()
    return [
        _source_file(path, root, package)
        for root, package in ((Path(paths["stdlib"]), PYTHON), (Path(paths["purelib"]), ""))
        for path in _python_files(root)
    ]


def _python_files(root: Path) -> list[Path]:
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = set(subfolders) - _SKIPPED_FOLDERS
        found += [Path(folder, name) for name in names if _PYTHON_FILE.fullmatch(name)]
    return sorted(path for path in found if path.is_file())


def _source_file(path: Path, root: Path, package: str) -> SourceFile:
    name = path.relative_to(root).with_suffix("").as_posix().removesuffix("/__init__")
    module = name.replace("/", ".")
    return SourceFile(path, package or module.partition(".")[0], module, path.stat().st_size)


def read_docstrings(file: SourceFile, seen: set[bytes]) -> Iterator[Docstring]:
    """Yields the docstrings of a file in source order; none if it is not valid Python.

    Args:
      file: one of `source_files`.
      seen: digests of the docstrings read before, which are skipped; this call adds its own. So an
        inherited copy of a docstring counts once.
    """
    tree = _parse(file.path)
    for raw in _raw_docstrings(tree) if tree else ():
        digest = hashlib.blake2b(raw.encode(), digest_size=16).digest()
        if digest in seen:
            continue
        seen.add(digest)
        if sentences := clean(raw):
            yield Docstring(file.package, file.module, sentences)


def python_docstrings() -> Iterator[Docstring]:
    """Yields all docstrings with prose of the standard library and the installed packages.

    The result depends only on the installed versions. Docstrings of one module share words and
    subject: split training and evaluation data by `module`.
    """
    seen: set[bytes] = set()
    for file in source_files():
        yield from read_docstrings(file, seen)


def topics(file: SourceFile) -> Iterator[tuple[str, list[str]]]:
    """Yields (name, sentences) of each topic of Python's language reference, if `file` has it."""
    tree = _parse(file.path) if file.module == _TOPICS else None
    for statement in tree.body if tree else ():
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            for topic, text in ast.literal_eval(statement.value).items():
                if sentences := clean(text):
                    yield f"{_TOPICS}.{topic}", sentences


def _parse(path: Path) -> ast.Module | None:
    """Parses a file; None if this Python cannot: templates, syntax of other versions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about old syntax in the parsed files
        try:
            return ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, RecursionError, MemoryError, OSError):
            return None


def _raw_docstrings(tree: ast.Module) -> Iterator[str]:
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, _DOCUMENTED) and (docstring := ast.get_docstring(node)):
            # Replaces halves of surrogate pairs, which escapes can write.
            yield docstring.encode("utf-8", "replace").decode()
        children = ast.iter_child_nodes(node)
        inner = [child for child in children if isinstance(child, ast.stmt | ast.ExceptHandler)]
        stack.extend(reversed(inner))


def clean(docstring: str) -> list[str]:
    """Returns the sentences of English prose in a docstring, without code, tables and markup."""
    if _LICENCE.search(docstring):
        return []
    lines = inspect.cleandoc(docstring).split("\n")
    sentences = []
    for paragraph in _paragraphs(_items(_without_sections(_without_blocks(lines)))):
        for pattern, words in _MARKUP:
            paragraph = pattern.sub(words, paragraph)
        sentences.extend(filter(_is_prose, _split(paragraph)))
    return sentences


def _split(paragraph: str) -> Iterator[str]:
    """Splits at white space only: `numpy.random.Generator` is one word."""
    sentence = ""
    # `sentencex` is compiled and has no types. It panics on white space other than " " before a
    # full stop; the paragraph has none.
    for part in sentencex.segment("en", paragraph):  # pyright: ignore[reportAttributeAccessIssue]
        sentence += part
        if part[-1].isspace():
            yield sentence.strip()
            sentence = ""
    if sentence:
        yield sentence


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _without_blocks(lines: list[str]) -> list[str]:
    """Blanks code, doctests, tables, directives and their bodies."""
    kept: list[str] = []
    body_of = -1  # lines with a larger indent are the body of a dropped block; -1: no block
    fenced = doctest = False
    for line in lines:
        text, indent = line.strip(), _indent(line)
        if text.startswith(("```", "~~~")):
            fenced, text = not fenced, ""
        elif fenced:
            text = ""
        elif not text:
            doctest = False
        elif body_of >= 0 and indent > body_of:
            text = ""
        elif doctest or text.startswith(">>>"):
            doctest, text = True, ""
        else:
            body_of = -1
            if directive := _DIRECTIVE.match(text):
                name, argument = directive[2], directive[3]
                body_of = -1 if name in _PROSE_DIRECTIVES else indent
                text = argument if name in _PROSE_DIRECTIVES else ""
            elif text.endswith("::"):
                body_of, text = indent, text[:-1]
            elif _TABLE_ROW.match(text):
                text = ""
        kept.append(" " * indent + text if text else "")
    return kept


def _without_sections(lines: list[str]) -> list[str]:
    """Blanks underlined titles, the signatures under them, and sections without prose."""
    kept: list[str] = []
    title, title_indent = "", 0
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        text, indent = line.strip(), _indent(line)
        if text and _RULE.fullmatch(following.strip()) and not _RULE.fullmatch(text):
            title, title_indent, text = text.lower(), indent, ""
        elif (
            title in _SECTIONS_WITHOUT_PROSE
            or (title in _FIELD_SECTIONS and indent <= title_indent)
            or _RULE.fullmatch(text)
            or _SIGNATURE.match(text)
        ):
            text = ""
        kept.append(" " * indent + text if text else "")
    return kept


def _items(lines: list[str]) -> Iterator[tuple[int, bool, str]]:
    """Yields (indent, True at the begin of a list item or field, text); '' ends a paragraph."""
    fields_of = -1  # indent of the heading, such as 'Args:', above this line; -1: none
    for line in lines:
        text, indent = line.strip(), _indent(line)
        if not text:
            yield 0, False, ""
            continue
        if indent <= fields_of:
            fields_of = -1
        if _FIELDS_HEADING.fullmatch(text):
            fields_of, text = indent, ""
        begins = False
        if match := _FIELD_LIST.match(text):
            begins = True
            text = "" if match[1] in _FIELDS_WITHOUT_PROSE else text[match.end() :]
        elif match := _LIST_ITEM.match(text) or (_FIELD.match(text) if fields_of >= 0 else None):
            begins, text = True, text[match.end() :]
        elif _HEADING.fullmatch(text):
            text = ""
        if begins:
            yield 0, False, ""
        yield indent, begins, text


def _paragraphs(lines: Iterator[tuple[int, bool, str]]) -> Iterator[str]:
    """Joins wrapped lines; a new indent begins a paragraph, except below an item's first line."""
    paragraph: list[str] = []
    last_indent, hanging = 0, False
    for indent, begins, text in lines:
        broken = indent < last_indent or (indent > last_indent and not hanging)
        if paragraph and (not text or broken):
            yield " ".join(paragraph)
            paragraph = []
        if text:
            paragraph.append(text)
        hanging = begins
        last_indent = indent
    if paragraph:
        yield " ".join(paragraph)


def _is_prose(sentence: str) -> bool:
    """Returns True for a whole sentence of at least four words, mostly letters, without code."""
    if not _SENTENCE.fullmatch(sentence) or _NOT_PROSE.search(sentence):
        return False
    words = sentence.split()
    plain = sum(_WORD.fullmatch(word) is not None for word in words)
    return plain >= 4 and plain >= 0.8 * len(words)

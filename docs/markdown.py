"""Markdown pages, as far as docs/check.py has to understand them."""

import dataclasses
import pathlib
import re
from collections.abc import Iterator

_FENCE = re.compile(r"\s*```(\w*)")
_HEADING = re.compile(r"#+ +(.*?)\s*$")
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a page; `number` counts from 1."""

    number: int
    text: str


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced code block: the language after its fence ('' if none), and its lines."""

    language: str
    lines: tuple[Line, ...]


class Page:
    """A page, taken apart into prose and code blocks.

    Attributes:
      path: of the file.
      blocks: all fenced code blocks.
      prose: the lines outside of them.
      is_superseded: True for a decision that no longer holds.
    """

    def __init__(self, path: pathlib.Path) -> None:
        """Reads the file."""
        self.path = path
        self.prose: list[Line] = []
        self.blocks: list[Block] = []
        language, inside = None, []
        for number, text in enumerate(path.read_text().splitlines(), 1):
            fence = _FENCE.match(text)
            if fence and language is None:
                language = fence[1]
            elif fence:
                self.blocks.append(Block(language or "", tuple(inside)))
                language, inside = None, []
            elif language is None:
                self.prose.append(Line(number, text))
            else:
                inside.append(Line(number, text))

        self.is_superseded = any("**Superseded" in line.text for line in self.prose[:4])

    def code_spans(self) -> Iterator[Line]:
        """Yields what stands between backticks, also where that is wrapped over two lines."""
        text = "\n".join(line.text for line in self.prose)
        for match in re.finditer(r"`([^`]+)`", text):
            number = self.prose[text.count("\n", 0, match.start())].number
            yield Line(number, " ".join(match[1].split()))

    def links(self) -> Iterator[Line]:
        """Yields the targets of links and pictures."""
        for line in self.prose:
            for match in _LINK.finditer(re.sub(r"`[^`]*`", "", line.text)):
                yield Line(line.number, match[2])

    def anchors(self) -> set[str]:
        """Returns the anchors that GitHub makes of the headings."""
        found: set[str] = set()
        for line in self.prose:
            if heading := _HEADING.match(line.text):
                plain = _LINK.sub(r"\1", heading[1]).lower()
                anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
                repeats = sum(each.rpartition("-")[0] == anchor for each in found)
                found.add(f"{anchor}-{repeats + 1}" if anchor in found else anchor)
        return found

"""Draws docs/wings.svg: the wings of the package on their floors, and who imports whom.

    python -m docs.wings

The floors are those of tests/test_floors.py, the arrows come from the imports. An arrow that
follows from others is left out: `training` imports `model`, too, by way of `objectives`.
"""

import pathlib

from tests.test_floors import FLOORS, imported_modules, modules, wing_of

PICTURE = pathlib.Path(__file__).with_name("wings.svg")
DRIVERS, GROUND = "drivers", "errors, files, stopping, config"
# Nearly every wing imports these, so they have no arrows.
_GROUND = frozenset(GROUND.split(", "))

# The column of each box, from the left, and what is in it. Two boxes are as wide as the picture.
BOXES: dict[str, tuple[int, str]] = {
    GROUND: (0, "the error of a user; files whole or absent; stop requests; every setting"),
    "text": (0, "tokenizers"),
    "data.corpus": (0, "text to token arrays"),
    "data.packing": (1, "examples into rows"),
    "data.pretraining": (0, "plan, rows, mixtures"),
    "data.tasks": (1, "labelled files, scores"),
    "distributed": (2, "mesh, processes"),
    "cli": (3, "flags, one-line errors"),
    "model": (2, "encoder, heads"),
    "objectives": (2, "masking, losses"),
    "training": (2, "step, optimizer, loop"),
    "checkpoints": (2, "save, restore, transfer"),
    "tasks": (2, "evaluate, predict"),
    "runs": (2, "compiled steps"),
    "planning": (1, "compile ahead, costs"),
    "interop": (2, "Hugging Face, TF1"),
    "inspection": (3, "look inside"),
    "retrieval": (2, "search by vectors"),
    DRIVERS: (0, "prepare, pretrain, finetune, evaluate, predict, convert, plan, ..."),
}
_WIDE = (DRIVERS, GROUND)
_BOX, _GAP, _ROW, _HEIGHT, _MARGIN = 160, 24, 60, 40, 16
_WIDTH = 4 * _BOX + 3 * _GAP + 2 * _MARGIN


def floors() -> list[tuple[str, ...]]:
    """Returns the boxes of each floor, from the ground up."""
    wings = [tuple(wing for wing in floor if wing not in _GROUND) for floor in FLOORS]
    return [(GROUND,), *filter(None, wings), (DRIVERS,)]


def imports_of_wings() -> dict[str, set[str]]:
    """Returns the wings above the ground that each wing imports; the drivers count as one."""
    found: dict[str, set[str]] = {wing: set() for floor in floors() for wing in floor}
    for name in filter(None, modules()):
        wing = wing_of(name) or DRIVERS
        if wing not in _GROUND and not name.endswith("__main__"):
            others = {wing_of(each) or DRIVERS for each in imported_modules(name)}
            found[wing] |= others - {wing} - _GROUND
    return found


def arrows(imports: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Returns (importer, imported) of those imports that do not follow from others."""

    def reach(wing: str) -> set[str]:
        return imports[wing].union(*map(reach, imports[wing]))

    return [
        (wing, other)
        for wing, others in imports.items()
        for other in sorted(others)
        if not any(other in reach(between) for between in others - {other})
    ]


def draw() -> str:
    """Returns the picture."""
    row_of = {wing: row for row, wings in enumerate(reversed(floors())) for wing in wings}
    missing = set(row_of) ^ set(BOXES)
    assert not missing, f"BOXES in docs/wings.py and FLOORS differ: {missing}"
    height = len(floors()) * _ROW - (_ROW - _HEIGHT) + 2 * _MARGIN

    def box(wing: str) -> tuple[int, int, int]:
        """Returns the left and top edges of a box, and its width."""
        wide = _WIDTH - 2 * _MARGIN
        left = _MARGIN + BOXES[wing][0] * (_BOX + _GAP)
        return left, _MARGIN + row_of[wing] * _ROW, wide if wing in _WIDE else _BOX

    def path(importer: str, imported: str) -> str:
        """Returns an arrow: down, or out of the left of a box, or into the right of one."""
        (x, y, size), (to_x, to_y, to_size) = box(importer), box(imported)
        end_x, end_y = to_x + to_size // 2, to_y - 3
        rows = row_of[imported] - row_of[importer]
        if importer == DRIVERS:
            return f"M{end_x},{y + _HEIGHT} L{end_x},{end_y}"
        if to_x < x and rows > 2:
            return f"M{x},{y + _HEIGHT // 2} Q{end_x},{y + _HEIGHT // 2} {end_x},{end_y - 9} v9"
        middle = x + size // 2
        if to_x < x and rows == 2:
            end_x, end_y = to_x + to_size + 3, to_y + _HEIGHT // 2
            return f"M{middle},{y + _HEIGHT} Q{middle},{end_y} {end_x + 9},{end_y} h-9"
        bend = (y + _HEIGHT + end_y) // 2
        return f"M{middle},{y + _HEIGHT} C{middle},{bend} {end_x},{bend} {end_x},{end_y - 9} v9"

    lines = [f'<path d="{path(*arrow)}"/>' for arrow in arrows(imports_of_wings())]
    boxes = []
    for wing, (_, caption) in BOXES.items():
        x, y, size = box(wing)
        boxes.append(
            f'<rect x="{x}" y="{y}" width="{size}" height="{_HEIGHT}" rx="5"/>\n'
            f'<text x="{x + size // 2}" y="{y + 17}" class="name">{wing}</text>\n'
            f'<text x="{x + size // 2}" y="{y + 32}">{caption}</text>'
        )
    head = _HEAD.format(width=_WIDTH, height=height)
    return "\n".join([head, *lines, *boxes, "</svg>\n"])


_HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">
<style>
text {{ font: 11px sans-serif; text-anchor: middle; fill: #444 }}
.name {{ font: bold 13px sans-serif; fill: #111 }}
rect {{ fill: #eef3fa; stroke: #5b7ba8 }}
path {{ fill: none; stroke: #8a8a8a; stroke-width: 1.3; marker-end: url(#tip) }}
</style>
<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="5" refY="3" orient="auto">
<polygon points="0,0 6,3 0,6" fill="#8a8a8a"/></marker></defs>
<rect width="100%" height="100%" style="fill: white; stroke: none"/>"""


if __name__ == "__main__":
    PICTURE.write_text(draw())

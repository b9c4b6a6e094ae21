"""Shows a checkpoint: parameters, changes, and attention or predictions for a text.

    python -m bert_jax.inspection runs/base                      # every parameter
    python -m bert_jax.inspection runs/base --show=layers --match=attention
    python -m bert_jax.inspection runs/base runs/sst2            # changes by fine-tuning
    python -m bert_jax.inspection runs/base --show=changes       # from step to step of one run
    python -m bert_jax.inspection runs/base --show=neighbours --text=bear
    python -m bert_jax.inspection runs/base --show=tokens --text='this teddy bear is so cute.'
    python -m bert_jax.inspection runs/base --show=attention --text='a cat sat.' --output=maps.png

A run stands for its best or newest checkpoint. No accelerator is needed.
"""

import json
from collections.abc import Callable, Sequence

from absl import flags
from matplotlib.figure import Figure

from bert_jax.cli import app
from bert_jax.errors import UserError
from bert_jax.inspection.changes import changes_by_step, only_in_one, parameter_changes
from bert_jax.inspection.internals import masked_in_turn, state_table, text_internals
from bert_jax.inspection.plots import plot_attention_grid, plot_changes, plot_steps
from bert_jax.inspection.stored import open_checkpoint
from bert_jax.inspection.tables import (
    Table,
    group_table,
    moment_table,
    neighbours,
    parameter_table,
)

_MATCH = flags.DEFINE_string("match", "", "show only parameters whose name matches this regex")
_SORT = flags.DEFINE_string("sort", "", "column to sort parameters by")
_VALUES = flags.DEFINE_bool("values", True, "False: show shapes only, reading no array")
_TEXT = flags.DEFINE_string("text", "", "a token for neighbours; a text for tokens and attention")
_TEXT_PAIR = flags.DEFINE_string("text_pair", "", "the second text of a pair")
_COUNT = flags.DEFINE_integer(
    "count", 10, "number of neighbours or likeliest tokens", lower_bound=1
)
_OUTPUT = flags.DEFINE_string("output", "", "a .png or .svg for the plot of changes or attention")
_JSON = flags.DEFINE_bool("json", False, "print the rows as JSON lines")


def _parameters(given: Sequence[str]) -> Table:
    return parameter_table(
        open_checkpoint(given[0]).params,
        match=_MATCH.value,
        sort=_SORT.value,
        values=_VALUES.value,
    )


def _groups(given: Sequence[str]) -> Table:
    return group_table(open_checkpoint(given[0]).params, match=_MATCH.value)


def _layers(given: Sequence[str]) -> Table:
    params = open_checkpoint(given[0]).params
    return parameter_table(params, match=_MATCH.value, sort=_SORT.value, by_layer=True)


def _moments(given: Sequence[str]) -> Table:
    return moment_table(open_checkpoint(given[0]), match=_MATCH.value, by_layer=True)


def _changes(given: Sequence[str]) -> Table:
    if len(given) == 1:
        table = changes_by_step(given[0], match=_MATCH.value)
        _draw(lambda: plot_steps(table))
        return table
    before, after = map(open_checkpoint, given)
    table = parameter_changes(before, after, match=_MATCH.value)
    _draw(lambda: plot_changes(parameter_changes(before, after, match=_MATCH.value, by_array=True)))
    return table


def _neighbours(given: Sequence[str]) -> Table:
    return neighbours(open_checkpoint(given[0]), _text("bear"), count=_COUNT.value)


def _tokens(given: Sequence[str]) -> Table:
    text = _text("this teddy bear is so cute.")
    lm = open_checkpoint(given[0]).restore_masked_lm()
    return masked_in_turn(lm, text, _TEXT_PAIR.value, count=min(_COUNT.value, 5))


def _attention(given: Sequence[str]) -> Table:
    text = _text("this teddy bear is so cute.")
    inside = text_internals(open_checkpoint(given[0]).restore_encoder(), text, _TEXT_PAIR.value)
    _draw(lambda: plot_attention_grid(inside))
    return state_table(inside)


_VIEWS: dict[str, Callable[[Sequence[str]], Table]] = {
    "parameters": _parameters,
    "groups": _groups,
    "layers": _layers,
    "moments": _moments,
    "changes": _changes,
    "neighbours": _neighbours,
    "tokens": _tokens,
    "attention": _attention,
}
_SHOW = flags.DEFINE_enum(
    "show", None, list(_VIEWS), "view; by default parameters, or changes for two checkpoints"
)


def _text(example: str) -> str:
    return app.require("text", _TEXT.value, repr(example))


def _draw(plot: Callable[[], Figure]) -> None:
    if not _OUTPUT.value:
        return
    if not _OUTPUT.value.endswith((".png", ".svg")):
        raise UserError(f"--output={_OUTPUT.value} is no picture: name a .png or .svg")
    plot().savefig(_OUTPUT.value, dpi=120)


def main(argv: Sequence[str]) -> None:
    """Prints the table of a view, and writes its plot."""
    given = argv[1:]  # one or two checkpoints
    if not given:
        raise UserError("no checkpoint is named: name a run, such as runs/base")
    shown = _SHOW.value or ("changes" if len(given) == 2 else "parameters")
    most = 2 if shown == "changes" else 1
    if len(given) > most:
        takes = "two checkpoints" if most == 2 else "one checkpoint"
        raise UserError(f"--show={shown} takes {takes}: leave out {given[most]}")
    if _OUTPUT.value and shown not in ("changes", "attention"):
        raise UserError(f"--show={shown} has no plot: leave out --output={_OUTPUT.value}")
    table = _VIEWS[shown](given)
    if _JSON.value:
        print("\n".join(json.dumps(row, ensure_ascii=False) for row in table))
        return
    if len(given) == 1:
        print(open_checkpoint(given[0]))
    else:
        for name, groups in zip(given, only_in_one(*map(open_checkpoint, given)), strict=True):
            print(f"only in {name}: {', '.join(groups) or 'nothing'}")
    print(table)


if __name__ == "__main__":
    app.run(main, positional=True)

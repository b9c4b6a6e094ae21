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

import contextlib
import json
import math
from collections.abc import Sequence
from typing import Any

from absl import flags

from bert_jax.cli import app
from bert_jax.errors import UserError
from bert_jax.files import given_path, new_file
from bert_jax.inspection.choices import PICTURES, PLOTTED, View

_MATCH = flags.DEFINE_string("match", "", "show only parameters whose name matches this regex")
_SORT = flags.DEFINE_string("sort", "", "column to sort parameters by")
_VALUES = flags.DEFINE_bool("values", True, "False: show shapes only, reading no array")
_TEXT = flags.DEFINE_string("text", "", "a token for neighbours; a text for tokens and attention")
_TEXT_PAIR = flags.DEFINE_string("text_pair", "", "the second text of a pair")
_COUNT = flags.DEFINE_integer(
    "count", None, "number of neighbours (10) or likeliest tokens (5)", lower_bound=1
)
_OUTPUT = flags.DEFINE_string("output", "", "a .png or .svg for the plot of changes or attention")
_JSON = flags.DEFINE_bool("json", False, "print the rows as JSON lines")
_SHOW = flags.DEFINE_enum(
    "show",
    None,
    [v.value for v in View],
    "view; by default parameters, or changes for two checkpoints",
)


_READ_BY = (  # flag, views
    (_MATCH, (View.PARAMETERS, View.GROUPS, View.LAYERS, View.MOMENTS, View.CHANGES)),
    (_SORT, (View.PARAMETERS, View.LAYERS)),
    (_VALUES, (View.PARAMETERS,)),
    (_TEXT, (View.NEIGHBOURS, View.TOKENS, View.ATTENTION)),
    (_TEXT_PAIR, (View.TOKENS, View.ATTENTION)),
    (_COUNT, (View.NEIGHBOURS, View.TOKENS)),
    (_OUTPUT, PLOTTED),
)


def _shown(given: Sequence[str]) -> View:
    if not given:
        raise UserError("no checkpoint is named: name a run, such as runs/base")
    view = View(_SHOW.value or ("changes" if len(given) == 2 else "parameters"))
    most = 2 if view is View.CHANGES else 1
    if len(given) > most:
        takes = "two checkpoints" if most == 2 else "one checkpoint"
        raise UserError(f"--show={view.value} takes {takes}: leave out {given[most]}")
    for flag, views in _READ_BY:
        if flag.present and view not in views:
            others = " or ".join(other.value for other in views)
            raise UserError(
                f"--{flag.name}={flag.value} is not of --show={view.value}, but of {others}: leave"
                " it out"
            )
    return view


def _checked_output() -> str:
    output = _OUTPUT.value
    if output and not output.endswith(PICTURES):
        raise UserError(f"--output={output} is no picture: name a .png or .svg")
    return output


def _text(view: View) -> str:
    examples = {
        View.NEIGHBOURS: "bear",
        View.TOKENS: "this teddy bear is so cute.",
        View.ATTENTION: "this teddy bear is so cute.",
    }
    return app.require("text", _TEXT.value, repr(examples[view])) if view in examples else ""


def _json_line(row: dict[str, Any]) -> str:
    """Returns a row as JSON, which has no infinity and no NaN: they are null."""
    values = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }
    return json.dumps(values, ensure_ascii=False, allow_nan=False)


def main(argv: Sequence[str]) -> None:
    """Prints the table of a view, and writes its plot."""
    given = argv[1:]  # one or two checkpoints
    view = _shown(given)
    output, text = _checked_output(), _text(view)
    with app.imports():
        from bert_jax.distributed.compiled import keep_compiled_of_commands
        from bert_jax.inspection.views import ViewOptions, heading, make_table
    keep_compiled_of_commands()
    with new_file(given_path(output)) if output else contextlib.nullcontext() as picture:
        options = ViewOptions(
            match=_MATCH.value,
            sort=_SORT.value,
            values=_VALUES.value,
            text=text,
            text_pair=_TEXT_PAIR.value,
            count=_COUNT.value,
            output=picture,
        )
        table = make_table(view, given, options)
    if _JSON.value:
        print("\n".join(map(_json_line, table)))
    else:
        print(f"{heading(given)}\n{table}")


if __name__ == "__main__":
    app.run(main, positional=True)

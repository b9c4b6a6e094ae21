"""Tables and plots of the inspection command, one function for each view."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

from bert_jax.inspection.changes import changes_by_step, only_in_one, parameter_changes
from bert_jax.inspection.choices import View
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

_DOTS_PER_INCH = 120
_NEIGHBOURS = 10
_LIKELIEST = 5  # tokens in a column, so that a row fits a terminal


@dataclasses.dataclass(frozen=True)
class ViewOptions:
    """Options of views; each view reads those that it has a use for."""

    match: str  # regular expression that the names of shown parameters match
    sort: str  # column to sort parameters by; '' for the order of the model
    values: bool  # False: shapes alone, no array is read
    text: str  # a token for neighbours, a text for tokens and attention
    text_pair: str  # the second text of a pair; '' for none
    count: int | None  # of neighbours or likeliest tokens; None: the view's own
    output: pathlib.Path | None  # a picture of the plot


def make_table(view: View, given: Sequence[str], options: ViewOptions) -> Table:
    """Returns the table of a view, and writes its plot.

    Args:
      view: to show.
      given: one checkpoint or run; for changes, one run or two checkpoints.
      options: of the view.

    Raises:
      UserError: if a checkpoint is not there, or has not what the view shows.
    """
    return _VIEWS[view](given, options)


def heading(given: Sequence[str]) -> str:
    """Returns a description of one checkpoint, or the groups that one of two lacks."""
    if len(given) == 1:
        return str(open_checkpoint(given[0]))
    groups = only_in_one(*map(open_checkpoint, given))
    return "\n".join(
        f"only in {name}: {', '.join(only) or 'nothing'}"
        for name, only in zip(given, groups, strict=True)
    )


def _parameters(given: Sequence[str], options: ViewOptions) -> Table:
    return parameter_table(
        open_checkpoint(given[0]).params,
        match=options.match,
        sort=options.sort,
        values=options.values,
    )


def _groups(given: Sequence[str], options: ViewOptions) -> Table:
    return group_table(open_checkpoint(given[0]).params, match=options.match)


def _layers(given: Sequence[str], options: ViewOptions) -> Table:
    params = open_checkpoint(given[0]).params
    return parameter_table(params, match=options.match, sort=options.sort, by_layer=True)


def _moments(given: Sequence[str], options: ViewOptions) -> Table:
    return moment_table(open_checkpoint(given[0]), match=options.match, by_layer=True)


def _changes(given: Sequence[str], options: ViewOptions) -> Table:
    if len(given) == 1:
        table = changes_by_step(given[0], match=options.match)
        if options.output:
            plot_steps(table).savefig(options.output, dpi=_DOTS_PER_INCH)
        return table
    before, after = map(open_checkpoint, given)
    if options.output:
        arrays = parameter_changes(before, after, match=options.match, by_array=True)
        plot_changes(arrays).savefig(options.output, dpi=_DOTS_PER_INCH)
    return parameter_changes(before, after, match=options.match)


def _neighbours(given: Sequence[str], options: ViewOptions) -> Table:
    count = options.count or _NEIGHBOURS
    return neighbours(open_checkpoint(given[0]), options.text, count=count)


def _tokens(given: Sequence[str], options: ViewOptions) -> Table:
    lm = open_checkpoint(given[0]).restore_masked_lm()
    count = options.count or _LIKELIEST
    return masked_in_turn(lm, options.text, options.text_pair, count=count)


def _attention(given: Sequence[str], options: ViewOptions) -> Table:
    encoder = open_checkpoint(given[0]).restore_encoder()
    inside = text_internals(encoder, options.text, options.text_pair)
    if options.output:
        plot_attention_grid(inside).savefig(options.output, dpi=_DOTS_PER_INCH)
    return state_table(inside)


_VIEWS: dict[View, Callable[[Sequence[str], ViewOptions], Table]] = {
    View.PARAMETERS: _parameters,
    View.GROUPS: _groups,
    View.LAYERS: _layers,
    View.MOMENTS: _moments,
    View.CHANGES: _changes,
    View.NEIGHBOURS: _neighbours,
    View.TOKENS: _tokens,
    View.ATTENTION: _attention,
}

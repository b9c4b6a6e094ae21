"""Looks into checkpoints: for notebooks, and for the terminal as `python -m bert_jax.inspection`.

    from bert_jax import inspection

    run = inspection.open_checkpoint("runs/base")
    inspection.parameter_table(run.params, match="attention")
    inspection.plot_attention_grid(inspection.internals(run.restore_encoder(), "a cat sat."))

Everything runs on one device, whatever mesh wrote the checkpoint, and reads only what it shows.
"""

from bert_jax.inspection.changes import changes, changes_by_step, only_in_one
from bert_jax.inspection.internals import (
    Internals,
    encoder_internals,
    internals,
    masked_in_turn,
    state_table,
)
from bert_jax.inspection.plots import (
    plot_attention,
    plot_attention_grid,
    plot_changes,
    plot_steps,
)
from bert_jax.inspection.stored import StoredArrays, StoredCheckpoint, open_checkpoint
from bert_jax.inspection.tables import (
    Table,
    group_table,
    layer_arrays,
    moment_table,
    neighbours,
    parameter_table,
)

__all__ = [
    "Internals",
    "StoredArrays",
    "StoredCheckpoint",
    "Table",
    "changes",
    "changes_by_step",
    "encoder_internals",
    "group_table",
    "internals",
    "layer_arrays",
    "masked_in_turn",
    "moment_table",
    "neighbours",
    "only_in_one",
    "open_checkpoint",
    "parameter_table",
    "plot_attention",
    "plot_attention_grid",
    "plot_changes",
    "plot_steps",
    "state_table",
]

"""Budgets: how large a model, and for how many tokens, is worth a laptop's minutes?

The modern tiny's recipe at two shapes and four numbers of steps, each with a schedule of its own,
scored by the held-out loss and two tasks. It says where the size `cpu` of the other studies stands
(`sizes.py`): past the first plateau, at as few minutes as tell variants apart.
"""

import dataclasses

from experiments import tasks
from experiments.sizes import CPU
from experiments.study import Overrides, Study, Variant

_MINI: Overrides = (
    "encoder.layers=4",
    "encoder.width=256",
    "encoder.heads=4",
    "encoder.mlp_width=384",
    "encoder.init_stddev=0.04",
)

_SHAPES: dict[str, Overrides] = {"tiny": (), "mini": _MINI}
_STEPS = (250, 500, 1000, 2000)
_WARMUP_SHARE = 0.06  # of the steps, as the recipe has it

STUDY = Study(
    base="tiny_1000",
    variants=tuple(
        Variant(
            f"{shape}_{steps}",
            pretrain=(
                *overrides,
                f"steps={steps}",
                f"optimizer.warmup_steps={round(_WARMUP_SHARE * steps)}",
            ),
        )
        for shape, overrides in _SHAPES.items()
        for steps in _STEPS
    ),
    tasks=(tasks.ENTITIES, tasks.PARTS_OF_SPEECH),
    sizes={"cpu": dataclasses.replace(CPU, seeds=3, minutes=90)},
)

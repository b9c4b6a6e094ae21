"""Budgets: how large a model, and for how many tokens, is worth a laptop's minutes?

The modern tiny's recipe at two shapes and four numbers of steps, each with a schedule of its own,
scored by the held-out loss and two tasks. It says where the size `cpu` of the other studies stands
(`sizes.py`): past the first plateau, at as few minutes as tell variants apart.
"""

import dataclasses

from experiments import tasks
from experiments.sizes import CPU
from experiments.study import Overrides, Size, Study, Variant


def _with_variants(
    size: Size, shapes: dict[str, Overrides], steps: tuple[int, ...], warmup_share: float
) -> Size:
    """Returns a size that pretrains each shape for each number of steps.

    Args:
      size: to be given variants.
      shapes: name -> what makes the recipe's encoder one of this shape.
      steps: of the runs.
      warmup_share: of the steps.
    """
    return dataclasses.replace(
        size,
        variants=tuple(
            Variant(
                f"{shape}_{count}",
                pretrain=(
                    *overrides,
                    f"steps={count}",
                    f"optimizer.warmup_steps={round(warmup_share * count)}",
                ),
            )
            for shape, overrides in shapes.items()
            for count in steps
        ),
    )


_MINI: Overrides = (
    "encoder.layers=4",
    "encoder.width=256",
    "encoder.heads=4",
    "encoder.mlp_width=384",
    "encoder.init_stddev=0.04",
)

STUDY = Study(
    base="tiny_1000",
    variants=(),
    tasks=(tasks.ENTITIES, tasks.PARTS_OF_SPEECH),
    sizes={
        "cpu": _with_variants(
            dataclasses.replace(CPU, seeds=3, minutes=90),
            {"tiny": (), "mini": _MINI},
            (250, 500, 1000, 2000),
            0.06,
        ),
    },
)

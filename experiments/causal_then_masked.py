"""Does it pay to predict next tokens first, and masked ones after?

`causal_all` predicts next tokens for the whole budget. `masked_after_25` goes on from its
checkpoint after a quarter of the steps, before the rate falls, with masks and without the causal
mask, for the other three quarters; and so on. The first part is shared: its cost is that of
`causal_all`.
"""

import dataclasses

from experiments import tasks
from experiments.sizes import CPU, GPU, POD
from experiments.study import Published, Size, Study, Variant

_SHARES = (25, 50, 75)  # percent of the steps


def _with_variants(size: Size, steps: int) -> Size:
    quarter = steps // 4
    causal = (
        "encoder.causal=True",
        "masking.strategy=next_token",
        f"checkpoint_steps={quarter}",
        f"keep_every_steps={quarter}",
        f"steps={steps}",
    )
    going_on = (
        Variant(
            f"masked_after_{share}",
            pretrain=(f"steps={steps - steps * share // 100}",),
            init=f"causal_all@{steps * share // 100}",
        )
        for share in _SHARES
    )
    variants = (
        Variant("masked_all", pretrain=(f"steps={steps}",)),
        Variant("causal_all", pretrain=causal),
        *going_on,
    )
    return dataclasses.replace(size, variants=variants)


STUDY = Study(
    base="masked_all",
    variants=(),
    tasks=(tasks.ENTITIES, tasks.PARTS_OF_SPEECH),
    sizes={
        "cpu": _with_variants(CPU, 1000),
        "gpu": _with_variants(GPU, 100_000),
        "pod": _with_variants(POD, 1_000_000),
    },
    published=(
        Published(
            source="Should we still pretrain encoders with MLM? (Gisserot-Boukhlef et al., 2025),"
            " in words: masked tokens alone are better than next tokens alone, and at a fixed"
            " budget both in turn are best",
            columns=(),
            rows={},
        ),
    ),
)

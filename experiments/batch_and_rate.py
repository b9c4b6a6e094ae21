"""Batch size and learning rate, where every run sees the same rows.

RoBERTa's table 3: from 256 rows to 8,000, with fewer steps and higher rates. LAMB is for the
largest ones.
"""

import dataclasses

from experiments import tasks
from experiments.sizes import CPU, GPU, POD
from experiments.study import Published, Size, Study, Variant

_EVAL_BATCHES = 64  # of the smallest ones


def _batches(size: Size, batch_size: int, steps: int, rate: float) -> Size:
    """Returns a size whose variants see as many rows as so many steps of such batches."""

    def variant(times: int, *extra: str) -> Variant:
        # The rate grows as the square root of the batch, as is usual for Adam.
        overrides = (
            f"batch_size={batch_size * times}",
            f"steps={steps // times}",
            f"optimizer.warmup_steps={max(steps // times // 20, 1)}",
            f"optimizer.learning_rate={rate * times**0.5:.3g}",
            f"eval_batches={_EVAL_BATCHES // times}",  # the same rows
        )
        kind = "".join(f"+{each.rpartition('=')[2]}" for each in extra)
        return Variant(f"batch_x{times}{kind}", pretrain=(*overrides, *extra))

    lamb = variant(16, "optimizer.rule=lamb")
    return dataclasses.replace(size, variants=(*(variant(n) for n in (1, 4, 16)), lamb))


STUDY = Study(
    base="batch_x1",
    variants=(),
    tasks=(tasks.ENTITIES,),
    sizes={
        "cpu": _batches(CPU, 32, 1000, 3e-3),
        "gpu": _batches(GPU, 256, 100_000, 5e-4),
        "pod": _batches(POD, 256, 1_000_000, 1e-4),
    },
    published=(
        Published(
            source="RoBERTa (Liu et al., 2019), table 3: base; perplexity held out, others dev",
            columns=("perplexity", "MNLI-m", "SST-2"),
            rows={
                "256 rows, 1M steps, 1e-4": (3.99, 84.7, 92.7),
                "2K rows, 125K steps, 7e-4": (3.68, 85.2, 92.9),
                "8K rows, 31K steps, 1e-3": (3.77, 84.6, 92.8),
            },
        ),
    ),
)

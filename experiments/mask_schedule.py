"""The masking rate over a run: constant, or falling, as the newest recipes have it?

mmBERT lowers it from 30 to 5 % in three phases, Ettin from 30 to 15 and 5 %. Held-out losses are
always measured at 15 %.
"""

from experiments import tasks
from experiments.sizes import SIZES
from experiments.study import Study, Variant


def _rates(first: float, last: float = 0.0) -> Variant:
    """Returns a constant rate, or one that falls linearly."""
    name = f"{first}_to_{last}" if last else f"{first}"
    return Variant(name, pretrain=(f"masking.rate={first}", f"masking.final_rate={last}"))


STUDY = Study(
    base="0.15",
    variants=(_rates(0.15), _rates(0.3), _rates(0.4), _rates(0.3, 0.15), _rates(0.3, 0.05)),
    tasks=(tasks.ENTITIES,),
    sizes=SIZES,
)

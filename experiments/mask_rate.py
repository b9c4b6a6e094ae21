"""The masking rate: should BERT's 15 % of the tokens be predicted, or more?

A higher rate gives more to learn from in each row and less to learn it by. Held-out losses are
always measured at 15 %.
"""

from experiments import tasks
from experiments.sizes import SIZES
from experiments.study import Published, Study, Variant

_RATES = (0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)

STUDY = Study(
    base="rate=0.15",
    variants=tuple(Variant(f"rate={rate}", pretrain=(f"masking.rate={rate}",)) for rate in _RATES),
    tasks=(tasks.ENTITIES,),
    sizes=SIZES,
    published=(
        Published(
            source=(
                "Should You Mask 15 % in Masked Language Modeling? (Wettig et al., 2023), the"
                " list of models of its code: large, dev; [MASK] alone"
            ),
            columns=("MNLI",),
            rows={"rate=0.15": (84.2,), "rate=0.4": (84.5,)},
        ),
    ),
)

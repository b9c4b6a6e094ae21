"""Does it matter whether a row is masked anew each time that it is seen?

RoBERTa's table 1: BERT's data were masked ten times over, beforehand, and each mask was seen four
times in forty epochs. A run must see its text more often than it has masks for the two to differ,
so size cpu has a small text, which it sees about four times.
"""

import dataclasses

from experiments import tasks
from experiments.sizes import CPU, GPU, POD, PREPARE_SMALL
from experiments.study import Published, Study, Variant

_CPU = dataclasses.replace(
    CPU,
    prepare=PREPARE_SMALL,
    variants=(
        Variant("dynamic"),
        Variant("static_2", pretrain=("data.static_copies=2",)),
        Variant("static_1", pretrain=("data.static_copies=1",)),
    ),
)

STUDY = Study(
    base="dynamic",
    variants=(
        Variant("dynamic"),
        Variant("static_10", pretrain=("data.static_copies=10",)),
        Variant("static_1", pretrain=("data.static_copies=1",)),
    ),
    tasks=(tasks.ENTITIES,),
    sizes={"cpu": _CPU, "gpu": GPU, "pod": POD},
    published=(
        Published(
            source="RoBERTa (Liu et al., 2019), table 1: base, dev, medians of 5 seeds",
            columns=("SQuAD 2.0 F1", "MNLI-m", "SST-2"),
            rows={"dynamic": (78.7, 84.0, 92.9), "static_10": (78.3, 84.3, 92.5)},
        ),
    ),
)

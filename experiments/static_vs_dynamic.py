"""Does it matter whether a row is masked anew each time that it is seen?

RoBERTa's table 1: BERT's data were masked ten times over, beforehand. A run must see its corpus
more often than it has copies for the two to differ.
"""

from experiments import tasks
from experiments.sizes import SIZES
from experiments.study import Published, Study, Variant

STUDY = Study(
    base="dynamic",
    variants=(
        Variant("dynamic"),
        Variant("static_10", pretrain=("data.static_copies=10",)),
        Variant("static_1", pretrain=("data.static_copies=1",)),
    ),
    tasks=(tasks.SST2,),
    sizes=SIZES,
    published=(
        Published(
            source="RoBERTa (Liu et al., 2019), table 1: base, dev, medians of 5 seeds",
            columns=("SQuAD 2.0 F1", "MNLI-m", "SST-2"),
            rows={"dynamic": (78.7, 84.0, 92.9), "static_10": (78.3, 84.3, 92.5)},
        ),
    ),
)

"""May the examples of a packed row see each other?

NeoBERT tried packed rows without the mask between examples and lost 2.9 points of GLUE. Here
an example is two sentences without a sentence objective, so that a row has several. Held-out
losses are always measured with the mask.
"""

import dataclasses

from experiments import tasks
from experiments.sizes import CPU, GPU, POD
from experiments.study import Overrides, Published, Size, Study, Variant


def _packed(size: Size, *more: str) -> Size:
    """Returns a size with short examples in its rows."""
    short: Overrides = ("data.format=sentence_pair", "data.objective=none", *more)
    return dataclasses.replace(size, pretrain=(*size.pretrain, *short))


STUDY = Study(
    base="masked",
    variants=(
        Variant("masked"),
        Variant("open", pretrain=("data.separate_examples=False",)),
    ),
    tasks=(tasks.ENTITIES, tasks.PARTS_OF_SPEECH),
    sizes={
        "cpu": _packed(CPU, "encoder.max_length=256", "data.length=256", "batch_size=8"),
        "gpu": _packed(GPU),
        "pod": _packed(POD),
    },
    published=(
        Published(
            source="NeoBERT (Le Breton et al., 2025), table 2: GLUE dev, change in %",
            columns=("change in %",),
            rows={"M6: packed without a block mask (not kept)": (-2.9,)},
        ),
    ),
)

"""Label efficiency: how many labels does a pretrained encoder save?

The same task with 100, 300, 1,000, 3,000 and all examples, from the pretrained encoder and from
random weights. One pretraining; a seed decides the examples, their order and the head.
"""

from experiments import tasks
from experiments.sizes import SIZES
from experiments.study import Study, Variant

_EXAMPLES = (100, 300, 1000, 3000)
_RANDOM = "transfer=False"


def _few(examples: int, *extra: str) -> tuple[str, ...]:
    """Returns the overrides of a subset, with as many steps as few examples need."""
    return (f"data.examples={examples}", f"epochs={max(3, min(20, 6000 // examples))}", *extra)


STUDY = Study(
    base="all",
    variants=(
        Variant("all"),
        Variant("all+random", finetune=(_RANDOM,)),
        *(
            Variant(f"{examples}{'+random' * bool(extra)}", finetune=_few(examples, *extra))
            for examples in reversed(_EXAMPLES)
            for extra in ((), (_RANDOM,))
        ),
    ),
    tasks=(tasks.SST2,),
    sizes=SIZES,
    one_pretraining=True,
)

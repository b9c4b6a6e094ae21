"""Label efficiency: how many labels does a pretrained encoder save?

Each task with 50 to all of its labels, from the pretrained encoder (`pretrained`), from the same
encoder with random weights (`random`), with the pretrained encoder frozen (`frozen`), and by a
linear model on words (`words`). One pretraining; a seed decides the examples, their order and the
head. The last point of a line has all examples of its task.
"""

from experiments import tasks
from experiments.sizes import FROZEN, SIZES_OF_TASKS
from experiments.study import Overrides, Study, Variant

_LABELS = (50, 100, 200, 500, 1000)
_SMALL_BATCHES: Overrides = ("batch_size=8",)  # few labels need many steps
_EPOCHS = {50: 20, 100: 16, 200: 10, 500: 6, 1000: 4, 0: 3}  # 0: all labels
_SERIES: dict[str, Overrides] = {
    "pretrained": (),
    "random": ("transfer=False",),
    "frozen": FROZEN,
    "words": (),
}


def _point(series: str, labels: int) -> Variant:
    """Returns a variant of a series; it is compared with the pretrained encoder."""
    epochs = _EPOCHS[labels]
    settings = (*_SMALL_BATCHES, f"epochs={epochs}", f"eval_epochs={epochs}", *_SERIES[series])
    if labels:
        settings = (f"data.examples={labels}", *settings)
    shown = labels or "all"
    return Variant(
        f"{series}_{shown}",
        finetune=settings,
        against="" if series == "pretrained" else f"pretrained_{shown}",
        linear=series == "words",
        series=series,
    )


STUDY = Study(
    base="pretrained_all",
    variants=tuple(_point(series, labels) for labels in (0, *_LABELS) for series in _SERIES),
    tasks=(tasks.ENTITIES, tasks.POSTS, tasks.PARTS_OF_SPEECH, tasks.SST2),
    sizes=SIZES_OF_TASKS,
    one_pretraining=True,
)

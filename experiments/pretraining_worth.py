"""The worth of an hour of pretraining, for a mini on tasks of every kind.

From the pretrained encoder and from random weights, at one rate, and the head alone on the frozen
encoder, at a rate of its own.
"""

import dataclasses

from experiments import tasks
from experiments.sizes import CPU_MINI, FROZEN
from experiments.study import Study, Task, Variant


def _with(task: Task, *overrides: str) -> Task:
    """Returns a task that differs from its recipe, so that a seed takes twenty minutes."""
    return dataclasses.replace(task, overrides=(*task.overrides, *overrides))


# Short windows, and a part of the questions.
_WINDOWS = ("data.length=128", "data.stride=64", "data.question_length=32", "data.examples=2500")

STUDY = Study(
    base="pretrained",
    variants=(
        Variant("pretrained"),
        Variant("random", finetune=("transfer=False",)),
        Variant("head_alone", finetune=FROZEN),
    ),
    tasks=(
        tasks.ENTITIES,
        tasks.POSTS,
        tasks.PARTS_OF_SPEECH,
        _with(tasks.SQUAD, *_WINDOWS, "epochs=3"),
        _with(tasks.COLA, "data.length=64"),
        _with(tasks.RTE, "epochs=3"),
        _with(tasks.SST2, "epochs=2"),
    ),
    sizes={"cpu": CPU_MINI},
    one_pretraining=True,
)

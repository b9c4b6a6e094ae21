"""The worth of an hour of pretraining, for a mini on tasks of every kind.

From the pretrained encoder and from random weights, at one rate, and the head alone on the frozen
encoder, at a rate of its own.
"""

import dataclasses

from experiments import tasks
from experiments.sizes import CPU_MINI, FROZEN
from experiments.study import Study, Variant

# Questions for a laptop: short windows, and a part of the examples.
_SQUAD = dataclasses.replace(
    tasks.SQUAD,
    overrides=(
        *tasks.SQUAD.overrides,
        "data.length=128",
        "data.stride=64",
        "data.question_length=32",
        "data.examples=2500",
    ),
)
_COLA = dataclasses.replace(tasks.COLA, overrides=(*tasks.COLA.overrides, "data.length=64"))

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
        _SQUAD,
        _COLA,
        tasks.RTE,
        tasks.SST2,
    ),
    sizes={"cpu": CPU_MINI},
    one_pretraining=True,
)

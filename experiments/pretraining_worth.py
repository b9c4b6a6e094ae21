"""The worth of an hour of pretraining, for a mini on tasks of every kind.

From the pretrained encoder and from random weights, each at its own best rate, and the head alone.
"""

import dataclasses

from experiments import tasks
from experiments.sizes import CPU
from experiments.study import Study, Variant

_HEAD_RATE = "optimizer.learning_rate=1e-3"

# Questions of a laptop: short windows, and a part of the examples, once.
_SQUAD = dataclasses.replace(
    tasks.SQUAD,
    overrides=(
        *tasks.SQUAD.overrides,
        "data.length=128",
        "data.stride=64",
        "data.question_length=32",
        "data.examples=2500",
        "epochs=1",
    ),
)
_COLA = dataclasses.replace(tasks.COLA, overrides=(*tasks.COLA.overrides, "data.length=64"))

STUDY = Study(
    base="pretrained",
    variants=(
        # Rates and dropout were found on the held-out sets with seed 0, for each start by itself.
        Variant("pretrained", finetune=("optimizer.learning_rate=1e-3", "dropout_rate=0.3")),
        Variant("random", finetune=("optimizer.learning_rate=3e-4", "transfer=False")),
        Variant("head_alone", finetune=(_HEAD_RATE, "encoder_mode=cached")),
        Variant("head_alone_frozen", finetune=(_HEAD_RATE, "encoder_mode=frozen")),
    ),
    tasks=(tasks.SST2, _COLA, tasks.RTE, tasks.ENTITIES, _SQUAD),
    sizes={
        "cpu": dataclasses.replace(CPU, recipe="configs/pretrain_mini_cpu.py", finetune=(), seeds=5)
    },
    one_pretraining=True,
)

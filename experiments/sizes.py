"""Sizes of studies: for a laptop, a GPU node and a TPU pod.

On a laptop a study needs a model that is past the first plateau (decisions/0008), or it compares
models that have learnt how frequent tokens are and nothing else. `CPU` is therefore the modern
encoder's recipe. A study of what BERT does to pairs of texts has `CPU_PAIRS`: the same encoder,
pretrained on pairs.
"""

import dataclasses

from experiments.study import Overrides, Size

_TEXT = ("--source=text:{data}/text", "--layout=paragraphs")
PREPARE_8000 = (*_TEXT, "--tokenizer=train:sentencepiece:8000")  # for models of tiny and mini size
PREPARE_SMALL = (
    "--source=text:{data}/small_text",
    "--layout=paragraphs",
    "--tokenizer=train:sentencepiece:8000",
    "--heldout_rate=0.05",
)

# A head on a frozen encoder learns from nothing, and is small: it takes thirty times the rate. Of
# 1e-3, 3e-3, 1e-2 and 3e-2 the last is best on entities (F1 0.004 to 0.347) and parts of speech
# (accuracy 0.70 to 0.81), with the modern mini and seed 100, which no study uses.
FROZEN: Overrides = ("encoder_mode=cached", "optimizer.learning_rate=3e-2")

CPU = Size(
    prepare=PREPARE_8000,
    recipe="configs/pretrain_modern_tiny.py",
    finetune=("optimizer.learning_rate=1e-3", "epochs=5"),
    seeds=5,
    minutes=30,
    cores=1,
)
CPU_PAIRS = dataclasses.replace(
    CPU,
    pretrain=(
        "data.format=segment_pair",
        "data.objective=nsp",
        "encoder.segments=2",
        "encoder.pooling=cls",
        "encoder.pooler=tanh",
    ),
)
CPU_MINI = dataclasses.replace(  # an hour on two cores, for studies that fine-tune one pretraining
    CPU,
    recipe="configs/pretrain_modern_mini.py",
    minutes=240,
)
GPU = Size(
    prepare=(*_TEXT, "--tokenizer=train:wordpiece:30522"),
    recipe="configs/pretrain_small.py",
    pretrain=(
        "encoder.compute_type=bfloat16",
        "steps=100000",
        "optimizer.learning_rate=5e-4",
        "optimizer.warmup_steps=5000",
        "checkpoint_steps=5000",
    ),
    finetune=("optimizer.learning_rate=1e-4",),
    seeds=5,
    minutes=24 * 60,
)
POD = Size(
    prepare=(*_TEXT, "--tokenizer=train:wordpiece:30522"),
    recipe="configs/pretrain_base.py",
    pretrain=("encoder.compute_type=bfloat16", "checkpoint_steps=2000"),
    seeds=3,
    minutes=7 * 24 * 60,
    hosts=4,
    accelerator="v5e:4x4",
)
SIZES = {"cpu": CPU, "gpu": GPU, "pod": POD}
SIZES_OF_PAIRS = {"cpu": CPU_PAIRS, "gpu": GPU, "pod": POD}
SIZES_OF_TASKS = {"cpu": CPU_MINI, "gpu": GPU, "pod": POD}

"""Sizes of studies: for a laptop, a GPU node and a TPU pod."""

from experiments.study import Size

_TEXT = ("--source=text:{data}/text", "--layout=paragraphs")
PREPARE_8000 = (*_TEXT, "--tokenizer=train:sentencepiece:8000")  # for models of tiny and mini size

CPU = Size(
    prepare=_TEXT,
    recipe="configs/pretrain_tiny_cpu.py",
    finetune=("optimizer.learning_rate=1e-3", "epochs=2"),
    minutes=60,
    cores=1,
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

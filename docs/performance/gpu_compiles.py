r"""Steps of many kinds of runs, compiled for NVIDIA GPUs that need not be there; nothing runs.

    pip install -e '.[plan]' nvidia-cudnn-cu13
    python -m docs.performance.gpu_compiles --sizes=tiny,base

The cases are pairwise: each two values of two properties meet in one of them at least, where they
can. Each is compiled in a process of its own, and given up after `--seconds`.
"""

import dataclasses
import itertools
import random
import subprocess
import sys
import time
from typing import Any

from absl import app, flags

from benchmarks.sizes import SIZES, encoder_of, modern_encoder_of
from bert_jax.cli.recipes import resolve_config
from bert_jax.config import (
    UNREAD,
    AttentionKernel,
    ComputeType,
    DistillConfig,
    EncoderConfig,
    ExampleFormat,
    FinetuneConfig,
    MaskStrategy,
    MeshConfig,
    Optimizer,
    PretrainConfig,
    Remat,
    SentenceObjective,
)
from bert_jax.planning.abstract_steps import AbstractStep
from bert_jax.planning.compile_ahead import compile_step
from bert_jax.planning.planner import Planner
from bert_jax.planning.topologies import only_compile, topology_devices
from bert_jax.runs.teacher import TeacherShape

_SIZES = flags.DEFINE_list("sizes", ["tiny", "base"], f"of {', '.join(SIZES)}")
_SECONDS = flags.DEFINE_integer("seconds", 300, "for one case")
_CASE = flags.DEFINE_string("case", "", "one case to compile, as the table has it: tiny,128,...")

_TOKENS = 4096  # of a row group, at least one row
_SAMPLE = 4000  # cases to choose from

# Property -> its values.
PROPERTIES: dict[str, tuple[str, ...]] = {
    "T": ("128", "512", "2048", "8192"),
    "devices": ("h100:1", "a100:8", "h100:8", "b200:8", "h200:2x8"),
    "family": ("bert", "modern"),
    "optimizer": tuple(rule.value for rule in Optimizer),
    "run": ("pretrain", "finetune", "distill"),
    "attention": ("products", "fused"),
    "remat": tuple(remat.value for remat in Remat),
    "masking": ("tokens", "whole_words", "spans"),
}
MESHES = {
    "h100:1": MeshConfig(),
    "a100:8": MeshConfig(),
    "h100:8": MeshConfig(fsdp=8),
    "b200:8": MeshConfig(fsdp=4, tensor=2),
    "h200:2x8": MeshConfig(fsdp=8),
}


def pairwise_cases(sizes: list[str]) -> list[tuple[str, ...]]:
    """Returns cases, (size, T, ...) each, of which some has each possible pair of values."""
    every = [
        case
        for case in itertools.product(sizes, *PROPERTIES.values())
        if not ("finetune" in case and "fused" in case)  # fine-tuning always computes products
    ]
    chosen, left = [], {pair for case in every for pair in _pairs(case)}
    pool = random.Random(0).sample(every, min(_SAMPLE, len(every)))
    while gained := max(len(_pairs(case) & left) for case in pool):
        case = next(case for case in pool if len(_pairs(case) & left) == gained)
        chosen.append(case)
        left -= _pairs(case)
    return sorted(chosen, key=lambda case: list(SIZES).index(case[0]))


def _pairs(case: tuple[str, ...]) -> set[tuple[Any, ...]]:
    return set(itertools.combinations(enumerate(case), 2))


def step_of(case: tuple[str, ...]) -> AbstractStep:
    """Returns the step of a case."""
    size, length, devices, family, optimizer, run, attention, remat, masking = case
    mesh = MESHES[devices]
    there = topology_devices(devices)
    rows = max(_TOKENS // int(length), 1) * len(there) // mesh.tensor
    make_encoder = encoder_of if family == "bert" else modern_encoder_of
    encoder: EncoderConfig = make_encoder(size, length=int(length))
    encoder.compute_type = ComputeType.BFLOAT16
    encoder.attention, encoder.remat = AttentionKernel(attention), Remat(remat)
    encoder.unroll = 1
    if attention == "fused":
        encoder.attention_dropout_rate = 0.0
    config = (
        PretrainConfig() if run != "distill" else resolve_config("distilbert", [], DistillConfig)
    )
    config.encoder, config.mesh, config.batch_size = encoder, mesh, rows
    config.data.corpus = UNREAD
    config.data.length, config.optimizer.rule = int(length), Optimizer(optimizer)
    config.masking.strategy = MaskStrategy(masking)
    config.masking.smoothing = 0.0  # of single tokens alone
    if family == "modern":
        config.data.format = ExampleFormat.DOC_SENTENCES
        config.data.objective = SentenceObjective.NONE
    teacher = task = None
    if isinstance(config, DistillConfig):
        config.student_layers = ""
        teacher = TeacherShape(
            dataclasses.replace(encoder, attention=AttentionKernel.PRODUCTS), has_head=True
        )
    if run == "finetune":
        task = FinetuneConfig(batch_size=rows, mesh=mesh)
        task.data.length, task.optimizer.rule = int(length), Optimizer(optimizer)
    planner = Planner(config, task, rows, teacher)
    steps = planner.finetuning_steps(there) if task else planner.pretraining_steps(there)
    return steps[0]


def line(case: tuple[str, ...]) -> str:
    """Compiles a case, and returns its line of the table."""
    begin = time.monotonic()
    found = compile_step(step_of(case))
    seconds, costs = time.monotonic() - begin, found.costs
    assert costs, "GPUs' compiler refuses no program for its size"
    cells = [
        *case,
        f"{seconds:.0f}",
        f"{found.arguments / 2**20:,.0f}",
        f"{found.temporaries / 2**20:,.0f}",
        f"{costs.flops / 1e12:.3f}",
        f"{costs.memory_bytes / 1e9:.1f}",
        f"{costs.sent_bytes / 1e6:,.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main(_: list[str]) -> None:
    """Prints a line for each case, or for the one of --case."""
    if _CASE.value:
        case = tuple(_CASE.value.split(","))
        only_compile([case[2]])
        print(line(case))
        return
    cases = pairwise_cases(_SIZES.value)
    heads = ["size", *PROPERTIES, "s", "arguments, MiB", "temporaries, MiB", "TFLOP"]
    heads += ["traffic, GB", "sent, MB"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    for case in cases:
        command = [
            sys.executable,
            "-m",
            "docs.performance.gpu_compiles",
            f"--case={','.join(case)}",
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS.value)
        except subprocess.TimeoutExpired:
            print(f"| {' | '.join(case)} | over {_SECONDS.value} |", flush=True)
            continue
        errors = [text for text in done.stderr.splitlines() if "Error" in text] or ["failed"]
        told = done.stdout.strip() or f"| {' | '.join(case)} | {errors[-1][:200]} |"
        print(told, flush=True)
        if "slow_operation_alarm" in done.stderr:
            print(f"{','.join(case)}: XLA folded constants for long", file=sys.stderr, flush=True)


if __name__ == "__main__":
    app.run(main)

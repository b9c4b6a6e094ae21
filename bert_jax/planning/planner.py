"""Plans of runs: their steps compiled for each topology, a report, and changes that make it fit."""

import dataclasses
import functools
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from bert_jax.config import (
    UNREAD,
    AttentionKernel,
    DistillConfig,
    FinetuneConfig,
    PretrainConfig,
    validate,
)
from bert_jax.data.pretraining.corpora import corpus_tokenizer
from bert_jax.data.pretraining.mixture import parse_mixture
from bert_jax.distributed import sharding
from bert_jax.distributed.chips import Chip, find_chip
from bert_jax.errors import UserError
from bert_jax.objectives.masking import MaskVocabulary
from bert_jax.planning.abstract_steps import (
    AbstractStep,
    abstract_finetuning_step,
    abstract_pretraining_steps,
)
from bert_jax.planning.advice import Overrides, as_flags, changed, find_changes, possible_changes
from bert_jax.planning.compile_ahead import Footprint, compile_step, device_bytes
from bert_jax.planning.gpus import caveats, check_gpu_compiler, memory_share
from bert_jax.planning.report import (
    Planned,
    compare_topologies,
    device_hours,
    in_hours,
    planned,
    report,
    size,
    totals,
    trained_tokens,
)
from bert_jax.planning.topologies import topology_devices
from bert_jax.runs.steps import mask_vocabulary, resolve_vocabulary
from bert_jax.runs.teacher import TeacherShape, teacher_model


class Planner:
    """A run, and what it takes on some devices."""

    def __init__(
        self,
        config: PretrainConfig,
        task: FinetuneConfig | None,
        examples: int,
        teacher: TeacherShape | None,
    ) -> None:
        """Takes what is planned; `examples` are those of the task.

        Raises:
          UserError: if there is no size of the vocabulary, or the teacher does not suit.
        """
        self.vocabulary = planned_vocabulary(config)
        self.config, self._task, self._examples = config, task, examples
        self._teacher = None
        if teacher and isinstance(config, DistillConfig):
            vocab_size = teacher.encoder.vocab_size or config.encoder.vocab_size
            encoder = dataclasses.replace(teacher.encoder, vocab_size=vocab_size)
            self._teacher = teacher_model(config, teacher._replace(encoder=encoder))

    def pretraining_steps(
        self, devices: Sequence[Any], overrides: Overrides | None = None
    ) -> list[AbstractStep]:
        """Returns the phases of pretraining on these devices, with fields of the config changed."""
        config = changed(self.config, overrides or {})
        validate(config)
        mesh = sharding.make_mesh(config.mesh, devices)
        steps = abstract_pretraining_steps(config, self.vocabulary, mesh, self._teacher)
        kernel = steps[0].compiled.model.config.attention
        if devices[0].platform == "gpu" and kernel is AttentionKernel.FUSED:
            check_gpu_compiler(devices[0].device_kind, fused=True)
        return steps

    def finetuning_steps(self, devices: Sequence[Any]) -> list[AbstractStep]:
        """Returns the fine-tuning run on these devices, if there is one."""
        if self._task is None:
            return []
        mesh = sharding.make_mesh(self._task.mesh, devices)
        return [abstract_finetuning_step(self._task, self.config.encoder, self._examples, mesh)]

    def advise(self, plans: Sequence[Planned], devices: Sequence[Any], chip: Chip) -> list[str]:
        """Finds changes that make pretraining fit, and tells two, the cheaper by the token first.

        Args:
          plans: of the phases.
          devices: that they were compiled for.
          chip: what each of them is.
        """
        phase = max(
            (number for number, plan in enumerate(plans) if not plan.fits),
            key=lambda number: plans[number].footprint.peak,
        )
        worst, memory = plans[phase].footprint, chip.memory_bytes

        def should_fit(overrides: Overrides, keeps: float) -> bool:
            try:
                step = self.pretraining_steps(devices, overrides)[phase]
            except UserError:  # such as a mesh that the links do not allow
                return False
            abstract = step.compiled.abstract
            held = device_bytes((abstract, step.batch, step.teacher))
            return held + keeps * worst.temporaries <= memory

        told: dict[str, str] = {}  # flags -> what they lead to

        def try_out(overrides: Overrides) -> float | None:
            steps, named = self.pretraining_steps(devices, overrides), as_flags(overrides)
            tried = []
            for number in sorted(range(len(steps)), key=lambda number: number != phase):
                if number != phase and all(name.startswith("phases[") for name in overrides):
                    tried.append(plans[number])  # it is as it was
                else:
                    footprint = compile_aloud(steps[number], named)
                    tried.append(planned(steps[number], footprint, chip, plans[number].price))
                if not tried[-1].fits:
                    return None
            peak, hours = max(plan.footprint.peak for plan in tried), device_hours(tried)
            told[named] = f"{size(peak)}, {in_hours(hours)} device-hours"
            # A smaller batch takes fewer hours because it trains on less.
            share = trained_tokens(tried) / trained_tokens(plans)
            if share != 1:
                told[named] += f", trains on {100 * share:.3g} % of the tokens"
            return hours / share

        kinds = possible_changes(self.config, len(devices), phase, plans[phase].step.rows)
        found = find_changes(kinds, should_fit, try_out)
        needed = f"{plans[phase].step.name} needs {size(worst.peak)} and has {size(memory)}"
        if not found:
            return [f"does not fit: {needed}; no change that was tried makes it fit"]
        lines = [f"does not fit: {needed}; it fits with"]
        names = [as_flags(overrides) for _, overrides in found]
        return lines + [f"  {named}: {told[named]}" for named in names]


def planned_vocabulary(config: PretrainConfig) -> MaskVocabulary:
    """Returns the vocabulary of the corpus, or one of the size that is given.

    Fills in the size in the config. Which tokens are special or frequent does not change what a
    step costs.

    Raises:
      UserError: if there is neither a corpus nor a size.
    """
    if config.data.corpus != UNREAD:
        tokenizer = corpus_tokenizer(next(iter(parse_mixture(config.data.corpus))))
        resolve_vocabulary(config, tokenizer)
        return mask_vocabulary(config.masking, tokenizer)
    vocab_size = config.encoder.vocab_size
    if vocab_size == 0:
        raise UserError(
            "--config.encoder.vocab_size=0 takes the tokenizer's, and no corpus is named: give the"
            " size, such as --config.encoder.vocab_size=30522, or --config.data.corpus"
        )
    special_ids = tuple(range(min(5, vocab_size)))
    return MaskVocabulary(special_ids, special_ids[-1], vocab_size, np.ones(vocab_size, bool))


def usable_chip(device: Any) -> Chip | None:
    """Returns the chip of a device with the memory that a program may use; None if unknown.

    Raises:
      UserError: if the environment gives JAX an impossible share of a GPU's memory.
    """
    chip = find_chip(device.device_kind)
    if chip is None or device.platform != "gpu":
        return chip
    return dataclasses.replace(chip, memory_bytes=memory_share() * chip.memory_bytes)


def compile_aloud(step: AbstractStep, note: str) -> Footprint:
    """Compiles a step, and says on stderr that it does and how long it took."""
    begin = time.monotonic()
    print(f"compiling {step.name}, {note} ...", end="", file=sys.stderr, flush=True)
    footprint = compile_step(step)
    print(f" {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    return footprint


def print_plans(
    config: PretrainConfig,
    topologies: Sequence[str],
    *,
    price: float = 0.0,
    task: FinetuneConfig | None = None,
    examples: int = 0,
    teacher: TeacherShape | None = None,
) -> None:
    """Compiles a run for each topology, and prints a report of each; see `only_compile` before.

    Args:
      config: of pretraining, validated; `UNREAD` may stand for the corpus.
      topologies: from `parse_topologies`.
      price: of a chip for an hour; 0: each chip's own.
      task: the config of a fine-tuning run after it, if there is one.
      examples: that the fine-tuning run trains on.
      teacher: of a distilling run, whose config is a `DistillConfig`.

    Raises:
      UserError: for what cannot be compiled, a missing size of the vocabulary, or a teacher that
        does not suit.
    """
    planner = Planner(config, task, examples, teacher)
    devices = {name: topology_devices(name) for name in topologies}
    chips = {name: usable_chip(there[0]) for name, there in devices.items()}
    steps = {
        name: (planner.pretraining_steps(there), planner.finetuning_steps(there))
        for name, there in devices.items()
    }
    plans: dict[str, list[Planned]] = {}
    for name, (pretraining, finetuning) in steps.items():
        chip = chips[name]
        own_price = price or (chip.price if chip else None) or 0.0
        join = functools.partial(planned, chip=chip, price=own_price)
        plans[name] = [
            join(step, compile_aloud(step, name)) for step in (*pretraining, *finetuning)
        ]
        mesh = pretraining[0].mesh
        parameters = sum(
            leaf.size for leaf in jax.tree.leaves(pretraining[0].compiled.abstract.params)
        )
        print(f"{name}: {parameters:,} parameters on {sharding.describe(mesh)}\n")
        print(report(plans[name], chip), end="\n\n")
        of_pretraining = plans[name][: len(pretraining)]
        lines = totals(plans[name])
        if chip and not all(plan.fits for plan in of_pretraining):
            lines += planner.advise(of_pretraining, devices[name], chip)
        if chip and devices[name][0].platform == "gpu":
            lines += caveats(chip)
        print("\n".join(lines), end="\n\n", flush=True)
    if len(topologies) > 1:
        print(compare_topologies(list(plans.items())))

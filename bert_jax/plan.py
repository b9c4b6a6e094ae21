"""Says what a run needs and costs on devices that need not be there.

    python -m bert_jax.plan --config=configs/pretrain_base.py --topology=v5e:4x4,v5e:16x16 \
        --config.encoder.vocab_size=30522 --price=1.2 \
        --finetune_config=configs/finetune_sst2.py --finetune_examples=67349

The step that the run would take is compiled for each topology. A topology is a TPU slice, for which
libtpu must be installed, or `cpu:N`. Times are what the peaks of the chips allow, never measured;
evaluations, checkpoints and starting are not counted.
"""

import dataclasses
import functools
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from bert_jax.cli import app
from bert_jax.cli.flags import checked_config, config_flag
from bert_jax.cli.recipes import read_recipe
from bert_jax.config import FinetuneConfig, PretrainConfig, validate
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
from bert_jax.planning.report import (
    Planned,
    compare_topologies,
    device_hours,
    planned,
    report,
    size,
    totals,
)
from bert_jax.planning.topologies import only_compile, parse_topologies, topology_devices
from bert_jax.runs.steps import mask_vocabulary, resolve_vocabulary

_CONFIG = config_flag(PretrainConfig)
_TOPOLOGY = flags.DEFINE_string("topology", "", "what to plan for: v5e:4x4,cpu:8,...")
_PRICE = flags.DEFINE_float("price", 0.0, "of a chip for an hour, in any currency; 0: no costs")
_FINETUNE = flags.DEFINE_string("finetune_config", "", "a recipe that returns a FinetuneConfig")
_EXAMPLES = flags.DEFINE_integer("finetune_examples", 0, "in the training split of that task")

_UNREAD = "(not read)"  # stands for files that a plan needs no more than the names of


class Planner:
    """A run, and what it takes on some devices."""

    def __init__(self, config: PretrainConfig, task: FinetuneConfig | None, examples: int) -> None:
        """Takes what is planned; `examples` are those of the task.

        Raises:
          UserError: if there is no size of the vocabulary.
        """
        self.vocabulary = planned_vocabulary(config)
        self.config, self._task, self._examples = config, task, examples

    def pretraining_steps(
        self, devices: Sequence[Any], overrides: Overrides | None = None
    ) -> list[AbstractStep]:
        """Returns the phases of pretraining on these devices, with fields of the config changed."""
        config = changed(self.config, overrides or {})
        validate(config)
        mesh = sharding.make_mesh(config.mesh, devices)
        return abstract_pretraining_steps(config, self.vocabulary, mesh)

    def finetuning_steps(self, devices: Sequence[Any]) -> list[AbstractStep]:
        """Returns the fine-tuning run on these devices, if there is one."""
        if self._task is None:
            return []
        mesh = sharding.make_mesh(self._task.mesh, devices)
        return [abstract_finetuning_step(self._task, self.config.encoder, self._examples, mesh)]

    def advise(self, plans: Sequence[Planned], devices: Sequence[Any], chip: Chip) -> list[str]:
        """Finds the changes that make pretraining fit, and tells the cheapest two.

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
            held = device_bytes((abstract, step.batch))
            return held + keeps * worst.temporaries <= memory

        peaks: dict[str, int] = {}

        def try_out(overrides: Overrides) -> float | None:
            steps, named = self.pretraining_steps(devices, overrides), as_flags(overrides)
            tried = []
            for number in sorted(range(len(steps)), key=lambda number: number != phase):
                if number != phase and all(name.startswith("phases[") for name in overrides):
                    tried.append(plans[number])  # it is as it was
                else:
                    footprint = compile_aloud(steps[number], named)
                    tried.append(planned(steps[number], footprint, chip))
                if not tried[-1].fits:
                    return None
            peaks[named] = max(plan.footprint.peak for plan in tried)
            return device_hours(tried)

        kinds = possible_changes(self.config, len(devices), phase, plans[phase].step.rows)
        found = find_changes(kinds, should_fit, try_out)
        needed = f"{plans[phase].step.name} needs {size(worst.peak)} and has {size(memory)}"
        if not found:
            return [f"does not fit: {needed}; no change that was tried makes it fit"]
        lines = [f"does not fit: {needed}; it fits with"]
        for hours, overrides in found:
            named = as_flags(overrides)
            lines.append(f"  {named}: {size(peaks[named])}, {hours:,.0f} device-hours")
        return lines


def planned_vocabulary(config: PretrainConfig) -> MaskVocabulary:
    """Returns the vocabulary of the corpus, or one of the size that is given.

    Fills in the size in the config. Which tokens are special does not change what a step costs.

    Raises:
      UserError: if there is neither a corpus nor a size.
    """
    if config.data.corpus != _UNREAD:
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


def with_names(config: Any) -> Any:
    """Fills in names of files that a recipe leaves to the user, so that it can be validated."""
    if isinstance(config, PretrainConfig):
        data = dataclasses.replace(config.data, corpus=config.data.corpus or _UNREAD)
        return dataclasses.replace(config, data=data)
    if isinstance(config, FinetuneConfig):
        data = dataclasses.replace(config.data, train=_UNREAD, dev=_UNREAD)
        return dataclasses.replace(config, data=data)
    return config


def read_task_config(path: str, examples: int) -> FinetuneConfig | None:
    """Reads the recipe of the fine-tuning run, if there is one.

    Raises:
      UserError: if it is wrong, or the number of its examples is missing.
    """
    if not path:
        if examples:
            raise UserError(f"--finetune_examples={examples} needs --finetune_config=FILE")
        return None
    if examples < 1:
        raise UserError(
            f"--finetune_examples={examples}: say how many examples {path} trains on, such as"
            " --finetune_examples=67349"
        )
    return checked_config(
        with_names(read_recipe(path, FinetuneConfig, "finetune_config")), FinetuneConfig
    )


def compile_aloud(step: AbstractStep, note: str) -> Footprint:
    """Compiles a step, and says on stderr that it does and how long it took."""
    begin = time.monotonic()
    print(f"compiling {step.name}, {note} ...", end="", file=sys.stderr, flush=True)
    footprint = compile_step(step)
    print(f" {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    return footprint


def main(_: Sequence[str]) -> None:
    """Checks everything, then compiles and reports topology after topology."""
    names = parse_topologies(_TOPOLOGY.value)
    if not 0 <= _PRICE.value < float("inf"):
        raise UserError(f"--price={_PRICE.value} must be 0 or more")
    config = checked_config(with_names(_CONFIG.value), PretrainConfig)
    task = read_task_config(_FINETUNE.value, _EXAMPLES.value)
    only_compile(names)

    planner = Planner(config, task, _EXAMPLES.value)
    devices = {name: topology_devices(name) for name in names}
    steps = {
        name: (planner.pretraining_steps(there), planner.finetuning_steps(there))
        for name, there in devices.items()
    }
    plans: dict[str, list[Planned]] = {}
    for name, (pretraining, finetuning) in steps.items():
        chip = find_chip(devices[name][0].device_kind)
        join = functools.partial(planned, chip=chip)
        plans[name] = [
            join(step, compile_aloud(step, name)) for step in (*pretraining, *finetuning)
        ]
        mesh = pretraining[0].mesh
        parameters = sum(
            leaf.size for leaf in jax.tree.leaves(pretraining[0].compiled.abstract.params)
        )
        print(f"{name}: {parameters:,} parameters on {sharding.describe(mesh)}\n")
        print(report(plans[name], chip, _PRICE.value), end="\n\n")
        of_pretraining = plans[name][: len(pretraining)]
        lines = totals(plans[name], _PRICE.value)
        if chip and not all(plan.fits for plan in of_pretraining):
            lines += planner.advise(of_pretraining, devices[name], chip)
        print("\n".join(lines), end="\n\n", flush=True)
    if len(names) > 1:
        print(compare_topologies(list(plans.items()), _PRICE.value))


if __name__ == "__main__":
    app.run(main)

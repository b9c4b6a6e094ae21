r"""Plans a run: its memory, time and cost on devices that need not exist here.

    python -m bert_jax.plan --config=pretrain_base --topology=v5e:4x4,v5e:16x16 \
        --config.encoder.vocab_size=30522 --price=1.2 \
        --finetune_config=finetune_sst2 --finetune_examples=67349

A distilling run (--config=distilbert) needs --teacher, a checkpoint or the recipe of one.

The step of the run is compiled for each topology: a TPU slice (v5e:4x4), GPUs of one host (h100:8)
or of several (h100:2x8), or `cpu:N`. No TPU, GPU or driver is needed, but their compilers:
pip install -e '.[plan]'. Times are lower bounds by the peaks of the chips, never measured;
evaluations, checkpoints and the start are not counted.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from bert_jax.cli import app
from bert_jax.cli.flags import checked_config, config_flag
from bert_jax.cli.recipes import read_recipe
from bert_jax.config import UNREAD, DistillConfig, FinetuneConfig, PretrainConfig
from bert_jax.errors import UserError
from bert_jax.files import given_path

if TYPE_CHECKING:
    from bert_jax.runs.teacher import TeacherShape

_CONFIG = config_flag(PretrainConfig, DistillConfig)
_TOPOLOGY = flags.DEFINE_string("topology", "", "the devices to plan for: v5e:4x4,h100:8,cpu:8,...")
_TEACHER = flags.DEFINE_string(
    "teacher", "", "of a distilling run: a checkpoint, or the recipe that would pretrain one"
)
_PRICE = flags.DEFINE_float(
    "price",
    0.0,
    "price of a chip for an hour, in any currency; 0: a GPU's list price in dollars"
    " (distributed/chips.py)",
)
_FINETUNE = flags.DEFINE_string(
    "finetune_config", "", "a recipe that returns a FinetuneConfig, for a run after pretraining"
)
_EXAMPLES = flags.DEFINE_integer("finetune_examples", 0, "number of training examples of that run")


def with_file_names(config: Any) -> Any:
    """Fills in the file names that a recipe leaves to the user, so that it can be validated."""
    if isinstance(config, PretrainConfig):
        data = dataclasses.replace(config.data, corpus=config.data.corpus or UNREAD)
        return dataclasses.replace(config, data=data)
    if isinstance(config, FinetuneConfig):
        data = dataclasses.replace(config.data, train=UNREAD, dev=UNREAD)
        return dataclasses.replace(config, data=data)
    return config


def read_task_config(recipe: str, examples: int) -> FinetuneConfig | None:
    """Reads the recipe of the fine-tuning run; None where there is none.

    Raises:
      UserError: if it is wrong, or the number of its examples is missing.
    """
    if not recipe:
        if examples:
            raise UserError(f"--finetune_examples={examples} needs --finetune_config=RECIPE")
        return None
    if examples < 1:
        raise UserError(
            f"--finetune_examples={examples}: give the number of examples that {recipe} trains on,"
            " such as --finetune_examples=67349"
        )
    config = with_file_names(read_recipe(recipe, FinetuneConfig, flag="finetune_config"))
    # A teacher is asked before the first step.
    return dataclasses.replace(checked_config(config, FinetuneConfig), teacher="")


def read_teacher(given: str, config: PretrainConfig) -> "TeacherShape | None":
    """Reads the shape of the teacher of a distilling run; None where there is none.

    Args:
      given: a checkpoint, or a recipe.
      config: of the run.

    Raises:
      UserError: if it is neither, or is missing, or the run has none.
    """
    from bert_jax.checkpoints.checkpoint import find_checkpoint, read_metadata
    from bert_jax.runs.teacher import TeacherShape, stored_shape

    if not isinstance(config, DistillConfig):
        if given:
            raise UserError(
                f"--teacher={given}: this recipe is no distilling run: name one, such as"
                " --config=distilbert, or leave --teacher out"
            )
        return None
    app.require("teacher", given, "pretrain_base")
    if given_path(given).is_dir():
        checkpoint = find_checkpoint(given)
        return stored_shape(read_metadata(checkpoint))
    return TeacherShape(read_recipe(given, PretrainConfig, flag="teacher").encoder, has_head=True)


def main(_: Sequence[str]) -> None:
    """Checks everything, then compiles and reports for each topology."""
    if not 0 <= _PRICE.value < float("inf"):
        raise UserError(f"--price={_PRICE.value} must be 0 or more")
    with app.imports():
        from bert_jax.planning.planner import print_plans
        from bert_jax.planning.topologies import only_compile, parse_topologies
    names = parse_topologies(_TOPOLOGY.value)
    config = checked_config(with_file_names(_CONFIG.value), PretrainConfig)
    task = read_task_config(_FINETUNE.value, _EXAMPLES.value)
    only_compile(names)  # before anything, such as a checkpoint, is read by JAX
    teacher = read_teacher(_TEACHER.value, config)
    print_plans(
        config,
        names,
        price=_PRICE.value,
        task=task,
        examples=_EXAMPLES.value,
        teacher=teacher,
    )


if __name__ == "__main__":
    app.run(main)

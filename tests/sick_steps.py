"""Makes chosen steps of a pretraining process sick: targets of endless weight, and so inf / inf."""

import os
from typing import Any

import jax
import jax.numpy as jnp

from bert_jax import programs


def install() -> None:
    """Changes this process; the steps are in the environment, as in SICK_STEPS=7,8."""
    steps = [int(step) for step in os.environ["SICK_STEPS"].split(",")]
    sound = programs.masking

    def masking(*arguments: Any) -> programs.PrepareFn:
        prepare = sound(*arguments)

        def sick(batch: Any, key: jax.Array, step: Any) -> Any:
            batch = prepare(batch, key, step)
            is_sick = jnp.isin(step + 1, jnp.asarray(steps))
            batch["mlm_weights"] = jnp.where(is_sick, jnp.inf, batch["mlm_weights"])
            return batch

        return sick

    programs.masking = masking

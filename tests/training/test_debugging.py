import pathlib

import jax
import jax.numpy as jnp
import optax
import pytest

from bert_jax.training.debugging import explain_step, profiled
from bert_jax.training.schedules import StepSettings
from bert_jax.training.state import RunInputs, TrainState
from bert_jax.training.step import make_update


def test_the_lines_of_other_packages_are_not_named() -> None:
    # A virtual environment may lie in a checkout that is called bert_jax too.
    source = """
import jax

def gradient(params, batch, key, teacher):
    return jax.value_and_grad(lambda x: (jax.numpy.log(x) * 0.0, {}), has_aux=True)(params)
"""
    names = {}
    exec(compile(source, "/home/me/bert_jax/.venv/lib/jax/gradient.py", "exec"), names)
    tx = optax.sgd(1.0)
    update = make_update(names["gradient"], lambda batch, key, step: batch, tx)
    state = TrainState(jnp.int32(0), jnp.float32(0.0), tx.init(0.0))
    run = RunInputs(jax.random.key(0), StepSettings(*jnp.ones((3, 1))))
    message = explain_step(update, state, {"example_ids": jnp.ones((1, 1))}, run)
    assert message.startswith("invalid value (nan) encountered in mul, in ")
    last = message.split(" > ")[-1]
    assert last.startswith("training/step.py:") and "gradient(state.params" in last


@pytest.mark.parametrize(("steps", "ended"), [(2, True), (3, False)])
def test_a_profile_ends_with_its_last_step_or_with_the_run(
    steps: int, ended: bool, tmp_path: pathlib.Path
) -> None:
    def finished() -> bool:
        return any(tmp_path.rglob("*.xplane.pb"))

    def train_step(state: jax.Array) -> jax.Array:
        return state + 1

    with profiled(lambda _: train_step, f"5:{4 + steps}", tmp_path) as step_of:
        assert step_of(5).__name__ == "train_step"
        state = step_of(6)(step_of(5)(jnp.float32(0)))
        assert state == 2 and finished() is ended
    assert finished()

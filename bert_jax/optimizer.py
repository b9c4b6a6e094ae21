"""AdamW as BERT used it, with a linear schedule, and groups that are not trained."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from bert_jax.config import OptimizerConfig


def learning_rate_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Rises linearly from 0 in `warmup_steps`, then falls linearly to 0 at `steps`."""
    return optax.schedules.join_schedules(
        [
            optax.schedules.linear_schedule(0.0, config.learning_rate, config.warmup_steps),
            optax.schedules.linear_schedule(config.learning_rate, 0.0, steps - config.warmup_steps),
        ],
        [config.warmup_steps],
    )


def make_optimizer(
    config: OptimizerConfig, steps: int, *, frozen: frozenset[str] = frozenset()
) -> optax.GradientTransformation:
    """Clips, adapts, decays, and scales by the schedule.

    Args:
      config: the rates.
      steps: in the whole run.
      frozen: top-level parameter groups that keep their values; they get no moments either.
    """
    adam = optax.scale_by_adam if config.bias_correction else scale_by_uncorrected_adam
    adamw = optax.chain(
        clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        adam(config.beta1, config.beta2, config.epsilon),
        optax.add_decayed_weights(config.weight_decay, mask=is_decayed),
        optax.scale_by_learning_rate(learning_rate_schedule(config, steps)),
    )
    if not frozen:
        return adamw

    def labels(params: dict[str, Any]) -> dict[str, Any]:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "frozen" if path[0].key in frozen else "trained", params
        )

    return optax.partition({"trained": adamw, "frozen": optax.set_to_zero()}, labels)


def is_decayed(params: Any) -> Any:
    """Marks what weight decay applies to: all but biases and layer norms, chosen by name."""

    def decayed(path: tuple, _: Any) -> bool:
        return path[-1].key not in ("bias", "scale")

    return jax.tree_util.tree_map_with_path(decayed, params)


def clip_by_global_norm(limit: float) -> optax.GradientTransformation:
    """Scales gradients whose global norm is above `limit` down to it.

    As optax's, but by one product with a scalar: a division and a choice per element cost 5 % of a
    step on a CPU.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        scale = jnp.minimum(1.0, limit / optax.tree.norm(updates))
        return jax.tree.map(lambda g: g * scale, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def scale_by_uncorrected_adam(
    beta1: float, beta2: float, epsilon: float
) -> optax.GradientTransformation:
    """Adam as the published BERT code has it: moments start at 0 and are not corrected for it."""

    def init(params: Any) -> optax.ScaleByAdamState:
        mu, nu = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return optax.ScaleByAdamState(jnp.zeros([], jnp.int32), mu, nu)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        mu = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, state.nu, updates)
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + epsilon), mu, nu)
        return updates, optax.ScaleByAdamState(optax.safe_increment(state.count), mu, nu)

    return optax.GradientTransformation(init, update)

"""AdamW and LAMB, the learning rate over the run, and groups with rates of their own or none."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bert_jax.config import Optimizer, OptimizerConfig, Schedule
from bert_jax.model.stack import LAYERS


def names_of(path: tuple) -> list[str]:
    """Returns the names in the path of a parameter or of its moments."""
    return [each.key for each in path if isinstance(each, jax.tree_util.DictKey)]


def learning_rate_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Rises linearly from 0 in `warmup_steps`, then falls to 0 at `steps` as the config says."""
    rate, left = config.learning_rate, steps - config.warmup_steps
    warmup = optax.schedules.linear_schedule(0.0, rate, config.warmup_steps)
    match config.schedule:
        case Schedule.LINEAR:
            fall = optax.schedules.linear_schedule(rate, 0.0, left)
        case Schedule.POLYNOMIAL:
            fall = optax.schedules.polynomial_schedule(rate, 0.0, 2, left)
        case Schedule.COSINE:
            fall = optax.schedules.cosine_decay_schedule(rate, left)
        case Schedule.STABLE:
            falling = min(max(round(config.decay_share * steps), 1), left)
            fall = optax.schedules.linear_schedule(rate, 0.0, falling, left - falling)
    return optax.schedules.join_schedules([warmup, fall], [config.warmup_steps])


def make_optimizer(
    config: OptimizerConfig,
    *,
    frozen: frozenset[str] = frozenset(),
    relative_rates: Callable[[Any], Any] | None = None,
) -> optax.GradientTransformation:
    """Clips, adapts and decays; the step then moves the parameters by -rate times the result.

    Args:
      config: of the run.
      frozen: top-level parameter groups that keep their values; they get no moments either.
      relative_rates: parameters -> what multiplies the rate of each, as `layer_rates` makes it;
        None: all have the same.
    """
    adam = optax.scale_by_adam if config.bias_correction else scale_by_uncorrected_adam
    moment_type = jnp.dtype(config.first_moment_type.value)
    trained = optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        adam(config.beta1, config.beta2, config.epsilon, mu_dtype=moment_type),
        optax.add_decayed_weights(config.weight_decay, mask=is_decayed),
        scale_by_layer_norms() if config.rule is Optimizer.LAMB else optax.identity(),
        scale_each(relative_rates) if relative_rates else optax.identity(),
    )
    if not frozen:
        return trained

    def labels(params: dict[str, Any]) -> dict[str, Any]:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "frozen" if names_of(path)[0] in frozen else "trained", params
        )

    return optax.partition({"trained": trained, "frozen": optax.set_to_zero()}, labels)


def layer_rates(params: dict[str, Any], *, decay: float, head: float) -> dict[str, Any]:
    """Returns relative rates: each layer's is `decay` times that of the one above it.

    The head stands above the top layer (ELECTRA, appendix B); the embeddings below the lowest.

    Args:
      params: of a `TaskModel`; the group `encoder` and others.
      decay: in (0, 1].
      head: the rate of the other groups relative to the run's.

    Returns:
      The tree of `params`, each leaf a factor that broadcasts with the parameter.
    """
    layers = params["encoder"][LAYERS]["mlp"]["up"]["kernel"].shape[0]
    below_top = jnp.arange(layers - 1, -1, -1)

    def rate(path: tuple, leaf: Any) -> Any:
        group, *inner = names_of(path)
        if group != "encoder":
            return head
        if inner[0] == LAYERS:
            return (decay ** (1.0 + below_top)).reshape(-1, *[1] * (leaf.ndim - 1))
        return decay ** (layers + 1.0) if inner[0] == "embeddings" else decay

    return jax.tree_util.tree_map_with_path(rate, params)


def scale_by_layer_norms() -> optax.GradientTransformation:
    """Scales each update to the norm of its parameter, as LAMB (You et al., 2020, algorithm 2).

    Each of the stacked layers has a norm of its own. Where a norm is 0 the update stays as it is.
    """
    by_norms = optax.scale_by_trust_ratio()

    def scale(update: Any, param: Any) -> Any:
        return by_norms.update(update, optax.EmptyState(), param)[0]

    def scale_leaf(path: tuple, update: Any, param: Any) -> Any:
        return (jax.vmap(scale) if LAYERS in names_of(path) else scale)(update, param)

    return optax.stateless(functools.partial(jax.tree_util.tree_map_with_path, scale_leaf))


def scale_each(factors: Callable[[Any], Any]) -> optax.GradientTransformation:
    """Multiplies each update by its factor; `factors` makes them of the parameters."""
    return optax.stateless(
        lambda updates, params: jax.tree.map(lambda u, f: u * f, updates, factors(params))
    )


def is_decayed(params: Any) -> Any:
    """Marks what weight decay applies to: all but biases and layer norms, chosen by name."""

    def decayed(path: tuple, _: Any) -> bool:
        return names_of(path)[-1] not in ("bias", "scale")

    return jax.tree_util.tree_map_with_path(decayed, params)


def scale_by_uncorrected_adam(
    beta1: float, beta2: float, epsilon: float, mu_dtype: Any = jnp.float32
) -> optax.GradientTransformation:
    """Adam as the published BERT code has it: moments start at 0 and are not corrected for it."""

    def init(params: Any) -> optax.ScaleByAdamState:
        mu = jax.tree.map(lambda p: jnp.zeros_like(p, mu_dtype), params)
        nu = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros([], jnp.int32), mu, nu)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        mu = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, state.nu, updates)
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + epsilon), mu, nu)
        mu = jax.tree.map(lambda m: m.astype(mu_dtype), mu)
        return updates, optax.ScaleByAdamState(optax.safe_increment(state.count), mu, nu)

    return optax.GradientTransformation(init, update)

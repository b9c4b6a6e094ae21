"""The optimizer of a run: AdamW, StableAdamW, LAMB or Muon, and groups with other rates or none."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from bert_jax.config import Optimizer, OptimizerConfig
from bert_jax.model.stack import LAYERS
from bert_jax.training.muon import scale_by_muon
from bert_jax.training.parameter_rules import is_decayed, matrices_of, names_of, rules_of

OptimizerFn = optax.GradientTransformationExtraArgs


def make_optimizer(
    config: OptimizerConfig,
    *,
    frozen: frozenset[str] = frozenset(),
    relative_rates: Callable[[Any], Any] | None = None,
    mesh: Mesh | None = None,
) -> OptimizerFn:
    """Clips, adapts and decays; the step then moves the parameters by -rate times the result.

    `update` takes `weight_decay`, of the step (`schedules.StepSettings`).

    Args:
      config: of the run.
      frozen: top-level parameter groups that keep their values; they get no moments either.
      relative_rates: parameters -> what multiplies the rate of each, as `layer_rates` makes it;
        None: all have the same.
      mesh: whose devices share the work that is no one's own; None: each does it all.
    """
    trained = optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        _scale_by_rule(config, mesh),
        add_decayed_weights(),
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


def _scale_by_rule(config: OptimizerConfig, mesh: Mesh | None) -> optax.GradientTransformation:
    """Returns what makes an update of a gradient, before weight decay and rates."""
    moment_type = jnp.dtype(config.first_moment_type.value)
    make_adam = optax.scale_by_adam if config.bias_correction else scale_by_uncorrected_adam
    adam = make_adam(config.beta1, config.beta2, config.epsilon, mu_dtype=moment_type)
    match config.rule:
        case Optimizer.STABLE_ADAMW:
            return stabilized(adam, config)
        case Optimizer.MUON:
            muon = scale_by_muon(
                matrices_of,
                update_rms=config.update_rms,
                momentum=config.momentum,
                momentum_type=moment_type,
                mesh=mesh,
            )
            transforms: Any = {Optimizer.MUON.value: muon, Optimizer.ADAMW.value: adam}
            return optax.partition(transforms, functools.partial(rules_of, config))
    return adam


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


def by_layer(fn: Callable[..., jax.Array]) -> Callable[..., Any]:
    """Maps a function of arrays over trees of parameters; stacked layers have one call each."""

    def of_leaf(path: tuple, *leaves: Any) -> Any:
        return (jax.vmap(fn) if LAYERS in names_of(path) else fn)(*leaves)

    return functools.partial(jax.tree_util.tree_map_with_path, of_leaf)


def scale_by_layer_norms() -> optax.GradientTransformation:
    """Scales each update to the norm of its parameter, as LAMB (You et al., 2020, algorithm 2).

    Each of the stacked layers has a norm of its own. Where a norm is 0 the update stays as it is.
    """
    by_norms = optax.scale_by_trust_ratio()

    def scale(update: Any, param: Any) -> Any:
        return by_norms.update(update, optax.EmptyState(), param)[0]

    return optax.stateless(by_layer(scale))


def scale_each(factors: Callable[[Any], Any]) -> optax.GradientTransformation:
    """Multiplies each update by its factor; `factors` makes them of the parameters."""
    return optax.stateless(
        lambda updates, params: jax.tree.map(lambda u, f: u * f, updates, factors(params))
    )


def add_decayed_weights() -> OptimizerFn:
    """Adds `weight_decay`, an argument of `update`, times each parameter that decays."""

    def add(updates: Any, state: Any, params: Any = None, **arguments: Any) -> tuple[Any, Any]:
        decay = arguments["weight_decay"]
        return jax.tree.map(lambda u, p: u + decay * p, updates, params), state

    every = optax.GradientTransformationExtraArgs(optax.init_empty_state, add)
    return optax.masked(every, is_decayed)


def stabilized(
    adam: optax.GradientTransformation, config: OptimizerConfig
) -> optax.GradientTransformation:
    """Slows Adam's update of an array whose gradient is larger than its second moment foretold.

    StableAdamW (Wortsman et al., 2023, section 3.5), as ModernBERT has it: the update is divided
    by the root mean square of g / sqrt(v), where that is above 1. Each layer has its own.

    Args:
      adam: `optax.scale_by_adam` or `scale_by_uncorrected_adam`, with the settings of `config`.
      config: of the run.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        adapted, state = adam.update(updates, state, params)
        correction = 1 - config.beta2**state.count if config.bias_correction else 1.0

        def slow(adapted: jax.Array, gradient: jax.Array, moment: jax.Array) -> jax.Array:
            expected = jnp.maximum(moment / correction, config.epsilon**2)
            spread = jnp.sqrt(jnp.mean(gradient**2 / expected))
            return adapted / jnp.maximum(spread, 1)

        return by_layer(slow)(adapted, updates, state.nu), state

    return optax.GradientTransformation(adam.init, update)


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

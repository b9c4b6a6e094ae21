"""Fields of config.json that several families have."""

from collections.abc import Mapping
from typing import Any

from bert_jax.config import Activation

_ACTIVATIONS = {
    "gelu": Activation.GELU,
    "gelu_python": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "relu": Activation.RELU,
    "silu": Activation.SILU,
    "swish": Activation.SILU,
}
_WRITTEN = {
    Activation.GELU: "gelu",
    Activation.GELU_TANH: "gelu_new",
    Activation.RELU: "relu",
    Activation.SILU: "silu",
}


def check_types(values: Mapping[str, Any], types: Mapping[str, type]) -> None:
    """Checks the types of fields that are there and not null.

    Raises:
      ValueError: with the field and the reason, for the first of another type.
    """
    for name, wanted in types.items():
        if values.get(name) is not None and type(values[name]) is not wanted:
            raise ValueError(f"{name}={values[name]}", f"is not of type {wanted.__name__}")


def read_activation(values: Mapping[str, Any], name: str) -> Activation:
    """Returns the activation in a field; GELU where it is absent.

    Raises:
      ValueError: with the field and the reason, if it is not implemented.
    """
    found = values.get(name, "gelu")
    if not isinstance(found, str) or found not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise ValueError(f"{name}={found}", f"is not implemented: only one of {known} is")
    return _ACTIVATIONS[found]


def write_activation(activation: Activation) -> str:
    """Returns their name of an activation."""
    return _WRITTEN[activation]


def read_theta(parameters: Mapping[str, Any], default: Any, where: str) -> float:
    """Returns the base of rotary positions.

    Args:
      parameters: `rope_parameters`, or its part for a kind of layer.
      default: where they have no rope_theta.
      where: name of the field, for errors.

    Raises:
      ValueError: with the field and the reason, if it is not implemented.
    """
    known = {"rope_type": "default", "type": "default", "partial_rotary_factor": 1.0}
    for name, value in parameters.items():
        if name != "rope_theta" and value is not None and value != known.get(name):
            raise ValueError(f"{where}.{name}={value}", "is not implemented: only plain ones are")
    theta = parameters.get("rope_theta", default)
    if isinstance(theta, bool) or not isinstance(theta, int | float) or not theta > 0:
        raise ValueError(f"{where}.rope_theta={theta}", "is not a positive number")
    return float(theta)

"""JAX's own switches in the environment: refused where a run could not be what its config says."""

import os

from bert_jax.errors import UserError

_OFF = ("", "0", "false", "f", "off", "no", "n")

# Values that change nothing, and the reason why the others are refused. All switches that are not
# here have their meaning, or change nothing.
_REFUSED = {
    "JAX_ENABLE_X64": (_OFF, "a run computes in float32, or in encoder.compute_type=bfloat16"),
    "JAX_DISABLE_JIT": (_OFF, "a step is compiled; --config.debug=True finds the first NaN"),
    "JAX_NO_TRACING": (_OFF, "a step is traced"),
    "JAX_NUMPY_DTYPE_PROMOTION": (("", "standard"), "statistics of bfloat16 are float32"),
    "JAX_TRANSFER_GUARD": (("", "allow", "log"), "a run guards its own transfers"),
    "JAX_TRANSFER_GUARD_HOST_TO_DEVICE": (("", "allow", "log"), "a run guards its own transfers"),
    "JAX_TRANSFER_GUARD_DEVICE_TO_HOST": (("", "allow", "log"), "a run guards its own transfers"),
}


def check_environment() -> None:
    """Raises UserError for a switch with which no run could be what its config says."""
    for name, (harmless, reason) in _REFUSED.items():
        value = os.environ.get(name, "")
        if value.lower() not in harmless:
            raise UserError(f"{name}={value} is set, but {reason}: unset it")


def wrong_switch(error: Exception) -> str | None:
    """Returns NAME=VALUE of the switch whose value JAX's error is about; None for any other."""
    message = str(error).lower()
    for name, value in os.environ.items():
        if name.startswith("JAX_") and name.lower() in message:
            return f"{name}={value}"
    return None

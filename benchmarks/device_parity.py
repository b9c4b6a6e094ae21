"""Compares the accelerator's results with the CPU's; `bench` checks this before it times anything.

    python -m benchmarks.device_parity

It compares the loss and the gradients of mini on full rows, with dropout, whose random bits are
the same on every device.
"""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app

from benchmarks.rows import full_rows
from benchmarks.sizes import VOCAB, encoder_of, vocabulary_of
from bert_jax.config import ComputeType, MaskingConfig, MeshConfig
from bert_jax.distributed import sharding
from bert_jax.model.attention import attention
from bert_jax.model.fused_attention import fused_attention
from bert_jax.model.heads import PretrainingModel
from bert_jax.objectives.losses import make_pretraining_loss
from bert_jax.runs.steps import make_mask_fn
from bert_jax.training.state import abstract_params, init_params, run_key

# name -> compute type, fused attention or not, and tolerance, relative to the loss and to the
# largest gradient; bfloat16 has 8 bits.
_CASES = {
    "float32": (ComputeType.FLOAT32, False, 1e-4),
    "bfloat16": (ComputeType.BFLOAT16, False, 0.1),
    "bfloat16, fused attention": (ComputeType.BFLOAT16, True, 0.1),
}


def gradients(
    device: Any, compute_type: ComputeType, size: str, is_fused: bool
) -> tuple[float, list[np.ndarray]]:
    """Returns the loss and its gradients on one device."""
    encoder = encoder_of(size)
    encoder.compute_type = compute_type
    attend = attention
    if is_fused:
        encoder.attention_dropout_rate = 0.0
        if device.platform != "cpu":
            attend = fused_attention(sharding.make_mesh(MeshConfig(), [device]), device.platform)
    model = PretrainingModel(encoder, attend=attend)
    loss = make_pretraining_loss(model)
    vocabulary = vocabulary_of(VOCAB)
    masking = MaskingConfig()
    prepare = make_mask_fn(masking, vocabulary)
    with jax.default_device(device), jax.default_matmul_precision("highest"):
        mesh = sharding.make_mesh(MeshConfig(), [device])
        params = init_params(model, 0, abstract_params(model, mesh))
        batch = sharding.global_batch(full_rows(4, 128), np.arange(4), 4, mesh)

        @jax.jit
        def gradient(params, batch):
            batch = prepare(batch, run_key(0), jnp.float32(masking.rate))
            return jax.value_and_grad(loss, has_aux=True)(params, batch, run_key(1))

        (value, _), grads = jax.device_get(gradient(params, batch))
    return float(value), jax.tree.leaves(grads)


def differences(
    compute_type: ComputeType, size: str = "mini", *, is_fused: bool = False
) -> dict[str, float]:
    """Returns the distance of the accelerator's results from the CPU's in float32.

    Args:
      compute_type: of the accelerator.
      size: the model.
      is_fused: True to use the fused attention kernel on the accelerator, without dropout.

    Returns:
      `loss`: relative difference of the loss. `gradients`: largest absolute difference, relative
      to the largest gradient.
    """
    value, ours = gradients(jax.devices()[0], compute_type, size, is_fused)
    expected, theirs = gradients(jax.devices("cpu")[0], ComputeType.FLOAT32, size, is_fused)
    far = max(np.abs(o - t).max() for o, t in zip(ours, theirs, strict=True))
    greatest = max(np.abs(t).max() for t in theirs)
    return {"loss": abs(value - expected) / expected, "gradients": float(far / greatest)}


def main(_: list[str]) -> None:
    """Prints a line of JSON; exits with status 1 if the results differ by more than rounding."""
    found = {}
    for name, (compute_type, is_fused, most) in _CASES.items():
        found[name] = differences(compute_type, is_fused=is_fused)
        if max(found[name].values()) > most:
            raise SystemExit(
                f"{name}: the accelerator differs from the CPU by {found[name]}, more than {most}:"
                " do not trust timings on it"
            )
    print(json.dumps(found))


if __name__ == "__main__":
    app.run(main)

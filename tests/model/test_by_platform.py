import dataclasses
from typing import Any

import numpy as np
import pytest
from jax.sharding import Mesh

from bert_jax.config import AttentionKernel, ComputeType, EncoderConfig, Norm, Remat
from bert_jax.distributed.sharding import MESH_AXES
from bert_jax.errors import UserError
from bert_jax.model.by_platform import describe_choices, for_devices

# Without attention dropout, in bfloat16: every platform's kernel can compute it.
FREE = EncoderConfig(
    vocab_size=37, layers=12, attention_dropout_rate=0.0, compute_type=ComputeType.BFLOAT16
)


@dataclasses.dataclass(frozen=True)
class Device:
    """A device of a mesh, that need not be here."""

    platform: str
    id: int
    compute_capability: str = "9.0"
    device_kind: str = "TPU v9"


def mesh_of(platform: str, fsdp: int = 1, capability: str = "9.0") -> Mesh:
    """Returns a mesh of 2 x fsdp x 1 such devices."""
    devices = np.array([Device(platform, number, capability) for number in range(2 * fsdp)])
    return Mesh(devices.reshape(2, fsdp, 1), MESH_AXES)


def choices(platform: str, lengths=(512,), fsdp: int = 1, **changes: Any) -> tuple[str, int]:
    made = for_devices(dataclasses.replace(FREE, **changes), mesh_of(platform, fsdp), lengths)
    return made.attention.value, made.unroll


@pytest.mark.parametrize(
    ("platform", "attention", "unroll"),
    [("cpu", "products", 12), ("tpu", "fused", 12), ("gpu", "fused", 12)],
)
def test_each_platform_has_its_choices(platform, attention, unroll):
    assert choices(platform) == (attention, unroll)


@pytest.mark.parametrize(
    ("platform", "lengths", "changes"),
    [
        ("tpu", (512,), {"attention_dropout_rate": 0.1}),  # no kernel drops
        ("gpu", (512,), {"compute_type": ComputeType.FLOAT32}),
        ("gpu", (512,), {"heads": 4}),  # 192 wide
        ("gpu", (512,), {"width": 744}),  # 62 wide
        ("gpu", (512, 513), {}),
        ("tpu", (512,), {"window": 64}),  # all layers are windowed
        ("tpu", (128, 600), {}),  # not whole blocks
        ("tpu", (128, 256), {}),  # too short to pay
    ],
)
def test_attention_is_fused_only_where_a_kernel_can_and_pays(platform, lengths, changes):
    assert choices(platform, lengths, **changes)[0] == "products"
    assert choices(platform)[0] == "fused"


@pytest.mark.parametrize("capability", ["7.5", "gfx90a"])
def test_only_gpus_with_a_kernel_fuse(capability):
    made = for_devices(FREE, mesh_of("gpu", capability=capability), [512])
    assert made.attention is AttentionKernel.PRODUCTS


def test_windows_between_global_layers_leave_these_a_kernel():
    assert choices("tpu", window=64, global_every=3)[0] == "fused"


def test_one_long_phase_is_enough_for_the_fused_kernel():
    assert choices("tpu", (128, 512))[0] == "fused"


def test_a_cpu_scans_few_layers_and_those_with_norms_first():
    assert choices("cpu", layers=4)[1] == choices("cpu", norm=Norm.PRE)[1] == 1
    assert choices("gpu", norm=Norm.PRE)[1] == 12


@pytest.mark.parametrize("remat", [Remat.PRODUCTS, Remat.INPUTS])
def test_a_cpu_scans_what_is_computed_again(remat):
    assert choices("cpu", remat=remat)[1] == choices("cpu", fsdp=2)[1] == 1
    assert choices("tpu", remat=remat)[1] == 12


def test_fully_sharded_layers_stay_in_a_scan_on_a_tpu():
    assert choices("tpu", fsdp=4)[1] == 1
    assert choices("gpu", fsdp=4)[1] == 12


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_what_the_config_says_is_kept(platform):
    assert choices(platform, attention=AttentionKernel.PRODUCTS, unroll=3) == ("products", 3)


def test_a_kernel_that_the_config_names_must_be_there():
    with pytest.raises(UserError, match="no such kernel for cpu"):
        choices("cpu", attention=AttentionKernel.FUSED)


def test_the_choices_are_told_as_settings():
    mesh = mesh_of("tpu")
    told = describe_choices(for_devices(FREE, mesh, [512]), mesh)
    assert told.startswith("2 x TPU v9: data=2")
    assert told.endswith(", encoder.attention=fused, encoder.unroll=12")

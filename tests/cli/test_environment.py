"""JAX's switches have their meaning, or are refused in one line before the first step."""

import pathlib

import pytest

from tests.fixtures.drivers import Drivers, Run, newest, python_m


@pytest.mark.parametrize(
    "switch",
    [
        "JAX_ENABLE_X64=1",
        "JAX_ENABLE_X64=true",
        "JAX_DISABLE_JIT=1",
        "JAX_NO_TRACING=1",
        "JAX_NUMPY_DTYPE_PROMOTION=strict",
        "JAX_TRANSFER_GUARD=disallow",
        "JAX_TRANSFER_GUARD_DEVICE_TO_HOST=disallow_explicit",
    ],
)
def test_what_no_run_can_work_with_is_refused(
    switch: str, drivers: Drivers, pretrain_flags: list[str], tmp_path: pathlib.Path
) -> None:
    name, _, value = switch.partition("=")
    flags = [*pretrain_flags, f"--workdir={tmp_path / 'run'}"]
    message = drivers.run("pretrain", *flags, environment={name: value}).error()
    assert message.startswith(f"{switch} is set, but ") and message.endswith(": unset it")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "switch",
    ["JAX_PLATFORMS=nonsense", "JAX_ENABLE_X64=0", "JAX_DEFAULT_MATMUL_PRECISION=nonsense"],
)
def test_a_wrong_value_is_named(switch: str, pretrained: Run) -> None:
    name, _, value = switch.partition("=")
    flags = (f"--checkpoint={pretrained[0]}", "--text=red [MASK]")
    result = python_m("predict", *flags, environment={name: value})
    if value == "0":
        assert result.status == 0, result
        return
    message = result.error()
    assert message.startswith(f"{switch}: ") and "or unset it" in message


def test_a_wrong_platform_is_no_damage_of_a_checkpoint(pretrained: Run, finetuned: Run) -> None:
    for checkpoint in (finetuned[0], newest(pretrained[0])):
        flags = (f"--checkpoint={checkpoint}", "--text=red")
        message = python_m("predict", *flags, environment={"JAX_PLATFORMS": "nonsense"}).error()
        assert message.startswith("JAX_PLATFORMS=nonsense: ") and "damaged" not in message

import math
import pathlib
import random
import shutil
import socket
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.checkpoints import checkpoint
from bert_jax.checkpoints.checkpoint import (
    Checkpoints,
    find_checkpoint,
    groups_in,
    read_metadata,
    restore_groups,
    restore_newest,
    restore_state,
    steps_in,
)
from bert_jax.checkpoints.fingerprint import fingerprints
from bert_jax.errors import UserError
from bert_jax.training.state import TrainState
from tests.fixtures.drivers import (
    PATIENCE_SECONDS,
    ROOT,
    Run,
    abstract_of,
    assert_same_bits,
    newest,
    state_of,
)


def small_state(step: int, **changes: float) -> TrainState:
    """A state whose leaves have every kind of element that a run has."""
    params = {
        "encoder": {"kernel": jnp.arange(6.0).reshape(2, 3) + changes.get("kernel", 0.0)},
        "head": {"bias": jnp.array([changes.get("bias", 0.5), -0.0])},
    }
    moments = jax.tree.map(lambda leaf: leaf / 3, params)
    return TrainState(jnp.int32(step), params, (moments, jnp.int32(step), jnp.bfloat16(0.1)))


def abstract(state: TrainState, place: Any = None) -> Any:
    place = place or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state)


def save(workdir: pathlib.Path, *states: TrainState, scores: Any = None, keep: int = 3) -> None:
    checkpoints = Checkpoints(workdir, keep=keep, keep_best=scores is not None)
    for number, state in enumerate(states):
        checkpoints.save(state, {"kind": "test"}, None if scores is None else scores[number])
    checkpoints.close()


def test_restores_every_bit(tmp_path: pathlib.Path) -> None:
    state = small_state(4)
    save(tmp_path, state)
    assert_same_bits(restore_state(tmp_path / "checkpoints/4", abstract(state))[0], state)
    metadata = read_metadata(tmp_path / "checkpoints/4")
    assert metadata["kind"] == "test" and metadata["step"] == 4 and "jax" in metadata["versions"]


def test_arrays_are_not_compressed(tmp_path: pathlib.Path) -> None:
    zeros = {"kernel": jnp.zeros((100, 1000))}  # 400 kB of which nothing would be left
    save(tmp_path, TrainState(jnp.int32(1), zeros, (zeros,), average=zeros))
    for item in ("params", "opt_state", "average"):
        files = (tmp_path / "checkpoints/1" / item).rglob("*")
        assert sum(file.stat().st_size for file in files) > zeros["kernel"].nbytes


def test_the_newest_are_kept(tmp_path: pathlib.Path) -> None:
    save(tmp_path, *(small_state(step) for step in (1, 2, 3, 4)), keep=2)
    assert steps_in(tmp_path) == [3, 4]


def test_the_best_is_kept_and_found_by_later_processes_too(tmp_path: pathlib.Path) -> None:
    save(tmp_path, small_state(1), small_state(2), small_state(3), scores=[0.5, 0.8, 0.6], keep=1)
    assert steps_in(tmp_path) == [2, 3]
    save(tmp_path, small_state(4), small_state(5), scores=[0.7, 0.1], keep=1)
    assert steps_in(tmp_path) == [2, 5]
    for name in (".", "checkpoints", "checkpoints/2"):
        assert find_checkpoint(tmp_path / name) == tmp_path / "checkpoints/2"
    assert find_checkpoint(tmp_path / "checkpoints/5") == tmp_path / "checkpoints/5"
    (tmp_path / "seeds" / "seed-3" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match=r"seeds has several runs: name one, such as .*seed-3$"):
        find_checkpoint(tmp_path / "seeds")


def test_every_so_many_steps_one_is_kept_for_good(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1, keep_every_steps=3)
    for step in range(1, 9):
        checkpoints.save(small_state(step), {"kind": "test"})
    checkpoints.close()
    assert steps_in(tmp_path) == [3, 6, 8]


def test_a_later_format_is_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "CHECKPOINT_FORMAT", 3)
    save(tmp_path, small_state(1))
    monkeypatch.undo()
    with pytest.raises(
        UserError, match="has format 3, and this version .* reads formats up to 2: use"
    ):
        restore_newest(tmp_path, abstract(small_state(1)))
    assert steps_in(tmp_path) == [1]


@pytest.mark.parametrize("place", ["nothing", "file", "empty", "run/checkpoints/9"])
def test_a_directory_that_holds_no_checkpoint(place: str, tmp_path: pathlib.Path) -> None:
    save(tmp_path / "run", small_state(1))
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no checkpoint: name the directory of a run"):
        find_checkpoint(tmp_path / place)


def test_what_does_not_fit_is_named(tmp_path: pathlib.Path) -> None:
    state = small_state(1)
    save(tmp_path, state)
    other = state._replace(
        params={
            "encoder": {"kernel": jnp.zeros((3, 2)), "scale": jnp.ones(3)},
            "head": {"bias": state.params["head"]["bias"].astype(jnp.bfloat16)},
        }
    )
    with pytest.raises(UserError) as raised:
        restore_state(tmp_path / "checkpoints/1", abstract(other))
    assert str(raised.value).endswith(
        "params does not fit the model: encoder/kernel is float32[2,3], not float32[3,2];"
        " encoder/scale is missing; head/bias is float32[2], not bfloat16[2]:"
        " use the config that it was saved with"
    )


def test_groups_are_taken_by_name(tmp_path: pathlib.Path) -> None:
    state = small_state(1)
    save(tmp_path, state)
    checkpoint = tmp_path / "checkpoints/1"
    assert set(groups_in(checkpoint)) == {"encoder", "head"}
    assert_same_bits(
        restore_groups(checkpoint, abstract(state).params, ["encoder"]),
        {"encoder": state.params["encoder"]},
    )
    assert restore_groups(checkpoint, abstract(state).params, []) == {}


@pytest.mark.parametrize("bit", [0, 13, 31])
def test_every_bit_counts_in_the_fingerprint(bit: int) -> None:
    array = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    whole = fingerprints({"a": array})["a"]
    for place in range(array.size):
        flipped = array.copy()
        flipped.reshape(-1).view(np.uint32)[place] ^= np.uint32(1 << bit)
        assert fingerprints({"a": flipped})["a"] != whole
    assert fingerprints({"a": array[::-1].copy()})["a"] != whole


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int8])
def test_an_array_in_parts_has_the_fingerprint_of_the_whole(dtype: Any) -> None:
    shape = (8, 5, 1 << 14)
    content = np.random.default_rng(0).bytes(math.prod(shape) * jnp.dtype(dtype).itemsize)
    whole = np.frombuffer(content, jnp.dtype(dtype)).reshape(shape)
    mesh = jax.make_mesh((8,), ("rows",), (jax.sharding.AxisType.Auto,))
    for axes in (("rows",), (None, None, "rows")):
        place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
        assert fingerprints({"a": jax.device_put(whole, place)}) == fingerprints({"a": whole})


def test_a_flipped_bit_of_an_array_is_named(tmp_path: pathlib.Path) -> None:
    # What a decoder would return for a flip that its own checks let through.
    state, other = small_state(1), small_state(1, bias=np.nextafter(np.float32(0.5), 1))
    save(tmp_path / "a", state)
    save(tmp_path / "b", other)
    checkpoint = tmp_path / "a/checkpoints/1"
    shutil.rmtree(checkpoint / "params")
    shutil.copytree(tmp_path / "b/checkpoints/1/params", checkpoint / "params")
    message = "a/checkpoints/1/params is damaged .the bits of head/bias differ from"
    with pytest.raises(UserError, match=message):
        restore_state(checkpoint, abstract(state))
    with pytest.raises(UserError, match=message):
        restore_groups(checkpoint, abstract(state).params, ["head"])
    restore_groups(checkpoint, abstract(state).params, ["encoder"])


# What Orbax's tasks leave behind when another of them has failed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_flipped_bit_on_disk_is_refused(pretrained: Run, tmp_path: pathlib.Path) -> None:
    source = newest(pretrained[0])
    wanted, state, metadata = abstract_of(source), state_of(source), read_metadata(source)
    rng, refused = random.Random(0), 0
    arrays = [path for path in source.rglob("d/*") if path.stat().st_size > 4000]
    others = [source / "metadata/metadata", source / "params/_METADATA"]
    for number, path in enumerate([*arrays, *others] * 2):
        copy = tmp_path / str(number)
        shutil.copytree(source, copy)
        content = bytearray((copy / path.relative_to(source)).read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        (copy / path.relative_to(source)).write_bytes(content)
        try:
            restored, _ = restore_state(copy, wanted)
        except UserError as error:
            assert str(copy) in str(error) and "is damaged" in str(error)
            assert "\n" not in str(error)
            refused += 1
        else:  # the bit was of no use, as in a part of the file that nothing points to
            assert_same_bits(restored, state)
            assert read_metadata(copy) == metadata
    assert refused >= len(arrays)


_RESTORE = """
import sys
import jax
from bert_jax.checkpoints.checkpoint import restore_newest
from tests.checkpoints.test_checkpoint import abstract, small_state

address, process, folder = sys.argv[1:]
jax.distributed.initialize(address, 2, int(process))
mesh = jax.make_mesh((2,), ("data",))
everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
state, _, warnings = restore_newest(folder, abstract(small_state(0), everywhere))
print(int(state.step), len(warnings))
"""


@pytest.mark.parametrize("damaged", ["metadata/metadata", "params/_METADATA", "bits"])
def test_damage_that_one_process_sees_makes_all_go_back(
    tmp_path: pathlib.Path, damaged: str
) -> None:
    views = [tmp_path / "first", tmp_path / "second"]  # of a disk, as two hosts see it
    save(views[0], small_state(1), small_state(2))
    shutil.copytree(views[0], views[1])
    lost = views[1] / "checkpoints/2"
    if damaged == "bits":
        save(tmp_path / "other", small_state(2, bias=0.75))
        shutil.rmtree(lost / "params")
        shutil.copytree(tmp_path / "other/checkpoints/2/params", lost / "params")
    else:
        (lost / damaged).write_bytes(b"")
    with socket.create_server(("", 0)) as held:
        address = f"localhost:{held.getsockname()[1]}"
    commands = [
        [sys.executable, "-c", _RESTORE, address, str(process), str(view)]
        for process, view in enumerate(views)
    ]
    jobs = [
        subprocess.Popen(each, cwd=ROOT, stdout=subprocess.PIPE, text=True) for each in commands
    ]
    printed = [job.communicate(timeout=PATIENCE_SECONDS)[0].splitlines() for job in jobs]
    assert [lines[-1:] for lines in printed] == [["1 1"], ["1 1"]]
    assert steps_in(views[0]) == [1]

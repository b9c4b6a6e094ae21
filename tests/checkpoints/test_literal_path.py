"""No character of a path has a meaning: checkpoints are written and found in any directory."""

import os
import pathlib

import numpy as np
import pytest

from bert_jax.checkpoints.checkpoint import (
    Checkpoints,
    arrays_in,
    find_checkpoint,
    read_array,
    read_metadata,
    restore_state,
)
from bert_jax.checkpoints.literal_path import LiteralPath, literal_path
from bert_jax.checkpoints.workdir import check_workdir
from bert_jax.config import PretrainConfig
from bert_jax.errors import UserError
from tests.checkpoints.test_checkpoint import abstract, small_state
from tests.fixtures.drivers import assert_same_bits

NAMES = [
    *("runs[1]", "[!a]", "[", "a]b", "a*b", "**", "?", "{a,b}", "a|b", "(x)", "^", "!b", "&"),
    *("~", "~user", "$HOME", "%41", "a%b", "#1", "a:b", "s3:x", "file:x", "gs:x", "a=b,c", ";"),
    *(" begins", "ends ", "two\nlines", "tab\t", "'", '"', "`x`", "-x", "--config=x", "..a", "a.."),
    *("é", "e\u0301", "日本語", "\u202e", "\x01", "\x7f", "n" * 250, ".hidden"),
    *("checkpoints", "params", "metadata", "7", "ocdbt.process_0", "7.orbax-checkpoint-tmp"),
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_has_a_checkpoint(name: str, tmp_path: pathlib.Path) -> None:
    state, workdir = small_state(4), tmp_path / name / "run"
    if name in ("checkpoints", "~"):
        workdir = tmp_path / name
    checkpoints = Checkpoints(workdir, keep=1, keep_best=True)
    checkpoints.save(state, {"kind": "test"}, score=1.0)
    checkpoints.close()
    found = find_checkpoint(workdir)
    assert found == workdir / "checkpoints/4"
    assert_same_bits(restore_state(found, abstract(state))[0], state)
    assert set(arrays_in(found, "params")) == {"encoder/kernel", "head/bias"}
    kernel = read_array(found, "params", "encoder/kernel", read_metadata(found))
    np.testing.assert_array_equal(kernel, state.params["encoder"]["kernel"])


@pytest.mark.parametrize("root", ["/gs", "/s3", "/hf", "/az"])
def test_no_root_is_an_object_store(root: str) -> None:
    path = literal_path(f"{root}/runs") / "checkpoints"
    assert isinstance(path, LiteralPath)
    assert os.fspath(path) == str(path) == path.as_posix() == f"{root}/runs/checkpoints"
    assert not path.exists() and isinstance(path.parent, LiteralPath)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a\\b", r"a\\b cannot have checkpoints, since \\ has a meaning"),
        ("gs:/run", "since gs:/ has a meaning"),
        ("gs:", "since gs:/ has a meaning"),
        (os.fsdecode(b"\xff"), "name a directory in UTF-8"),
    ],
)
def test_what_cannot_work_is_refused_before_the_run(
    name: str, reason: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(UserError, match=reason):
        check_workdir(tmp_path / name, PretrainConfig())
    assert not any(tmp_path.iterdir())

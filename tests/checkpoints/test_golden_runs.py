"""Runs that earlier versions have written must stay readable; see tests/golden/make_runs.py."""

import json
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import pytest

from bert_jax.checkpoints.checkpoint import find_checkpoint, read_metadata, restore_groups
from bert_jax.checkpoints.fingerprint import leaf_name
from bert_jax.checkpoints.pretrained import one_device, restore_masked_lm
from bert_jax.checkpoints.workdir import CONFIG_FILE, check_workdir
from bert_jax.config import EncoderConfig, FinetuneConfig, PretrainConfig, from_dict
from bert_jax.tasks.finetuned import FineTuned
from bert_jax.tasks.kinds import make_model
from bert_jax.text.tokenizer import load_tokenizer
from bert_jax.training.logs import LOG_FILE, STARTS_FILE, read_log
from bert_jax.training.state import abstract_params
from tests.fixtures.drivers import state_of
from tests.golden.make_runs import RUNS, array_digests


def digests(tree: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return array_digests({leaf_name(path): leaf for path, leaf in leaves})


def golden(name: str) -> dict[str, dict[str, str]]:
    return json.loads((RUNS / name / "arrays.json").read_text())


def test_a_pretraining_run_is_restored_bit_for_bit() -> None:
    checkpoint = find_checkpoint(RUNS / "pretrained")
    metadata = read_metadata(checkpoint)
    assert (metadata["kind"], metadata["format"], metadata["step"]) == ("pretraining", 2, 4)
    state = state_of(checkpoint)
    assert int(state.step) == 4
    expected = golden("pretrained")
    assert digests(state.params) == expected["params"]
    assert digests(state.opt_state) == expected["opt_state"]
    lm = restore_masked_lm(checkpoint, metadata, one_device())
    assert digests(lm.params) == expected["params"]
    assert load_tokenizer(RUNS / "pretrained/tokenizer").fingerprint == lm.tokenizer.fingerprint


def test_a_fine_tuning_run_is_restored_bit_for_bit() -> None:
    checkpoint = find_checkpoint(RUNS / "finetuned")
    metadata = read_metadata(checkpoint)
    assert metadata["kind"] == "classification" and metadata["labels"] == ["cold", "warm"]
    assert set(metadata["scores"]) >= {"dev_accuracy", "dev_loss"}
    encoder = from_dict(EncoderConfig, metadata["encoder"])
    config = from_dict(FinetuneConfig, metadata["config"])
    abstract = abstract_params(make_model(config, encoder, metadata["labels"]), one_device())
    params = restore_groups(checkpoint, abstract, abstract)
    assert digests(params) == golden("finetuned")["params"]
    assert FineTuned(checkpoint, metadata, one_device()).scores == metadata["scores"]


@pytest.mark.parametrize(
    ("name", "config_type", "metric"),
    [("pretrained", PretrainConfig, "heldout_mlm_loss"), ("finetuned", FinetuneConfig, "dev_loss")],
)
def test_config_and_logs_of_a_run_are_read(
    name: str, config_type: type, metric: str, tmp_path: pathlib.Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(RUNS / name, run)
    stored = json.loads((run / CONFIG_FILE).read_text())
    check_workdir(run, from_dict(config_type, stored))
    entries = read_log(run / LOG_FILE)
    assert np.isfinite([entry["loss"] for entry in entries if "loss" in entry]).all()
    assert [entry["step"] for entry in entries if metric in entry]
    (start,) = map(json.loads, (run / STARTS_FILE).read_text().splitlines())
    assert start["step"] == 0 and start["seconds"]["first step"] > 0

"""What fine-tuning takes over between encoder and head: the pooler, or a transform in its place."""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from bert_jax.checkpoints.checkpoint import find_checkpoint, write_parameters
from bert_jax.checkpoints.transfer import initial_params, task_encoder
from bert_jax.config import (
    EncoderConfig,
    FinetuneConfig,
    InputPooling,
    MeshConfig,
    PoolerKind,
    TaskKind,
)
from bert_jax.distributed.sharding import make_mesh
from bert_jax.errors import UserError
from bert_jax.interop.architectures import module_of, pretrained_metadata
from bert_jax.interop.foreign import tokenizer_metadata
from bert_jax.tasks.kinds import make_model
from bert_jax.text.tokenizer import WordPieceTokenizer
from bert_jax.training.state import abstract_params
from tests.fixtures.batches import make_batch, random_params
from tests.fixtures.drivers import assert_same_bits
from tests.fixtures.interop import VOCAB

ALL = ("encoder", "pooler", "mlm_head", "nsp_head")


def stored(encoder: EncoderConfig, groups: tuple[str, ...], directory: pathlib.Path) -> Any:
    """Writes a random pretraining checkpoint; returns its parameters."""
    metadata = pretrained_metadata(encoder, groups)
    metadata["tokenizer"] = tokenizer_metadata(WordPieceTokenizer(VOCAB, lower_case=True))
    batch = make_batch(encoder)
    batch["mlm_positions"] = np.zeros((16, 1), np.int32)
    params = random_params(module_of(metadata), batch)
    write_parameters(directory, params, metadata)
    return params


def begun(directory: pathlib.Path, encoder: EncoderConfig, config: FinetuneConfig) -> Any:
    """Returns the initial parameters of a run, and the groups that are transferred."""
    config.data.length = 16
    model = make_model(config, task_encoder(encoder, config), ["a", "b", "c"])
    mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
    return initial_params(find_checkpoint(directory), model, abstract_params(model, mesh), config)


@pytest.mark.parametrize("task", [TaskKind.CLASSIFICATION, TaskKind.TAGS, TaskKind.SPANS])
def test_a_transform_begins_as_that_of_the_masked_lm(
    task: TaskKind, tiny_encoder: EncoderConfig, tmp_path: pathlib.Path
) -> None:
    encoder = dataclasses.replace(tiny_encoder, pooler=PoolerKind.TRANSFORM)
    before = stored(encoder, ("encoder", "mlm_head"), tmp_path)
    after, transferred = begun(tmp_path, encoder, FinetuneConfig(task=task))
    assert transferred == {"encoder", "pooler"}
    assert_same_bits(after["pooler"]["dense"], before["mlm_head"]["transform"])
    assert_same_bits(after["pooler"]["norm"], before["mlm_head"]["norm"])
    for config in (
        FinetuneConfig(task=task, transfer=False),
        FinetuneConfig(task=task, feature_layers=2),
    ):
        after, transferred = begun(tmp_path, encoder, config)
        assert "pooler" not in transferred


@pytest.mark.parametrize("embedding_width", [0, 20])
def test_a_run_may_have_another_pooler(
    embedding_width: int, tiny_encoder: EncoderConfig, tmp_path: pathlib.Path
) -> None:
    encoder = dataclasses.replace(tiny_encoder, embedding_width=embedding_width)
    before = stored(encoder, ALL, tmp_path)
    after, transferred = begun(tmp_path, encoder, FinetuneConfig())
    assert transferred == {"encoder", "pooler"}
    assert_same_bits(after["pooler"], before["pooler"])

    config = FinetuneConfig(pooler=PoolerKind.GELU, pooling=InputPooling.MEAN)
    config.data.length = 16
    made = task_encoder(encoder, config)
    assert (made.pooler, made.pooling) == (PoolerKind.GELU, InputPooling.MEAN)
    after, transferred = begun(tmp_path, encoder, config)
    assert transferred == {"encoder"} and "pooler" in after  # of one shape, and not of one meaning

    after, transferred = begun(tmp_path, encoder, FinetuneConfig(pooler=PoolerKind.TRANSFORM))
    if embedding_width:  # the masked LM's transform is a map to another width
        assert transferred == {"encoder"}
    else:
        assert_same_bits(after["pooler"]["dense"], before["mlm_head"]["transform"])
    after, _ = begun(tmp_path, encoder, FinetuneConfig(pooler=PoolerKind.NONE))
    assert "pooler" not in after


def test_a_pooling_needs_what_it_pools(tiny_encoder: EncoderConfig) -> None:
    config = FinetuneConfig(pooling=InputPooling.LATE, pooler=PoolerKind.NONE)
    config.data.length = 16
    with pytest.raises(UserError, match="pooling=late averages what the pooler makes"):
        task_encoder(tiny_encoder, config)

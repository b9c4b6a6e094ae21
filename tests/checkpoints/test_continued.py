"""What a run takes over from the checkpoint that it starts from."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest

from bert_jax.checkpoints.checkpoint import write_parameters
from bert_jax.checkpoints.continued import continued
from bert_jax.config import (
    ComputeType,
    EncoderConfig,
    ExampleFormat,
    MaskStrategy,
    Norm,
    PretrainConfig,
    SentenceObjective,
    TaskKind,
    validate,
)
from bert_jax.errors import UserError
from bert_jax.interop.architectures import (
    fine_tuned_metadata,
    module_of,
    pretrained_metadata,
)
from bert_jax.interop.foreign import tokenizer_metadata
from bert_jax.text.tokenizer import WordPieceTokenizer
from tests.fixtures.batches import make_batch, random_params
from tests.fixtures.drivers import Drivers, Run, log_of, prepare_flags, write_text
from tests.fixtures.interop import VOCAB


def stored(metadata: dict[str, Any], encoder: EncoderConfig, directory: pathlib.Path) -> str:
    batch = make_batch(encoder)
    batch["mlm_positions"] = np.zeros((16, 1), np.int32)
    metadata["tokenizer"] = tokenizer_metadata(WordPieceTokenizer(VOCAB, lower_case=True))
    write_parameters(directory, random_params(module_of(metadata), batch), metadata)
    return str(directory)


def test_the_encoder_is_the_checkpoints(
    tiny_encoder: EncoderConfig, tmp_path: pathlib.Path
) -> None:
    encoder = dataclasses.replace(
        tiny_encoder, norm=Norm.PRE, dropout_rate=0.0, compute_type=ComputeType.BFLOAT16
    )
    init = stored(pretrained_metadata(encoder, ("encoder", "mlm_head")), encoder, tmp_path / "a")
    config = PretrainConfig()
    config.data.corpus, config.data.length = "x", 16
    config.encoder.init_stddev = 0.5
    made = continued(config, init)
    assert made.encoder == dataclasses.replace(
        encoder, compute_type=ComputeType.FLOAT32, init_stddev=0.5
    )
    assert made.data.objective is SentenceObjective.NONE
    assert made.data.format is ExampleFormat.FULL_SENTENCES
    validate(made)
    assert config.encoder.width == 768  # the recipe is left as it is

    config.encoder.width = 20
    with pytest.raises(UserError, match=r"--config.encoder.width=20, and .* has 24: leave the enc"):
        continued(config, init)
    config.encoder.width = 24  # the same
    assert continued(config, init).encoder.width == 24


def test_a_causal_encoder_can_go_on_with_masks(
    tiny_encoder: EncoderConfig, tmp_path: pathlib.Path
) -> None:
    encoder = dataclasses.replace(tiny_encoder, causal=True)
    init = stored(pretrained_metadata(encoder, ("encoder", "mlm_head")), encoder, tmp_path / "a")
    config = PretrainConfig()
    config.data.corpus, config.data.length = "x", 16
    made = continued(config, init)
    assert not made.encoder.causal
    validate(made)
    config.encoder.causal, config.masking.strategy = True, MaskStrategy.NEXT_TOKEN
    made = continued(config, init)
    assert made.encoder.causal
    validate(made)


def test_the_examples_are_the_checkpoints(
    tiny_encoder: EncoderConfig, tmp_path: pathlib.Path
) -> None:
    groups = ("encoder", "pooler", "mlm_head", "nsp_head")
    metadata = pretrained_metadata(tiny_encoder, groups)
    metadata["config"]["data"] |= {"objective": "sop", "random_b_rate": 0.0}
    init = stored(metadata, tiny_encoder, tmp_path / "a")
    data = continued(PretrainConfig(), init).data
    assert (data.objective, data.random_b_rate) == (SentenceObjective.SOP, 0.0)
    config = PretrainConfig()
    config.data.format = ExampleFormat.SENTENCE_PAIR
    assert continued(config, init).data.format is ExampleFormat.SENTENCE_PAIR


def test_what_the_user_gives_is_kept_though_it_is_the_default(
    tiny_encoder: EncoderConfig, tmp_path: pathlib.Path
) -> None:
    encoder = dataclasses.replace(tiny_encoder, dropout_rate=0.0)
    metadata = pretrained_metadata(encoder, ("encoder", "pooler", "mlm_head", "nsp_head"))
    metadata["config"]["data"] |= {"objective": "sop", "random_b_rate": 0.0}
    init = stored(metadata, encoder, tmp_path / "a")
    assert continued(PretrainConfig(), init).encoder.dropout_rate == 0.0
    made = continued(PretrainConfig(), init, {"encoder.dropout_rate", "data.random_b_rate"})
    assert (made.encoder.dropout_rate, made.encoder.width) == (0.1, 24)
    assert (made.data.objective, made.data.random_b_rate) == (SentenceObjective.SOP, 0.5)
    with pytest.raises(UserError, match=r"--config.encoder.width=768, and .* has 24: leave it out"):
        continued(PretrainConfig(), init, {"encoder.width"})


def test_the_command_line_says_what_is_given(
    drivers: Drivers, pretrained: Run, pretrain_flags: list[str], tmp_path: pathlib.Path
) -> None:
    flags = [*pretrain_flags, "--config.encoder.width=768", f"--init={pretrained[0]}"]
    message = drivers.run("pretrain", *flags, f"--workdir={tmp_path / 'run'}").error()
    assert "--config.encoder.width=768, and " in message and " has 12: leave it out" in message


def test_a_fine_tuned_checkpoint_gives_its_encoder_alone(
    tiny_encoder: EncoderConfig, tmp_path: pathlib.Path
) -> None:
    metadata = fine_tuned_metadata(tiny_encoder, TaskKind.TAGS, ["a", "b"], pairs=False)
    made = continued(PretrainConfig(), stored(metadata, tiny_encoder, tmp_path / "a"))
    assert made.encoder == tiny_encoder and made.data == PretrainConfig().data


def test_losses_of_each_corpus(
    drivers: Drivers,
    corpus: pathlib.Path,
    pretrained: Run,
    pretrain_flags: list[str],
    tmp_path: pathlib.Path,
) -> None:
    """A run on one corpus tells the losses of two, and keeps its own as they were."""
    write_text(tmp_path / "other.txt", 40, seed=5)
    flags = prepare_flags(tmp_path / "other.txt", tmp_path / "other")
    flags.append(f"--tokenizer={corpus / 'tokenizer'}")
    assert drivers.run("prepare", *flags).status == 0
    own = (f"--config.data.eval_corpora={tmp_path / 'other'}", f"--workdir={tmp_path / 'run'}")
    result = drivers.run("pretrain", *pretrain_flags, *own)
    assert result.status == 0, result
    alone, both = log_of(pretrained[0]), log_of(tmp_path / "run")
    held_out = [entry for entry in both if "heldout_mlm_loss" in entry]
    assert len(held_out) == 2
    for entry, before in zip(held_out, [e for e in alone if "heldout_mlm_loss" in e], strict=True):
        assert entry["heldout_mlm_loss"] == before["heldout_mlm_loss"]
        assert entry["heldout_mlm_loss/corpus"] == before["heldout_mlm_loss"]
        assert entry["heldout_mlm_loss/other"] != before["heldout_mlm_loss"]
    assert "mlm_loss/other" in result.err
    for wrong, message in (
        (corpus, "which is evaluated anyway: leave it out"),
        (tmp_path / "none", "is not a corpus"),
    ):
        flags = (f"--config.data.eval_corpora={wrong}", f"--workdir={tmp_path / 'no'}")
        assert message in drivers.run("pretrain", *pretrain_flags, *flags).error()


def test_layers_have_rates_of_their_own(
    drivers: Drivers, pretrained: Run, pretrain_flags: list[str], tmp_path: pathlib.Path
) -> None:
    """With a decay near 0 the head alone moves."""
    from tests.fixtures.drivers import newest, state_of

    flags = ("--config.layer_decay=1e-9", f"--init={pretrained[0]}", f"--workdir={tmp_path / 'a'}")
    assert drivers.run("pretrain", *pretrain_flags, *flags).status == 0
    before, after = (state_of(newest(run)).params for run in (pretrained[0], tmp_path / "a"))
    stays = before["encoder"]["layers"]["mlp"]["up"]["kernel"]
    np.testing.assert_allclose(after["encoder"]["layers"]["mlp"]["up"]["kernel"], stays, atol=1e-8)
    moved = np.abs(after["mlm_head"]["bias"] - before["mlm_head"]["bias"]).max()
    assert moved > 1e-4
    message = drivers.run(
        "pretrain", *pretrain_flags, "--config.layer_decay=0", f"--workdir={tmp_path / 'b'}"
    ).error()
    assert "--config.layer_decay=0" in message

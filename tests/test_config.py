import dataclasses
import json
import math

import pytest

from bert_jax.config import (
    AttentionKernel,
    EncoderConfig,
    ExampleFormat,
    FinetuneConfig,
    MaskStrategy,
    Norm,
    PhaseConfig,
    PositionEncoding,
    PositionInit,
    PretrainConfig,
    SentenceObjective,
    TaskDataConfig,
    TaskKind,
    VectorLoss,
    differences,
    flatten,
    from_dict,
    to_dict,
    validate,
)
from bert_jax.errors import UserError


def pretrain_config() -> PretrainConfig:
    config = PretrainConfig()
    config.data.corpus = "corpus"
    return config


def finetune_config() -> FinetuneConfig:
    return FinetuneConfig(data=TaskDataConfig(train="train.tsv", dev="dev.tsv"))


@pytest.mark.parametrize("config", [pretrain_config(), finetune_config()])
def test_the_defaults_are_valid(config: PretrainConfig | FinetuneConfig) -> None:
    validate(config)


def assign(config: object, path: str, value: object) -> None:
    *groups, name = path.split(".")
    for group in groups:
        config = getattr(config, group)
    setattr(config, name, value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("encoder.heads", 7, "heads=7 does not divide encoder.width=768: choose heads among"),
        ("encoder.width", 0, "encoder.width=0 must be at least 1"),
        ("encoder.norm_epsilon", 0.0, "encoder.norm_epsilon=0.0 must be above 0"),
        ("encoder.attention", AttentionKernel.FUSED, "encoder.attention=fused has no dropout"),
        ("encoder.norm", "post", "encoder.norm='post' must be of type Norm, not str"),
        ("encoder", None, "encoder=None must be of type EncoderConfig"),
        ("data.corpus", "", "data.corpus is not set"),
        ("data.length", 513, "data.length=513 is longer than the position table"),
        ("data.length", 128.0, "data.length=128.0 must be of type int, not float"),
        ("data.random_b_rate", 1.5, "data.random_b_rate=1.5 must be a rate from 0 to 1"),
        (
            "data.format",
            ExampleFormat.DOC_SENTENCES,
            "objective=nsp needs pairs, and data.format=doc",
        ),
        ("data.random_b_rate", 0.0, "objective=nsp needs both answers to occur"),
        ("data.objective", SentenceObjective.SOP, "objective=sop needs pairs of one document"),
        ("data.static_copies", -1, "data.static_copies=-1 must be at least 0"),
        ("phases", [PhaseConfig(share=0.5)], "phases have shares that add up to 0.5: make it 1"),
        ("phases", [PhaseConfig(share=0.0)], "phases[0].share=0.0 must be above 0"),
        ("phases", [PhaseConfig(length=513)], "phases[0].length=513 is longer than the position"),
        ("phases", [PhaseConfig(length=1.5)], "phases[0].length=1.5 must be of type int"),
        ("phases", [3], "phases must be a list of PhaseConfig"),
        ("phases", [PhaseConfig(share=1 / 17)] * 17, "phases has 17 phases: 16 at most"),
        ("masking.rate", 1.0, "masking.rate=1.0 must be a rate from 0 to below 1"),
        ("masking.final_rate", 1.0, "masking.final_rate=1.0 must be a rate from 0 to below 1"),
        ("masking.mask_share", 0.95, "add up to more than 1"),
        ("masking.span_stop_rate", 1.5, "masking.span_stop_rate=1.5 must be a rate from 0 to 1"),
        ("masking.smoothing", -0.7, "masking.smoothing=-0.7 must be at least 0"),
        ("masking.span_longest", 0, "masking.span_longest=0 must be at least 1"),
        ("masking.strategy", MaskStrategy.NEXT_TOKEN, "set encoder.causal=True, or another"),
        ("encoder.causal", True, "set masking.strategy=next_token, or encoder.causal=False"),
        ("optimizer.warmup_steps", 1_000_000, "leaves no step to train"),
        ("optimizer.learning_rate", math.inf, "learning_rate=inf must be above 0 and finite"),
        ("optimizer.weight_decay", math.inf, "weight_decay=inf must be at least 0 and finite"),
        ("optimizer.beta2", 1.0, "optimizer.beta2=1.0 must be a rate from 0 to below 1"),
        ("optimizer.weight_decay", -0.1, "optimizer.weight_decay=-0.1 must be at least 0"),
        ("optimizer.clip_norm", float("nan"), "optimizer.clip_norm=nan must be at least 0"),
        ("mesh.fsdp", 0, "mesh.fsdp=0 must be at least 1"),
        ("batch_size", 0, "batch_size=0 must be at least 1"),
        ("batch_size", True, "batch_size=True must be of type int, not bool"),
        ("seed", -1, "seed=-1 must be from 0 to"),
        ("keep_checkpoints", 0, "keep_checkpoints=0 must be at least 1"),
    ],
)
def test_impossible_values_are_named(path: str, value: object, message: str) -> None:
    config = pretrain_config()
    assign(config, path, value)
    with pytest.raises(UserError) as raised:
        validate(config)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_sinusoidal_positions_need_an_even_width() -> None:
    config = pretrain_config()
    config.encoder.position_init = PositionInit.SINUSOIDAL
    validate(config)
    config.encoder.width, config.encoder.heads = 769, 1
    with pytest.raises(UserError, match="width=769 is odd: encoder.position_init=sinusoidal"):
        validate(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_heads": 5}, "kv_heads=5 does not divide encoder.heads=12: choose among [1, 2, 3"),
        ({"kv_heads": -1}, "kv_heads=-1 must be at least 0"),
        ({"global_every": 3}, "global_every=3 without a window"),
        ({"window": -1}, "window=-1 must be at least 0"),
        ({"position_encoding": PositionEncoding.ROTARY, "heads": 256}, "heads 3 wide"),
        ({"rope_theta": 0.0}, "rope_theta=0.0 must be above 0"),
        ({"rope_theta_local": 10.0}, "rope_theta_local=10 is of windowed layers with rotary"),
        (
            {"position_encoding": PositionEncoding.NONE, "position_init": PositionInit.SINUSOIDAL},
            "position_init=sinusoidal is of a learned table",
        ),
        (
            {"position_encoding": PositionEncoding.SINUSOIDAL, "embedding_width": 9},
            "embedding_width=9 is odd: encoder.position_encoding=sinusoidal",
        ),
        ({"first_norm": False}, "first_norm=False is of encoder.norm=pre"),
        ({"final_norm": False}, "final_norm=False is of encoder.norm=pre"),
        ({"segments": 0}, "segments=0: data.objective=nsp needs two texts told apart"),
        (
            {"embedding_width": 64, "mlm_transform": False},
            "embedding_width=64: without a transform",
        ),
        ({"mlp_output_dropout_rate": 1.0}, "mlp_output_dropout_rate=1.0 must be a rate"),
        ({"attention_output_dropout_rate": -0.5}, "attention_output_dropout_rate=-0.5 must be a"),
    ],
    ids=str,
)
def test_encoders_that_make_no_sense(changes: dict[str, object], message: str) -> None:
    config = pretrain_config()
    for name, value in changes.items():
        assign(config, f"encoder.{name}", value)
    with pytest.raises(UserError) as raised:
        validate(config)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_rare_tokens_are_masked_more_often_one_at_a_time() -> None:
    config = pretrain_config()
    config.masking.smoothing = 0.7
    validate(config)
    config.masking.strategy = MaskStrategy.WHOLE_WORDS
    with pytest.raises(UserError, match=r"masking.smoothing=0.7 weighs single tokens"):
        validate(config)


def test_a_causal_encoder_predicts_the_next_token() -> None:
    config = pretrain_config()
    config.encoder.causal, config.masking.strategy = True, MaskStrategy.NEXT_TOKEN
    validate(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"masking.uniform_rate": True}, r"phases\[1\].mask_rate=0.3: with masking.uniform_rate=T"),
        ({}, r"phases\[1\].mask_rate=0.3: masking.strategy=next_token hides nothing"),
        ({"masking.final_rate": 0.2}, "masking.final_rate=0.2: masking.strategy=next_token hides"),
    ],
    ids=["uniform", "next_token", "final"],
)
def test_rates_of_masking_that_nothing_reads(changes: dict[str, object], message: str) -> None:
    config = pretrain_config()
    config.phases = [PhaseConfig(share=0.5), PhaseConfig(share=0.5, mask_rate=0.3)]
    validate(config)
    for name, value in changes.items():
        assign(config, name, value)
    if "masking.uniform_rate" not in changes:
        config.encoder.causal, config.masking.strategy = True, MaskStrategy.NEXT_TOKEN
    with pytest.raises(UserError, match=message):
        validate(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transfer": False, "fresh_layers": 2}, "fresh_layers=2: with transfer=False all layers"),
        (
            {"task": TaskKind.REGRESSION, "teacher": "run", "temperature": 3.0},
            "temperature=3 is of probabilities, and task=regression has numbers",
        ),
    ],
    ids=["fresh_layers", "temperature"],
)
def test_settings_of_finetuning_that_nothing_reads(
    changes: dict[str, object], message: str
) -> None:
    *others, last = changes
    config = finetune_config()
    for name in others:
        assign(config, name, changes[name])
    validate(config)
    assign(config, last, changes[last])
    with pytest.raises(UserError, match=message):
        validate(config)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("data.train", "", "data.train is not set"),
        ("data.dev", "", "data.dev is not set"),
        ("epochs", 0, "epochs=0 must be at least 1"),
        ("warmup_share", 1.0, "warmup_share=1.0 must be a rate from 0 to below 1"),
        ("dropout_rate", -0.1, "dropout_rate=-0.1 must be a rate"),
        ("temperature", 3.0, "temperature=3.0 is of a teacher, and none is named"),
        ("teacher_weight", 1.0, "teacher_weight=1.0 is of a teacher, and none is named"),
        ("data.unlabelled", "more.tsv", "data.unlabelled=more.tsv needs answers to learn"),
    ],
)
def test_impossible_values_of_finetuning(path: str, value: object, message: str) -> None:
    config = finetune_config()
    assign(config, path, value)
    with pytest.raises(UserError, match=message):
        validate(config)


def test_scores_of_vectors_are_ordered_among_several_pairs() -> None:
    config = finetune_config()
    config.task, config.vectors.loss = TaskKind.VECTORS, VectorLoss.COSENT
    config.data.text_pair_column, config.batch_size = "other", 2
    validate(config)
    config.batch_size = 1
    with pytest.raises(UserError, match="batch_size=1: vectors.loss=cosent compares with the o"):
        validate(config)
    config.vectors.loss = VectorLoss.COSINE
    validate(config)


def test_json_and_back() -> None:
    config = pretrain_config()
    config.encoder.norm, config.steps = Norm.PRE, 17
    config.phases = [PhaseConfig(share=0.9), PhaseConfig(share=0.1, length=512)]
    assert from_dict(PretrainConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_a_config_of_an_earlier_version_has_the_defaults_of_later_fields() -> None:
    stored = to_dict(pretrain_config())
    del stored["encoder"]["remat"], stored["micro_batches"]
    assert from_dict(PretrainConfig, stored) == pretrain_config()


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"width": 8, "wings": 2}, "which knows no wings: use the version that wrote it"),
        ([], "EncoderConfig is no dictionary"),
        (None, "EncoderConfig is no dictionary"),
    ],
)
def test_a_config_of_a_later_version_is_refused(stored: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_dict(EncoderConfig, stored)  # pyright: ignore[reportArgumentType]


def test_differences_name_what_decides_the_result() -> None:
    stored, given = pretrain_config(), pretrain_config()
    given.log_steps, given.eval_steps, given.checkpoint_steps = 3, 4, 5
    given.keep_checkpoints, given.eval_batches = 6, 7
    assert differences(stored, given) == []
    given.encoder.norm, given.seed = Norm.PRE, 1
    assert differences(stored, given) == ['encoder.norm: "post" -> "pre"', "seed: 0 -> 1"]


def test_phases_differ_by_number_and_field() -> None:
    stored, given = pretrain_config(), pretrain_config()
    given.phases = [PhaseConfig(length=64)]
    assert differences(stored, given)[1] == "phases[0].length: null -> 64"
    stored.phases = [PhaseConfig()]
    assert differences(stored, given) == ["phases[0].length: 0 -> 64"]


@pytest.mark.parametrize("format", ExampleFormat)
@pytest.mark.parametrize("objective", SentenceObjective)
@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_objectives_need_examples_that_carry_them(
    format: ExampleFormat, objective: SentenceObjective, rate: float
) -> None:
    pairs = format in (ExampleFormat.SEGMENT_PAIR, ExampleFormat.SENTENCE_PAIR)
    sound = {
        SentenceObjective.NSP: pairs and rate == 0.5,
        SentenceObjective.SOP: pairs and rate == 0.0,
        SentenceObjective.NONE: True,
    }
    config = pretrain_config()
    config.data.format, config.data.objective, config.data.random_b_rate = format, objective, rate
    if sound[objective]:
        validate(config)
    else:
        with pytest.raises(UserError, match=f"objective={objective.value} needs"):
            validate(config)


def test_no_field_can_be_added() -> None:
    with pytest.raises(AttributeError):
        PretrainConfig().batchsize = 3  # pyright: ignore[reportAttributeAccessIssue]
    assert all(dataclasses.is_dataclass(type(each)) for each in (EncoderConfig(), PretrainConfig()))
    assert ("encoder.norm", "post") in list(flatten(PretrainConfig()))


@pytest.mark.parametrize("value", [True, False])
def test_a_field_is_read_by_its_former_name(value: bool) -> None:
    stored = to_dict(FinetuneConfig())
    del stored["data"]["skip_bad_rows"]
    stored["data"]["skip_misplaced"] = value
    assert from_dict(FinetuneConfig, stored).data.skip_bad_rows is value

"""The plan: the very step that a run takes, compiled for devices that need not be there."""

import dataclasses
import importlib.util
import math
import pathlib
import re
import runpy
from typing import Any

import jax
import numpy as np
import pytest

from bert_jax.config import (
    UNREAD,
    ComputeType,
    EncoderMode,
    FinetuneConfig,
    MeshConfig,
    PhaseConfig,
    PretrainConfig,
    Remat,
    TaskKind,
)
from bert_jax.data.pretraining.corpora import open_corpora
from bert_jax.data.pretraining.feed import Cursor, PhaseRows
from bert_jax.data.pretraining.phases import resolve_phases
from bert_jax.data.pretraining.rows import row_format
from bert_jax.data.tasks.rows import (
    BatchFormat,
    RightNumbers,
    TaskInputs,
    TaskStream,
    TextRoles,
)
from bert_jax.distributed import sharding
from bert_jax.distributed.chips import Chip, find_chip
from bert_jax.errors import UserError
from bert_jax.model.heads import PretrainingModel
from bert_jax.planning import planner, report
from bert_jax.planning.abstract_steps import (
    AbstractStep,
    abstract_finetuning_batch,
    abstract_finetuning_step,
    abstract_pretraining_steps,
)
from bert_jax.planning.advice import Change, as_flags, changed, find_changes, possible_changes
from bert_jax.planning.compile_ahead import (
    Footprint,
    compile_step,
    device_bytes,
    parse_out_of_memory,
)
from bert_jax.planning.gpus import (
    GPUS,
    Gpu,
    check_gpu_compiler,
    memory_share,
    target_config,
)
from bert_jax.planning.hlo import parse_program
from bert_jax.planning.hlo_costs import Collective, Costs, Moved, program_costs
from bert_jax.planning.report import amount, size
from bert_jax.planning.roofline import estimate
from bert_jax.planning.topologies import SLICES, parse_topologies
from bert_jax.runs.steps import mask_vocabulary
from bert_jax.text.tokenizer import SpecialIds
from bert_jax.training.state import abstract_params, init_params, init_state
from tests.fixtures.batches import SPECIAL_IDS
from tests.fixtures.drivers import Drivers, python_m

RECIPE = """
from bert_jax.config import PhaseConfig, PretrainConfig

def get_config():
    config = PretrainConfig(batch_size=16, steps=1000)
    config.encoder.width, config.encoder.layers, config.encoder.heads = 24, 2, 4
    config.encoder.mlp_width, config.encoder.max_length, config.encoder.vocab_size = 40, 64, 60
    config.data.length, config.optimizer.warmup_steps = 32, 10
    config.phases = [PhaseConfig(share=0.9, length=16), PhaseConfig(share=0.1)]
    return config
"""
TASK_RECIPE = """
from bert_jax.config import FinetuneConfig

def get_config():
    config = FinetuneConfig(batch_size=12, epochs=2)
    config.data.length = 40
    return config
"""


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("recipes")
    (directory / "pretrain.py").write_text(RECIPE)
    (directory / "finetune.py").write_text(TASK_RECIPE)
    return directory


def missing_for_gpus() -> bool:
    """Tells whether the compiler for GPUs is not installed."""
    try:
        check_gpu_compiler("h100:1")
    except UserError:
        return True
    return False


def cells(out: str, label: str) -> list[str]:
    """Returns the cells of the first line of a table with a label."""
    line = next(line for line in out.splitlines() if line.strip().startswith(label))
    return re.split(r"\s{2,}", line.strip())[1:]


# --- the driver


def test_a_plan_for_cpus_tells_both_stages(drivers: Drivers, recipes: pathlib.Path) -> None:
    result = drivers.run(
        "plan",
        f"--config={recipes / 'pretrain.py'}",
        "--topology=cpu:8",
        f"--finetune_config={recipes / 'finetune.py'}",
        "--finetune_examples=101",
    )
    assert result.status == 0, result
    out = result.out
    config = runpy.run_path(str(recipes / "pretrain.py"))["get_config"]()
    model = PretrainingModel(config.encoder, config.data.objective)
    params = abstract_params(model, sharding.make_mesh(MeshConfig()))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert f"cpu:8: {parameters:,} parameters on 8 x cpu: data=8 fsdp=1 tensor=1" in out
    assert cells(out, "rows of tokens") == ["16 x 16", "16 x 32", "16 x 40"]  # 12 do not divide
    assert cells(out, "steps") == ["900", "100", str(2 * math.ceil(101 / 12))]
    assert cells(out, "parameters")[0] == size(4 * parameters)
    assert cells(out, "optimizer")[0] == size(2 * 4 * parameters + 3 * 4)  # moments and counts
    assert len(cells(out, "all-reduce over data")) == 3
    # A row has four numbers of each token; and a place, a label, a weight and the two of its name.
    rows = [amount(16 * 4 * (4 * length + 5), "B") for length in (16, 32)]
    assert cells(out, "rows made, a host")[:2] == rows
    assert cells(out, "checkpoint, all devices")[0] == size(3 * 4 * parameters + 2 * 4)
    assert "at the peak rates" not in out  # those of a CPU are not known
    assert result.err.count("compiling") == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--topology="], "--topology is not set"),
        (
            ["--topology=v5e:3x3"],
            "choose one of the slices of v5e: 1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16",
        ),
        (["--topology=v9:2x2"], "'v9' is unknown: choose one of v4, v5e, v5p, v6e"),
        (["--topology=h100"], "give a number of GPUs, such as h100:8, or of hosts"),
        (["--topology=h100:2x0"], "give a number of GPUs, such as h100:8, or of hosts"),
        (["--topology=gb200:8"], "a host has at most 4 of them: name the hosts, such as gb200:2x4"),
        (["--topology=cpu"], "give a number of devices, such as cpu:8"),
        (["--topology=cpu:8", "--config.mesh.fsdp=3"], "does not match 8 devices"),
        (["--topology=cpu:8,cpu:3"], "--config.batch_size=16 cannot be split over 3 groups"),
        (
            ["--topology=cpu:8", "--config.phases[1].batch_size=12"],
            "--config.phases[1].batch_size=12 cannot be split over 8 groups",
        ),
        (["--topology=cpu:8", "--config.mesh.tensor=8"], "does not divide encoder.heads=4"),
        (["--topology=cpu:8", "--config.encoder.vocab_size=0"], "encoder.vocab_size=0 takes the"),
        (["--topology=cpu:8", "--config.batch_size=0"], "batch_size=0 must be at least 1"),
        (["--topology=cpu:8", "--price=-1"], "--price=-1.0 must be 0 or more"),
        (["--topology=cpu:8", "--finetune_examples=5"], "needs --finetune_config"),
        (["--topology=cpu:8", "--finetune_config={finetune}"], "give the number of examples"),
        (
            ["--topology=cpu:8", "--finetune_config={pretrain}", "--finetune_examples=5"],
            "this driver needs a FinetuneConfig",
        ),
        (
            ["--topology=cpu:8", "--finetune_config=none.py", "--finetune_examples=5"],
            "--finetune_config=none.py is no file",
        ),
        (
            [
                "--topology=cpu:8",
                "--config.encoder.max_length=32",
                "--finetune_config={finetune}",
                "--finetune_examples=5",
            ],
            "data.length=40 is longer than the position table",
        ),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_compiled(
    drivers: Drivers, recipes: pathlib.Path, flags: list[str], message: str
) -> None:
    names = {name: str(recipes / f"{name}.py") for name in ("pretrain", "finetune")}
    flags = [flag.format(**names) for flag in flags]
    result = drivers.run("plan", f"--config={recipes / 'pretrain.py'}", *flags)
    assert message in result.error()


def test_the_corpus_gives_the_size_of_its_vocabulary(
    drivers: Drivers, pretrain_flags: list[str]
) -> None:
    result = drivers.run("plan", *pretrain_flags, "--topology=cpu:2,cpu:1")
    assert result.status == 0, result
    assert cells(result.out, "rows of tokens") == ["4 x 32"]
    assert [line.split()[:3] for line in result.out.splitlines()[-2:]] == [
        ["cpu:2", "pretraining", "2"],
        ["cpu:1", "pretraining", "1"],
    ]


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_a_missing_compiler_is_told(drivers: Drivers, recipes: pathlib.Path) -> None:
    result = drivers.run("plan", f"--config={recipes / 'pretrain.py'}", "--topology=v5e:4x4")
    assert "needs libtpu" in result.error() and "pip install -e '.[plan]'" in result.err


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, the compiler for TPUs, is missing"
)
def test_a_plan_for_a_tpu(recipes: pathlib.Path) -> None:
    result = python_m(
        "plan", f"--config={recipes / 'pretrain.py'}", "--topology=v5e:2x2", "--price=1.2"
    )
    assert result.status == 0, result
    assert "parameters on 4 x TPU v5 lite: data=4 fsdp=1 tensor=1" in result.out
    assert len(cells(result.out, "all-reduce over data")) == 2
    assert "at the peak rates of a TPU v5e" in result.out and "device-hours" in result.out
    speed, cost = (cells(result.out, label)[0] for label in ("tokens/s", "of 100 B tokens"))
    number, _, unit = speed.partition(" ")
    seconds = 100e9 / (float(number) * {"k": 1e3, "M": 1e6}[unit])
    np.testing.assert_allclose(float(cost.replace(",", "")), 4 * 1.2 * seconds / 3600, rtol=0.01)
    assert re.search(r"^pretraining: \S+ device-hours, at least \S+; at 1.2 an", result.out, re.M)


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, the compiler for TPUs, is missing"
)
def test_each_host_makes_its_part_of_the_rows(recipes: pathlib.Path) -> None:
    result = python_m("plan", f"--config={recipes / 'pretrain.py'}", "--topology=v5e:4x4")
    assert result.status == 0, result
    # A quarter of what is made on one host in `test_a_plan_for_cpus_tells_both_stages`.
    rows = [amount(16 * 4 * (4 * length + 5) / 4, "B") for length in (16, 32)]
    assert cells(result.out, "rows made, a host") == rows


@pytest.mark.skipif(missing_for_gpus(), reason="the compiler for GPUs is missing")
def test_a_plan_for_gpus_and_a_tpu_in_one_process() -> None:
    topologies = ["h100:1", "h100:8", "cpu:1"]
    topologies += ["v5e:2x2"] if importlib.util.find_spec("libtpu") else []
    result = python_m(
        "plan",
        "--config=pretrain_tiny_cpu",
        "--config.encoder.vocab_size=1003",
        "--config.batch_size=8",
        f"--topology={','.join(topologies)}",
    )
    assert result.status == 0, result
    told = dict(
        zip(
            topologies,
            re.split(r"^\S+: 6\S+ parameters on ", result.out, flags=re.M)[1:],
            strict=True,
        )
    )
    assert "1 x NVIDIA H100 80GB HBM3: data=1" in told["h100:1"]
    assert "8 x NVIDIA H100 80GB HBM3: data=8" in told["h100:8"]
    assert cells(told["h100:8"], "all-reduce over data") and "all-reduce" not in told["h100:1"]
    # The products are those of the CPU's program, whose dots tell their sizes otherwise.
    for work in ("model FLOPs, all devices", "FLOPs, a device"):
        assert cells(told["h100:1"], work) == cells(told["cpu:1"], work)
    assert "of its 60.0 GiB" in told["h100:1"] and "an hour" in told["h100:8"]
    assert "these are not proven" in told["h100:1"]
    assert "not proven" not in told["cpu:1"] + told.get("v5e:2x2", "")


@pytest.mark.skipif(not missing_for_gpus(), reason="the compiler for GPUs is installed")
def test_a_missing_compiler_for_gpus_is_told(drivers: Drivers, recipes: pathlib.Path) -> None:
    result = drivers.run("plan", f"--config={recipes / 'pretrain.py'}", "--topology=h100:8")
    assert "--topology=h100:8 needs " in result.error()
    assert "pip install -e '.[plan]'" in result.err


@pytest.mark.skipif(missing_for_gpus(), reason="the compiler for GPUs is missing")
def test_an_impossible_share_of_memory_is_told_before_anything_is_compiled(
    recipes: pathlib.Path,
) -> None:
    flags = f"--config={recipes / 'pretrain.py'}", "--topology=cpu:1,h100:1"
    result = python_m("plan", *flags, environment={"XLA_CLIENT_MEM_FRACTION": "75"})
    assert "XLA_CLIENT_MEM_FRACTION=75 must be above 0" in result.error()
    assert "compiling" not in result.err


def test_names_of_slices_are_read() -> None:
    assert parse_topologies("v5e:4x4, cpu:8") == ["v5e:4x4", "cpu:8"]
    assert parse_topologies("h100:1,gb200:18x4") == ["h100:1", "gb200:18x4"]
    for generation, shapes in SLICES.items():
        parse_topologies(",".join(f"{generation}:{shape}" for shape in shapes))


# --- what is planned is what is run


def test_the_planned_step_is_the_step_of_a_run(corpus: pathlib.Path) -> None:
    """The same program comes of a real batch and a real state, so their shapes are the planned."""
    config = PretrainConfig(batch_size=16, steps=30)
    config.encoder.width, config.encoder.layers, config.encoder.heads = 12, 2, 2
    config.encoder.mlp_width, config.encoder.max_length = 20, 40
    config.data.corpus, config.data.length, config.data.max_examples_per_row = str(corpus), 32, 2
    config.optimizer.warmup_steps, config.data.block_examples = 2, 40
    corpora = open_corpora(config.data, evaluated=False)
    config.encoder.vocab_size = corpora.tokenizer.vocab_size
    mesh = sharding.make_mesh(MeshConfig(fsdp=2))
    vocabulary = mask_vocabulary(config.masking, corpora.tokenizer, corpora.token_counts)
    (planned,) = abstract_pretraining_steps(config, vocabulary, mesh)

    (phase,) = resolve_phases(config)
    rows = PhaseRows(
        corpora.train,
        corpora.weights,
        phase,
        row_format(phase.data, corpora.tokenizer.special),
        seed=0,
        start=Cursor.at_start(0, 1),
    )
    numbers = sharding.host_rows(16, mesh)
    batch = sharding.global_batch(rows.rows(numbers), numbers, 16, mesh)
    assert_alike(batch, planned.batch)

    compiled = planned.compiled
    state = init_state(
        init_params(compiled.model, 0, compiled.abstract.params), compiled.tx, compiled.abstract
    )
    assert_alike(state, compiled.abstract)
    step: Any = compiled.train_step
    assert step.lower(state, batch, compiled.inputs(0)).as_text() == planned.lower().as_text()
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves((state, batch)))
    assert device_bytes((compiled.abstract, planned.batch)) == held


def assert_alike(real: Any, abstract: Any) -> None:
    assert jax.tree.structure(real) == jax.tree.structure(abstract)
    for one, other in zip(jax.tree.leaves(real), jax.tree.leaves(abstract), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        assert one.sharding.is_equivalent_to(other.sharding, one.ndim)


def task_inputs(task: TaskKind, *, features: int) -> TaskInputs:
    """Makes inputs of 4 to 8 tokens as the readers do; with `features` of that width."""
    rng = np.random.default_rng(0)
    a = [rng.integers(5, 60, size).astype(np.int32) for size in (3, 4, 5, 6, 2)]
    labels: Any = {
        TaskKind.CLASSIFICATION: np.zeros(5, np.int32),
        TaskKind.REGRESSION: np.zeros(5, np.float32),
        TaskKind.SPANS: np.ones((5, 2), np.int32),
        TaskKind.TAGS: [np.zeros(len(each) + 2, np.int32) for each in a],
        TaskKind.VECTORS: np.zeros(5, np.float32),
    }[task]
    roles = None
    if task is TaskKind.VECTORS:  # 4 texts of one example, and a lone one
        rights = RightNumbers(np.array([0, 0, 1, 1, 1, 1, 1]), np.array([2]))
        roles = TextRoles(np.array([0, 1, 2, 3, 0]), 4, np.arange(1, 6), rights)
    vectors: Any = None
    if features:
        by_token = task in (TaskKind.TAGS, TaskKind.SPANS)
        shapes = [(len(each) + 2, features) for each in a]
        vectors = (
            [np.zeros(shape, np.float32) for shape in shapes]
            if by_token
            else np.zeros((5, features), np.float32)
        )
    nothing, special = [np.array([], np.int32)] * 5, SpecialIds(*SPECIAL_IDS)
    return TaskInputs(a, nothing, labels, np.arange(5), special, vectors, roles=roles)


@pytest.mark.parametrize("task", TaskKind, ids=lambda task: task.value)
@pytest.mark.parametrize("mode", [EncoderMode.FULL, EncoderMode.CACHED], ids=lambda m: m.value)
def test_planned_batches_of_tasks_are_those_of_a_run(tiny_encoder, task, mode) -> None:
    if task is TaskKind.VECTORS and mode is EncoderMode.CACHED:
        pytest.skip("nothing would be trained")
    config = FinetuneConfig(task=task, encoder_mode=mode, batch_size=5, feature_layers=2)
    config.data.length = 16
    features = 2 * tiny_encoder.width if mode is EncoderMode.CACHED else 0
    inputs = task_inputs(task, features=features)
    batch_format = BatchFormat(16, 3, SpecialIds(*SPECIAL_IDS), False, batch_size=5)
    batches = batch_format.deal(inputs, epochs=1, seed=0, rows_multiple=8)
    mesh = sharding.make_mesh(MeshConfig())
    rows = sharding.host_rows(batches.rows, mesh)
    real = TaskStream(inputs, batches, batch_format).rows(rows)
    placed = sharding.global_batch(real, rows, batches.rows, mesh)
    planned = abstract_finetuning_batch(config, tiny_encoder, batches.rows, batches.slots, mesh)
    assert_alike(placed, planned)


def test_a_task_is_planned_on_the_encoder_of_the_run(tiny_encoder) -> None:
    config = FinetuneConfig(batch_size=5, epochs=3, dropout_rate=0.0)
    config.data.length = 14
    planned = abstract_finetuning_step(config, tiny_encoder, 17, sharding.make_mesh(MeshConfig()))
    assert (planned.steps, planned.rows, planned.tokens) == (12, 8, 8 * 14)
    assert (
        "rng_bit_generator" not in planned.lower().as_text()
    )  # the run's dropout, not the model's
    assert "classifier" in planned.compiled.abstract.params


def test_vectors_are_planned_for_the_texts_of_all_columns(tiny_encoder) -> None:
    config = FinetuneConfig(task=TaskKind.VECTORS, batch_size=6, epochs=1, micro_batches=2)
    config.data.length, config.data.negative_columns = 14, "a,b"
    planned = abstract_finetuning_step(config, tiny_encoder, 6, sharding.make_mesh(MeshConfig()))
    assert planned.rows == 32  # 6 x 4 texts, in 8 groups of 2 parts
    shapes = re.findall(r"tensor<(\d+)x(\d+)xf32>", planned.lower().as_text())
    assert ("8", "24") in shapes  # the similarities: E, rounded up to the devices, and C
    assert set(planned.compiled.abstract.params) == {"encoder"}


def test_a_compiler_of_another_format_is_told(tiny_encoder, monkeypatch) -> None:
    def refuse(_: Any) -> str:
        raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure")

    config = FinetuneConfig(batch_size=8, epochs=1)
    config.data.length = 14
    planned = abstract_finetuning_step(config, tiny_encoder, 8, sharding.make_mesh(MeshConfig()))
    monkeypatch.setattr(jax.stages.Compiled, "as_text", refuse)
    with pytest.raises(UserError, match="install the one for this JAX"):
        compile_step(planned)


# --- estimates and advice


def test_the_estimate_divides_by_the_peaks() -> None:
    chip = Chip("X", flops=100.0, memory_bytes=1, memory_bandwidth=10.0, link_bandwidth=5.0)
    costs = Costs(200.0, 50.0, {Collective("all-reduce", ((0, 1),)): Moved(1, 5.0, 7.5)})
    each = estimate(chip, costs, tokens=90, model_flops=450.0, steps=8, hosts=[0, 0, 0])
    assert (each.flops, each.memory, each.links) == (2.0, 5.0, 1.5)
    assert (each.bound, each.seconds) == (5.0, 8.5)
    assert each.tokens_per_second(each.bound) == 18
    assert each.utilisation(each.bound) == 450 / (5 * 3 * 100)
    assert each.device_hours(each.bound) == 8 * 5 * 3 / 3600


def test_a_ring_between_hosts_takes_the_slower_of_links_and_network() -> None:
    chip = Chip("X", 100.0, 1, 10.0, link_bandwidth=6.0, linked_hosts=2, network_bandwidth=2.5)
    hosts = [0, 0, 1, 1, 2, 2]  # the links join the first four

    def seconds(*group: int) -> float:
        gather = Collective("all-gather", (group,) if group else ())
        costs = Costs(0.0, 0.0, {gather: Moved(1, 45.0, 30.0)})
        return estimate(chip, costs, tokens=1, model_flops=1.0, steps=1, hosts=hosts).links

    assert seconds(0, 3) == 30 / 6
    assert seconds(0, 4) == 30 / 2.5
    assert seconds() == 30 / 5  # two cards on the host with the fewest of the group
    assert seconds(0, 1, 2, 3) == 30 / 6


PERMUTATION = """
HloModule rings

ENTRY %main (a: f32[5,6]) -> f32[5,6] {{
  %a = f32[5,6]{{1,0}} parameter(0)
  ROOT %b = f32[5,6]{{1,0}} collective-permute(%a), channel_id=1, source_target_pairs={pairs}
}}
"""


@pytest.mark.parametrize(
    ("pairs", "rate"),
    [
        ("{{0,1},{1,2},{2,3},{3,4},{4,5},{5,0}}", 2.5),  # 2 to 3 and 5 to 0 leave their host
        ("{{0,1},{1,2},{2,0},{3,4},{4,5},{5,3}}", 6.0),
        ("{{0,0},{1,2},{2,1},{3,5},{4,4},{5,3}}", 6.0),
        ("{{0,3},{1,4},{2,5},{3,0},{4,1},{5,2}}", 2.5),  # each over its own card
    ],
)
def test_a_permutation_takes_as_long_as_its_slowest_pair(pairs: str, rate: float) -> None:
    chip = Chip("X", 100.0, 1, 10.0, link_bandwidth=6.0, network_bandwidth=2.5)
    costs = program_costs(parse_program(PERMUTATION.format(pairs=pairs)), 6)
    found = estimate(chip, costs, tokens=1, model_flops=1.0, steps=1, hosts=[0, 0, 0, 1, 1, 1])
    assert found.links == 4 * 5 * 6 / rate


@pytest.mark.parametrize(("compute_type", "rate"), [("float32", 400.0), ("bfloat16", 1000.0)])
def test_products_take_the_peak_of_their_type(compute_type: str, rate: float) -> None:
    chip = Chip("X", 1000.0, 2**30, 10.0, 5.0, float32_flops=400.0)
    step = small_step({"encoder.compute_type": ComputeType(compute_type)})
    found = report.planned(step, footprint_of(2**20, flops=6000.0), chip, 0.0).estimate
    assert found and found.flops == 6000 / rate
    # MFU refers to the bfloat16 peak, as in the log of a run.
    assert found.utilisation(2.0) == step.model_flops / (2 * 8 * 1000)


def test_gpus_multiply_float32_at_half_the_rate_of_bfloat16() -> None:
    for gpu in GPUS.values():
        chip = find_chip(gpu.device_kind)
        assert chip and chip.float32_flops == chip.flops / 2
    tpu = find_chip("TPU v5 lite")
    assert tpu and tpu.float32_flops is None


@pytest.mark.parametrize("gpu", GPUS.values(), ids=list(GPUS))
def test_a_target_config_is_whole(gpu: Gpu) -> None:
    chip, text = find_chip(gpu.device_kind), target_config(gpu)
    assert chip and f"device_memory_size: {chip.memory_bytes:.0f}\n" in text
    assert f'device_description_str: "{gpu.device_kind}"' in text
    assert f"core_count: {gpu.cores}\n" in text
    with pytest.raises(ValueError, match="cache must be given"):
        target_config(dataclasses.replace(gpu, cache=0))
    with pytest.raises(ValueError, match="'X' is not in"):
        target_config(dataclasses.replace(gpu, device_kind="X"))


def test_the_share_of_memory_is_that_of_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    assert memory_share() == 0.75
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", ".9")
    assert memory_share() == 0.9
    for wrong in ("90%", "0", "1.5", "nan"):
        monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", wrong)
        with pytest.raises(UserError, match=f"FRACTION={wrong} must be above 0"):
            memory_share()


@pytest.mark.parametrize(
    ("message", "found"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO"
            " temporaries (35.5G) exceeds available HBM (15.75G).",
            35.5 * 2**30,
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.00G of 15.75G hbm."
            " Exceeded hbm capacity by 4.25G.",
            19 * 2**30,
        ),
        ("INTERNAL: something else", None),
    ],
)
def test_what_a_compiler_says_of_too_large_programs(message: str, found: Any) -> None:
    assert parse_out_of_memory(message, 2**30) == found


def test_changes_go_from_mild_to_strong() -> None:
    config = PretrainConfig()
    assert [
        [change.overrides for change in kind] for kind in possible_changes(config, 8, 0, 32)
    ] == [
        [{"encoder.compute_type": ComputeType.BFLOAT16}],
        [{"micro_batches": 2}, {"micro_batches": 4}],
        [{"encoder.remat": Remat.PRODUCTS}, {"encoder.remat": Remat.INPUTS}],
        [{"mesh.fsdp": 2}, {"mesh.fsdp": 4}, {"mesh.fsdp": 8}],
        [{"batch_size": 16}, {"batch_size": 8}],
    ]
    config.encoder.compute_type, config.encoder.remat = ComputeType.BFLOAT16, Remat.INPUTS
    config.mesh.data, config.mesh.fsdp, config.micro_batches = 2, 2, 3
    config.phases = [PhaseConfig(share=0.5), PhaseConfig(share=0.5)]
    kinds = possible_changes(config, 4, 1, 24)
    assert [[change.overrides for change in kind] for kind in kinds] == [
        [{"micro_batches": 6}],
        [{"mesh.fsdp": 4, "mesh.data": 1}],
        [{"phases[1].batch_size": 12}],
    ]
    after = changed(config, {**kinds[1][0].overrides, **kinds[2][0].overrides})
    assert (after.mesh.fsdp, after.mesh.data) == (4, 1)
    assert [phase.batch_size for phase in after.phases] == [0, 12]
    assert config.mesh.fsdp == 2 and config.phases[1].batch_size == 0  # the original stays


def test_advice_tries_single_changes_before_pairs_and_names_the_cheapest_two() -> None:
    kinds = [
        [Change({"a": 1}, 0.9)],
        [Change({"b": number}, 1 / number) for number in (2, 4, 8, 16)],
        [Change({"c": 1}, 0.6), Change({"c": 2}, 0.4)],
        [Change({"d": 1}, 0.1)],
    ]
    tried = []

    def try_out(overrides: dict[str, int]) -> float | None:
        """The estimate is wrong about b=4, and c never fits alone."""
        tried.append(overrides)
        fits = overrides in ({"b": 8}, {"a": 1, "c": 2}, {"d": 1})
        return 10.0 - len(overrides) if fits else None

    def should_fit(overrides: dict[str, int], keeps: float) -> bool:
        return keeps < 0.45

    assert find_changes(kinds[:3], should_fit, try_out) == [
        (8.0, {"a": 1, "c": 2}),
        (9.0, {"b": 8}),
    ]
    assert tried == [
        {"b": 4},
        {"b": 8},
        {"c": 2},
        {"a": 1, "b": 4},  # not with 8, which fits alone
        {"a": 1, "b": 16},
        {"a": 1, "c": 2},
    ]
    tried.clear()
    assert find_changes(kinds[1:], should_fit, try_out) == [(9.0, {"b": 8}), (9.0, {"d": 1})]
    assert tried[-1] == {"d": 1}  # two are enough
    assert find_changes(kinds[:1], should_fit, try_out) == []


def test_changes_are_compared_by_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a batch takes half the hours, because it trains on half the tokens."""
    chip = Chip("X", 10_000.0, 600 * 2**20, memory_bandwidth=1.0, link_bandwidth=1.0)
    chosen = planner.Planner(small_config(), None, 0, None)
    devices = jax.devices()

    def compile_quickly(step: AbstractStep, note: str) -> Footprint:
        """Only micro-batches and a smaller batch save memory; the update costs a half row."""
        micro_batches = 2 if "micro_batches=2" in note else 1
        return footprint_of(step.rows * 2**26 // micro_batches, flops=100.0 * step.rows + 50)

    monkeypatch.setattr(planner, "compile_aloud", compile_quickly)
    (step,) = chosen.pretraining_steps(devices)
    before = report.planned(step, compile_quickly(step, ""), chip, 0.0)
    # 900 steps on 8 devices: 2 hours for each second of a step.
    assert chosen.advise([before], devices, chip) == [
        "does not fit: pretraining needs 1.00 GiB and has 600 MiB; it fits with",
        "  --config.micro_batches=2: 512 MiB, 0.33 device-hours",
        "  --config.batch_size=8: 512 MiB, 0.17 device-hours, trains on 50 % of the tokens",
    ]


def small_config() -> PretrainConfig:
    config = PretrainConfig(batch_size=16, steps=900)
    config.encoder.width, config.encoder.layers, config.encoder.heads = 24, 2, 4
    config.encoder.mlp_width, config.encoder.max_length, config.encoder.vocab_size = 40, 64, 60
    config.data.length, config.optimizer.warmup_steps = 32, 10
    config.data.corpus = UNREAD
    return config


def small_step(overrides: dict[str, Any]) -> AbstractStep:
    (step,) = planner.Planner(small_config(), None, 0, None).pretraining_steps(
        jax.devices(), overrides
    )
    return step


def footprint_of(temporaries: int, flops: float) -> Footprint:
    return Footprint(0, 0, 0, 0, temporaries, 0, Costs(flops), {})


def test_overrides_are_written_as_they_are_typed() -> None:
    named = {"encoder.compute_type": ComputeType.BFLOAT16, "mesh.fsdp": 4}
    assert as_flags(named) == "--config.encoder.compute_type=bfloat16 --config.mesh.fsdp=4"


@dataclasses.dataclass(frozen=True)
class FakeChip:
    """A device that is not there."""

    id: int
    coords: tuple[int, ...]
    platform: str = "tpu"
    device_kind: str = "TPU v4"
    process_index: int = 0
    core_on_chip: int = 0


@pytest.mark.parametrize(
    ("hosts", "mesh", "share"),
    [
        (2, MeshConfig(), 1 / 2),
        (2, MeshConfig(fsdp=2, tensor=2), 1 / 2),
        (8, MeshConfig(tensor=8), 1.0),  # a model over all hosts
        (4, MeshConfig(tensor=4), 1 / 2),  # one over two hosts each
    ],
)
def test_hosts_that_share_a_model_make_the_same_rows(
    hosts: int, mesh: MeshConfig, share: float
) -> None:
    chips = [
        FakeChip(i, (), platform="gpu", device_kind="X", process_index=i // (8 // hosts))
        for i in range(8)
    ]
    step = dataclasses.replace(small_step({}), mesh=sharding.make_mesh(mesh, chips))
    assert step.host_batch_bytes == share * 16 * 4 * (4 * 32 + 5)


def test_chips_that_a_mesh_does_not_suit() -> None:
    sides = (4, 4, 4)
    chips = [FakeChip(i, tuple(map(int, np.unravel_index(i, sides)))) for i in range(64)]
    with pytest.raises(UserError, match=r"data=32 x fsdp=2 x tensor=1 does not fit .* 4 x 4 x 4"):
        sharding.make_mesh(MeshConfig(fsdp=2), chips)


@pytest.mark.parametrize(
    ("number", "text"), [(512, "0.50 KiB"), (3 * 2**20, "3.00 MiB"), (150 * 2**30, "150 GiB")]
)
def test_sizes(number: float, text: str) -> None:
    assert size(number) == text
    assert amount(1234, "B") == "1.23 kB" and amount(56.7e12, "FLOP") == "56.7 TFLOP"

"""What the modules may import, and that no config field is dead."""

import ast
import dataclasses
import functools
import pathlib
import typing

import pytest

from bert_jax import config as configs

PACKAGE = pathlib.Path(__file__).parents[1] / "bert_jax"

# A module imports from the floors below its own only (docs/architecture.md).
FLOORS = [
    {"errors", "chips", "hlo", "data.ragged", "data.batches", "data.windows"}
    | {"dropout", "stacks", "compiler_options", "compilations"},
    {"config", "files", "fingerprint", "rendezvous", "token_offsets", "workers", "staging"}
    | {"data.documents", "data.duplicates", "hlo_costs", "health"},
    {"tokenizer", "sharding", "optimizer", "logs", "cli", "phases", "vector_files"}
    | {"flops", "roofline", "topologies", "plan_advice"}
    | {"data.draws", "data.corpus", "data.packing"}
    | {"data.python_docs", "data.text_files", "data.records", "data.sentences"},
    {"workdir", "processes", "tokenizer_training", "plots"}
    | {"data.sources", "data.layout", "data.shards"}
    | {"data.task_batches", "data.tables", "metrics", "task_plots"},
    {"attention", "masking", "data.examples", "data.pieces"}
    | {"data.tagged_files", "data.question_files", "data.task_rows"},
    {"model", "data.pretraining", "data.mixture", "data.local_copy", "data.sampling"}
    | {"fused_attention", "data.splits"},
    {"heads", "data.rows", "data.loader"} | {"data.tasks", "data.tag_task", "data.span_task"},
    {"losses", "data.corpora", "data.feed", "data.report"},
    {"training", "corpus_plot", "beam_pieces", "evaluation", "task_kinds"},
    {"checkpoint", "loop", "debugging"},
    {"transfer", "finetuned", "pretrained", "interop.json_files"},
    {"interop.names", "interop.huggingface_config", "interop.fast_tokenizer"},
    {"interop.architectures", "interop.weights", "interop.huggingface_tokenizer"},
    {"interop.foreign", "interop.verify", "interop.model_card"},
    {"interop.huggingface", "interop.tf1", "interop.peer"},
    {"interop.tf1_forward"},
    {"task_predictors", "programs", "inspection.stored"} | {"text_vectors", "pseudo_likelihood"},
    {"stages", "task_runs", "vectorised", "inspection.tables"},
    {"ahead", "inspection.internals", "inspection.changes"},
    {"plan_report", "inspection.plots"},
    {"prepare", "pretrain", "finetune", "finetune_sweep", "evaluate", "predict", "convert", "plan"}
    | {"inspection.__main__"},
    {"prepare_beam"},
]
DRIVERS = FLOORS[-2] | FLOORS[-1]


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Parses every module of the package, by its name inside the package."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if path.name != "__init__.py":
            names[name] = ast.parse(path.read_text())
    return names


def imports(tree: ast.Module) -> set[str]:
    """Returns the dotted names of all imported modules, those inside functions too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own(names: set[str]) -> set[str]:
    return {name.removeprefix("bert_jax.") for name in names if name.startswith("bert_jax.")}


def test_every_module_has_its_floor() -> None:
    placed = [name for floor in FLOORS for name in floor]
    assert sorted(placed) == sorted(modules())


@pytest.mark.parametrize("name", modules())
def test_imports_come_from_lower_floors(name: str) -> None:
    floor = next(number for number, names in enumerate(FLOORS) if name in names)
    lower = {below for names in FLOORS[:floor] for below in names}
    known = set(modules())
    assert own(imports(modules()[name])) & known <= lower


@pytest.mark.parametrize("name", modules())
def test_who_may_import_what(name: str) -> None:
    roots = {imported.partition(".")[0] for imported in imports(modules()[name])}
    assert "experiments" not in roots and "launch" not in roots and "configs" not in roots
    if name.startswith("data.") or name in ("tokenizer", "tokenizer_training", "token_offsets"):
        assert not roots & {"jax", "flax", "optax", "orbax"}
    if name not in DRIVERS | {"cli", "processes"}:
        assert not roots & {"absl", "ml_collections"}
    if name != "data.loader":
        assert "grain" not in roots


def fields(config_type: type) -> set[str]:
    """Returns the names of the fields that hold values, in all groups."""
    found = set()
    for name, kind in typing.get_type_hints(config_type).items():
        kind = configs.item_type(kind) or kind
        found |= fields(kind) if dataclasses.is_dataclass(kind) else {name}
    return found


def test_every_config_field_is_read() -> None:
    read = {
        node.attr
        for name, tree in modules().items()
        if name != "config"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    assert fields(configs.PretrainConfig) | fields(configs.FinetuneConfig) <= read


def test_studies_do_not_know_where_they_run() -> None:
    for path in (PACKAGE.parent / "experiments").glob("*.py"):
        roots = {name.partition(".")[0] for name in imports(ast.parse(path.read_text()))}
        assert "launch" not in roots, path

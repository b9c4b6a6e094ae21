"""Odd models, checkpoints, configs, paths and environments."""

import json
import pathlib
import random
import shutil
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from bert_jax.interop.huggingface import OWN_METADATA_FILE
from tests.fixtures.corpora import documents_of
from tests.fixtures.drivers import Result, newest
from tests.odd_inputs.cases import Case, Material, copied, expect, read_lines_of_json
from tests.odd_inputs.mutations import mutated_json, mutated_text

_TEXT = "--text=red light sun"
# Fields of a pretraining, with values that are odd in themselves or beside others.
_FIELDS: dict[str, tuple[Any, ...]] = {
    "batch_size": (1, 3, 0, -1, 2.5, "", "x"),
    "steps": (3, 2, 0, -2),
    "log_steps": (1, 0),
    "eval_steps": (1, 0, -1),
    "checkpoint_steps": (1, 0, -1),
    "seed": (0, 2**32 - 1, 2**32, -1),
    "encoder.width": (12, 0, 7, 16),
    "encoder.heads": (1, 3, 5, 0, 12),
    "encoder.layers": (1, 0, 3),
    "encoder.max_length": (40, 16, 1, 0),
    "encoder.segments": (1, 2, 0, 3),
    "encoder.dropout_rate": (0.0, 1.0, 0.5, -0.1, "nan"),
    "encoder.attention": ("auto", "products", "fused", "flash"),
    "encoder.unroll": (0, 1, 2, 9, -1),
    "encoder.causal": (True, "maybe"),
    "data.length": (32, 16, 8, 3, 0, 100),
    "data.format": ("segment_pair", "full_sentences", "doc_sentences", "pairs"),
    "data.objective": ("nsp", "sop", "none", "mlm"),
    "data.random_b_rate": (0.0, 0.5, 1.0, 1.1, "nan", "inf"),
    "data.max_examples_per_row": (1, 4, 0, -1),
    "data.static_copies": (0, 1, 3, -1),
    "masking.rate": (0.15, 0.0, 1.0, 1.5, "nan"),
    "masking.strategy": ("tokens", "whole_words", "spans", "next_token", "all"),
    "optimizer.learning_rate": (1e-3, 0.0, -1.0, 1e30, "inf", "nan"),
    "optimizer.warmup_steps": (1, 0, 100, -1),
    "optimizer.weight_decay": (0.0, 0.1, -1.0),
    "micro_batches": (1, 2, 3, 0),
    "mesh.data": (0, 1, 2),
    "mesh.fsdp": (1, 2, 0),
    "keep_checkpoints": (1, 0, -1),
    "profile": ("1:1", "2:1", "x", "0:3"),
}
_NAMES = (
    *("a [1]", "a*b?", "~x", "a,b", "a=b", "a#b", "a:b", "hf:x", "-x", "--x", "a\\b", "a'b", 'a"b'),
    *("a\nb", "a\tb", "é", "e\u0301", "\u6771", "\U0001f600", "\udcff", "%s", "{0}", "$HOME", ".x"),
    *(" a", "a ", "a;b", "a|b", "a&b", "x.txt", "tfds:a", "text:a", "a.gz", "x" * 200, "x" * 255),
)
_VARIABLES: dict[str, tuple[str, ...]] = {
    "JAX_ENABLE_X64": ("1", "0", "true", "x"),
    "JAX_DEBUG_NANS": ("1", "0", "x"),
    "JAX_DISABLE_JIT": ("1", "0"),
    "JAX_DEFAULT_MATMUL_PRECISION": ("highest", "bfloat16", "x"),
    "JAX_PLATFORMS": ("cpu", "gpu", "x", ""),
    "JAX_NUMPY_DTYPE_PROMOTION": ("strict", "x"),
    "JAX_TRANSFER_GUARD": ("disallow", "log", "x"),
    "JAX_DEFAULT_PRNG_IMPL": ("rbg", "threefry2x32", "x"),
    "JAX_CHECK_TRACER_LEAKS": ("1",),
    "JAX_LOG_COMPILES": ("1",),
    # A flag that XLA does not know is left out: XLA itself ends the process, and names it.
    "XLA_FLAGS": ("--xla_force_host_platform_device_count=2", ""),
    "LC_ALL": ("C", "POSIX", "xx_YY"),
    "PYTHONIOENCODING": ("ascii", "latin-1"),
    "HOME": ("/nonexistent", "", "relative"),
    "TMPDIR": ("/nonexistent", ""),
    "OMP_NUM_THREADS": ("1", "0", "x"),
    "TF_CPP_MIN_LOG_LEVEL": ("0", "x"),
    "COLUMNS": ("1", "x"),
    "NO_COLOR": ("1",),
}


def model_folder(rng: random.Random, material: Material, folder: pathlib.Path) -> Case:
    """A directory of transformers; transformers itself is the oracle, through `convert`."""
    task = rng.choice(["pretraining", "classification", "tags", "spans"])
    source = copied(material.folder / "hf" / task, folder / "hf")
    if rng.random() < 0.7:  # a model of ours says more than its other files
        (source / OWN_METADATA_FILE).unlink()
    change, names = rng.randrange(6), sorted(path.name for path in source.iterdir())
    if change == 0:
        _change_file(rng, source / rng.choice(names))
    elif change == 1:
        (source / rng.choice(names)).unlink()
    elif change == 2:
        _change_weights(rng, source / "model.safetensors")
    else:
        name = rng.choice(["config.json", "tokenizer_config.json", "tokenizer.json"])
        values = mutated_json(rng, json.loads((source / name).read_text()))
        if name == "tokenizer.json" or rng.random() < 0.3:  # the others count more without it
            (source / "tokenizer.json").unlink()
        (source / name).write_text(json.dumps(values))
    output = folder / "model"

    def confirm(result: Result) -> None:
        expect("verified against transformers" in result.out + result.err, "it is not verified")
        expect(len(list(newest(output).iterdir())) > 1, "no checkpoint")

    return Case("convert", (f"--from=hf:{source}", f"--to={output}"), confirm, output)


def _change_weights(rng: random.Random, path: pathlib.Path) -> None:
    tensors = load_file(path)
    name = rng.choice(sorted(tensors))
    change = rng.randrange(5)
    if change == 0:
        del tensors[name]
    elif change == 1:
        tensors[name] = np.full_like(tensors[name], rng.choice([np.nan, np.inf, 3e38]))
    elif change == 2:
        tensors[name] = np.ascontiguousarray(tensors[name][..., :-1])
    elif change == 3:
        tensors[f"{name}.more"] = tensors[name]
    else:
        tensors[name] = tensors[name].astype(rng.choice([np.float16, np.float64, np.int32]))
    save_file(tensors, path)


def _change_file(rng: random.Random, path: pathlib.Path) -> None:
    content = path.read_bytes()
    change = rng.randrange(4)
    if change == 0:
        content = content[: rng.randint(0, len(content))]
    elif change == 1 and content:
        at = rng.randrange(len(content))
        content = content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]
    elif change == 2:
        content = b""
    else:
        content = mutated_text(rng, content.decode(errors="surrogateescape")[:10_000])
    path.write_bytes(content)


def checkpoint(rng: random.Random, material: Material, folder: pathlib.Path) -> Case:
    """A damaged checkpoint; what the sound one answers is the oracle."""
    run = copied(material.run("classification"), folder / "run")
    files = sorted(
        path for path in run.rglob("*") if path.is_file() and "tensorboard" not in f"{path}"
    )
    path = rng.choice(files)
    if rng.random() < 0.3:
        path.unlink()
    else:
        _change_file(rng, path)
    wanted = material.answers("classification")

    def confirm(result: Result) -> None:
        expect(result.out == wanted, f"another answer than the sound checkpoint: {result.out}")

    return Case("predict", (f"--checkpoint={run}", _TEXT, "--json"), confirm)


def config(rng: random.Random, material: Material, folder: pathlib.Path) -> Case:
    """Odd fields of a pretraining; what the log says must be finite and complete."""
    chosen = {
        name: _FIELDS[name][0] if rng.random() < 0.5 else rng.choice(_FIELDS[name])
        for name in rng.sample(sorted(_FIELDS), k=rng.randint(1, 4))
    }
    chosen = {"steps": 3, "log_steps": 1, "optimizer.warmup_steps": 1} | chosen
    run = folder / "run"

    def confirm(_: Result) -> None:
        entries = read_lines_of_json((run / "log.jsonl").read_text())
        last = max(entry["step"] for entry in entries)
        expect(last == chosen["steps"], f"the log ends at step {last}")
        expect(newest(run).name == f"{last}", "no checkpoint of the last step")

    flags = (
        f"--config={material.folder / 'pretrain.py'}",
        f"--config.data.corpus={material.folder / 'corpus'}",
        f"--workdir={run}",
        *(f"--config.{name}={value}" for name, value in chosen.items()),
    )
    return Case("pretrain", flags, confirm, run)


def path(rng: random.Random, material: Material, folder: pathlib.Path) -> Case:
    """Odd names of inputs and outputs; the result with plain names is the oracle."""
    odd = folder / rng.choice(_NAMES)
    if rng.random() < 0.5:
        odd = odd / rng.choice(_NAMES)
    odd.parent.mkdir(parents=True, exist_ok=True)
    what = rng.randrange(4)
    if what == 0:
        shutil.copy(material.text, odd)
        output = folder / "out"
        flags = f"--source=text:{odd}", f"--tokenizer={material.vocabulary}", f"--output={output}"
        return Case("prepare", flags, lambda _: _same_corpus(output, material), output)
    if what == 1:
        flags = f"--source=text:{material.text}", f"--tokenizer={material.vocabulary}"
        flags += (f"--output={odd}",)
        return Case("prepare", flags, lambda _: _same_corpus(odd, material), odd)
    if what == 2:
        copied(material.run("classification"), odd)
        flags = f"--checkpoint={odd}", _TEXT, "--json"
    else:
        odd.write_text("red light sun\n")
        flags = f"--checkpoint={material.run('classification')}", f"--input={odd}", "--json"
    wanted = material.answers("classification")
    return Case("predict", flags, lambda result: expect(result.out == wanted, "another answer"))


def _same_corpus(output: pathlib.Path, material: Material) -> None:
    found, wanted = (
        sorted(each for split in ("train", "heldout") for each in documents_of(corpus, split))
        for corpus in (output, material.folder / "corpus")
    )
    expect(found == wanted, "other documents than with plain names")


def environment(rng: random.Random, material: Material, folder: pathlib.Path) -> Case:
    """Odd variables; the answer without them is the oracle."""
    names = rng.sample(sorted(_VARIABLES), k=rng.randint(1, 3))
    chosen = {name: rng.choice(_VARIABLES[name]) for name in names}
    wanted = json.loads(material.answers("classification"))

    def confirm(result: Result) -> None:
        (found,) = read_lines_of_json(result.out)
        expect(found["label"] == wanted["label"], "another label")
        for label, probability in found["probabilities"].items():
            expect(abs(probability - wanted["probabilities"][label]) < 0.02, "other probabilities")

    flags = f"--checkpoint={material.run('classification')}", _TEXT, "--json"
    return Case("predict", flags, confirm, environment=chosen)

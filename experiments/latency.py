"""Size of a study's models, and how long one takes on this machine; the report shows both.

    python -m experiments.latency runs/distillation

A text is encoded alone, from its characters to its vector, by the pretraining of seed 0 of each
variant. The models take turns; the median counts.
"""

import dataclasses
import json
import statistics
import time
from collections.abc import Sequence

import jax
from absl import flags

import bert_jax
from bert_jax.cli import app
from bert_jax.data.packing.layout import SINGLE_SPECIALS
from bert_jax.errors import UserError
from bert_jax.files import given_path, write_atomically
from bert_jax.text.tokenizer import Tokenizer
from experiments.folder import StudyFolder

LATENCY_FILE = "latency.json"

_TURNS = flags.DEFINE_integer("turns", 50, "texts that each model encodes", lower_bound=1)
_TOKENS = flags.DEFINE_integer(
    "tokens", 64, "tokens of the text at most, special ones included", lower_bound=8
)


@dataclasses.dataclass(frozen=True)
class Latency:
    """Size and speed of the models of a variant.

    Attributes:
      parameters: number, of the encoder.
      milliseconds: of one text; the median.
      tokens: of the text.
      device: that it was measured on.
    """

    parameters: int
    milliseconds: float
    tokens: int
    device: str


def text_of(tokens: int, tokenizer: Tokenizer) -> tuple[str, int]:
    """Returns a text and its number of tokens, special ones included: at most `tokens`."""
    for words in range(tokens - SINGLE_SPECIALS, 1, -1):
        text = " ".join(["the"] * words)
        size = SINGLE_SPECIALS + len(tokenizer.encode_batch([text])[0])
        if size <= tokens:
            return text, size
    return "the", SINGLE_SPECIALS + len(tokenizer.encode_batch(["the"])[0])


def measure_latencies(folder: StudyFolder, turns: int, tokens: int) -> dict[str, Latency]:
    """Returns the latency of each variant whose pretraining of seed 0 is finished.

    Raises:
      UserError: if none is.
    """
    pretrained = [
        run
        for run in folder.read_plan().runs
        if run.stage == "pretrain" and run.seed == 0 and folder.is_done(run)
    ]
    models = {
        name: bert_jax.load(str(folder.path / run.name))
        for run in pretrained
        for name in run.variants
    }
    if not models:
        raise UserError(f"no pretraining of {folder.path} with seed 0 is finished: wait for one")
    text, size = text_of(tokens, next(iter(models.values())).tokenizer)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(turns + 1):
        for name, model in models.items():
            begin = time.perf_counter()
            model.encode([text], batch_size=1)
            if turn:  # the first one compiles
                seconds[name].append(time.perf_counter() - begin)
    return {
        name: Latency(
            sum(leaf.size for leaf in jax.tree.leaves(model.params["encoder"])),
            1000 * statistics.median(seconds[name]),
            size,
            jax.devices()[0].device_kind,
        )
        for name, model in models.items()
    }


def read_latencies(folder: StudyFolder) -> dict[str, Latency]:
    """Returns what was measured in the folder of a study; {} if nothing was."""
    path = folder.path / LATENCY_FILE
    if not path.exists():
        return {}
    return {name: Latency(**values) for name, values in json.loads(path.read_text()).items()}


def write_latencies(folder: StudyFolder, latencies: dict[str, Latency]) -> None:
    """Writes what was measured into the folder of a study."""
    values = {name: dataclasses.asdict(each) for name, each in latencies.items()}
    write_atomically(folder.path / LATENCY_FILE, json.dumps(values, indent=1).encode())


def main(argv: Sequence[str]) -> None:
    """Writes latency.json into the folder."""
    folders = argv[1:]
    if len(folders) != 1:
        raise UserError("name one folder: python -m experiments.latency runs/distillation")
    folder = StudyFolder(given_path(folders[0]))
    found = measure_latencies(folder, _TURNS.value, _TOKENS.value)
    write_latencies(folder, found)
    for name, each in found.items():
        print(f"{name:30} {each.parameters:12,} parameters {each.milliseconds:8.2f} ms")


if __name__ == "__main__":
    app.run(main, positional=True)

"""Predicts for the lines of a file with transformers: the peer of `commands.predictions`.

    python -m benchmarks.commands.their_predictions --model=DIR --input=lines.txt --kind=classes

`classes` are those of transformers' pipeline. `vectors` are means over the tokens, computed as
sentence-transformers does: lines sorted by their length, in batches padded to the longest. Several
sizes of batches are tried on the first lines, and the fastest one does them all; it prints this
size, and the seconds of all lines alone.
"""

import json
import pathlib
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from absl import app, flags
from transformers import AutoModel, AutoTokenizer, pipeline

_MODEL = flags.DEFINE_string("model", None, "a directory of transformers", required=True)
_INPUT = flags.DEFINE_string("input", None, "a text a line", required=True)
_KIND = flags.DEFINE_enum("kind", "classes", ["classes", "vectors"], "what is predicted")

_SIZES, _TRIED = (1, 8, 32, 128), 256  # batches, and lines to try each on

Predict = Callable[[Sequence[str], int], None]


def make_classifier() -> Predict:
    """Returns transformers' pipeline."""
    classify = pipeline("text-classification", _MODEL.value, device="cpu")

    def predict(lines: Sequence[str], batch_size: int) -> None:
        for _ in classify(list(lines), batch_size=batch_size, truncation=True):  # pyright: ignore[reportCallIssue, reportArgumentType, reportOptionalIterable, reportGeneralTypeIssues]
            pass

    return predict


def make_encoder() -> Predict:
    """Returns means of vectors in batches of lines of a length."""
    tokenizer = AutoTokenizer.from_pretrained(_MODEL.value)
    model = AutoModel.from_pretrained(_MODEL.value).eval()

    @torch.inference_mode()
    def predict(lines: Sequence[str], batch_size: int) -> None:
        order = sorted(range(len(lines)), key=lambda n: -len(lines[n]))
        vectors = [np.zeros(0)] * len(lines)
        for begin in range(0, len(order), batch_size):
            chosen = order[begin : begin + batch_size]
            batch = tokenizer([lines[n] for n in chosen], padding=True, return_tensors="pt")
            mask = batch["attention_mask"][:, :, None]
            hidden = model(**batch).last_hidden_state
            means = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
            for n, mean in zip(chosen, means, strict=True):
                vectors[n] = mean

    return predict


def seconds(predict: Predict, lines: Sequence[str], batch_size: int) -> float:
    """Returns the time that lines take."""
    begin = time.perf_counter()
    predict(lines, batch_size)
    return time.perf_counter() - begin


def main(_: list[str]) -> None:
    """Finds the best size of batches, predicts, and prints the time."""
    lines = pathlib.Path(_INPUT.value).read_text().splitlines()
    predict = make_classifier() if _KIND.value == "classes" else make_encoder()
    predict(lines[:32], 32)
    batch_size = min(_SIZES, key=lambda size: seconds(predict, lines[:_TRIED], size))
    figures = {"batch_size": batch_size, "seconds": seconds(predict, lines, batch_size)}
    print(json.dumps(figures))


if __name__ == "__main__":
    app.run(main)

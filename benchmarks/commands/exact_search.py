"""Times exact search over many vectors in a file, beside products and topk in PyTorch.

    python -m benchmarks.commands.exact_search --vectors=1000000 --width=256 --queries=1000

The vectors are random and of length 1. Both read the same file, in blocks of the same size; ours
ranks by float64 products, theirs by float32. Each is a process of its own: memory is the largest
that it held, mapped pages of the file included. Ours compiles within its seconds.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
from absl import app, flags

from benchmarks.turns import peak_bytes

_VECTORS = flags.DEFINE_integer("vectors", 1_000_000, "number of documents")
_WIDTH = flags.DEFINE_integer("width", 256, "of a vector")
_QUERIES = flags.DEFINE_integer("queries", 1_000, "number of queries")
_COUNT = flags.DEFINE_integer("count", 100, "documents to find for each query")
_FILE = flags.DEFINE_string("file", "", "of the documents, for `--search`; '': it is made")
_SEARCH = flags.DEFINE_enum("search", "", ["", "ours", "theirs"], "search in --file, and no more")

_BLOCK = 16_384  # documents


def random_vectors(number: int, seed: int) -> np.ndarray:
    """Returns vectors of length 1, [number, width] float32."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((number, _WIDTH.value), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_documents(path: pathlib.Path) -> None:
    """Writes the documents, a block at a time."""
    shape = (_VECTORS.value, _WIDTH.value)
    documents = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    for begin in range(0, len(documents), _BLOCK):
        documents[begin : begin + _BLOCK] = random_vectors(
            min(_BLOCK, len(documents) - begin), begin + 1
        )


def our_search(queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Returns the documents of each query, [Q, k], by this project."""
    from bert_jax.config import MeshConfig
    from bert_jax.distributed.sharding import make_mesh
    from bert_jax.inspection.narrow_vectors import StoredVectors
    from bert_jax.retrieval.exact_search import exact_search

    stored = StoredVectors(documents)
    return exact_search(queries, stored, _COUNT.value, make_mesh(MeshConfig())).documents


def their_search(queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Returns the same by PyTorch."""
    import torch

    asked = torch.from_numpy(queries)
    scores = torch.empty(len(queries), 0)
    numbers = torch.empty(len(queries), 0, dtype=torch.int64)
    for begin in range(0, len(documents), _BLOCK):
        block = torch.from_numpy(np.array(documents[begin : begin + _BLOCK]))
        found, places = (asked @ block.T).topk(min(_COUNT.value, len(block)))
        scores = torch.cat([scores, found], 1)
        numbers = torch.cat([numbers, begin + places], 1)
        scores, chosen = scores.topk(min(_COUNT.value, scores.shape[1]))
        numbers = numbers.gather(1, chosen)
    return numbers.numpy()


def timed(search: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> dict[str, float | int]:
    """Returns the seconds of a search, its memory, and a sum that tells whether results agree."""
    queries, documents = random_vectors(_QUERIES.value, 0), np.load(_FILE.value, mmap_mode="r")
    begin = time.perf_counter()
    found = search(queries, documents)
    return {
        "seconds": time.perf_counter() - begin,
        "peak_bytes": peak_bytes(),
        "sum": int(np.sort(found, axis=1).sum()),
    }


def main(argv: list[str]) -> None:
    """Prints a line of JSON."""
    if _SEARCH.value:
        print(json.dumps(timed(our_search if _SEARCH.value == "ours" else their_search)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "documents.npy"
        write_documents(path)
        command = [sys.executable, "-m", "benchmarks.commands.exact_search", f"--file={path}"]
        sizes = [f"--{flag.name}={flag.value}" for flag in (_WIDTH, _QUERIES, _COUNT)]
        found = {
            name: json.loads(
                subprocess.run(
                    [*command, *sizes, f"--search={name}"],
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                ).stdout
            )
            for name in ("ours", "theirs")
        }
    assert found["ours"]["sum"] == found["theirs"]["sum"], found
    print(json.dumps(found | {"ratio": found["theirs"]["seconds"] / found["ours"]["seconds"]}))


if __name__ == "__main__":
    app.run(main)

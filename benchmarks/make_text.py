"""Makes a large text of a small one, for benchmarks: repeated, in other orders and words.

    python -m benchmarks.make_text --source='text/*.txt' --megabytes=1000 --output=/tmp/large

In every repetition the documents are in another order, and some words of each have changed places,
so that no document is a copy.
"""

import glob
import pathlib
import random

from absl import app, flags

_SOURCE = flags.DEFINE_string("source", None, "a glob of text files", required=True)
_MEGABYTES = flags.DEFINE_integer("megabytes", 1000, "about as much is made")
_OUTPUT = flags.DEFINE_string("output", None, "the directory to make", required=True)
_CHANGED_SHARE = flags.DEFINE_float("changed_share", 0.05, "of the words change places")

_FILE_BYTES = 100_000_000


def perturbed(document: str, rng: random.Random) -> str:
    """Exchanges some words of a document, and keeps its lines."""
    words = document.split(" ")
    for _ in range(int(len(words) * _CHANGED_SHARE.value / 2)):
        one, other = rng.randrange(len(words)), rng.randrange(len(words))
        words[one], words[other] = words[other], words[one]
    return " ".join(words)


def main(_: list[str]) -> None:
    """Writes files of 100 MB until there is enough."""
    texts = [pathlib.Path(name).read_text() for name in sorted(glob.glob(_SOURCE.value))]
    documents = [document for text in texts for document in text.strip().split("\n\n")]
    rng = random.Random(0)
    output = pathlib.Path(_OUTPUT.value)
    output.mkdir()
    left, number = _MEGABYTES.value * 1_000_000, 0
    while left > 0:
        size = 0
        with (output / f"{number:04d}.txt").open("wb") as file:
            while size < min(left, _FILE_BYTES):
                document = perturbed(rng.choice(documents), rng).encode() + b"\n\n"
                size += file.write(document)
        left, number = left - size, number + 1


if __name__ == "__main__":
    app.run(main)

"""Times `prepare` against the tokenizer's library alone, with as many processes, on one text.

    python -m benchmarks.prepare --source='text:wiki/*.txt' --layout=paragraphs \
        --tokenizer=vocab.txt --workers=2

It prints a line of JSON. The library gets the sentences that `prepare` makes, already in memory;
only its calls are timed. Both are in wall and in CPU seconds: on a shared machine only the ratio of
CPU seconds is meaningful.
"""

import json
import multiprocessing
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

import psutil
import sentencepiece
import tokenizers
from absl import app, flags

from bert_jax.data.corpus.corpus import read_manifest
from bert_jax.data.corpus.documents import Layout, Source
from bert_jax.data.corpus.sentences import SentenceSplitter
from bert_jax.data.corpus.sources import open_source

_SOURCE = flags.DEFINE_string("source", None, "as in prepare", required=True)
_LAYOUT = flags.DEFINE_enum_class("layout", Layout.PARAGRAPHS, Layout, "as in prepare")
_TOKENIZER = flags.DEFINE_string("tokenizer", "vocab.txt", "an uncased vocab.txt, or a .model")
_WORKERS = flags.DEFINE_integer("workers", 2, "number of processes of each")

_SAMPLE_SECONDS = 0.2


class Watch:
    """Samples a process and its children: their resident bytes together, and their CPU seconds."""

    def __init__(self, process: psutil.Process) -> None:
        """Starts sampling."""
        self.peak_bytes = 0
        self._process = process
        self._seconds: dict[int, float] = {}  # process id -> CPU seconds at its last sample
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE:
            total = 0
            for each in [self._process, *self._process.children(recursive=True)]:
                try:
                    total += each.memory_info().rss
                    times = each.cpu_times()
                except psutil.NoSuchProcess:
                    continue
                self._seconds[each.pid] = times.user + times.system
            self.peak_bytes = max(self.peak_bytes, total)
            time.sleep(_SAMPLE_SECONDS)

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds of all processes, up to the last sample of each."""
        return sum(self._seconds.values())


def measure_prepare(output: pathlib.Path) -> dict[str, Any]:
    """Runs prepare as a user does, and returns its seconds, peak bytes and tokens."""
    command = [sys.executable, "-m", "bert_jax.prepare", f"--source={_SOURCE.value}"]
    command += [f"--layout={_LAYOUT.value.value}", f"--tokenizer={_TOKENIZER.value}"]
    command += [f"--workers={_WORKERS.value}", f"--output={output}"]
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        watch = Watch(psutil.Process(process.pid))
        status = process.wait()
    if status:
        raise SystemExit(status)
    splits = read_manifest(output)["splits"].values()
    return {
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": watch.cpu_seconds,
        "peak_bytes": watch.peak_bytes,
        "tokens": sum(split["tokens"] for split in splits),
    }


def library_alone(source: Source, numbers: list[int]) -> tuple[float, float]:
    """Returns the wall and CPU seconds of a library on some pieces of the source."""
    splitter = SentenceSplitter(source.layout)
    path = _TOKENIZER.value
    if path.endswith(".model"):
        processor = sentencepiece.SentencePieceProcessor(model_file=path)

        def encode(texts: list[str]) -> None:
            processor.encode(texts, return_type="numpy", num_threads=1)
    else:
        tokenizer = tokenizers.BertWordPieceTokenizer(path, lowercase=True)

        def encode(texts: list[str]) -> None:
            for text in texts:  # on one thread this is faster than the library's batches
                _ = tokenizer.encode(text, add_special_tokens=False).ids

    wall = cpu = 0.0
    for number in numbers:
        documents = source.read(source.pieces[number])
        texts = [sentence for document in documents for sentence in splitter.split(document)]
        begin = time.perf_counter(), time.process_time()
        encode(texts)
        wall += time.perf_counter() - begin[0]
        cpu += time.process_time() - begin[1]
    return wall, cpu


def _library_process(argv: list[str], numbers: list[int], queue: Any) -> None:
    flags.FLAGS(argv)
    queue.put(library_alone(open_source(_SOURCE.value, _LAYOUT.value), numbers))


def measure_library() -> dict[str, float]:
    """Runs the library in `--workers` processes at once, and returns its wall and CPU seconds."""
    numbers = list(range(len(open_source(_SOURCE.value, _LAYOUT.value).pieces)))
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    shares = [numbers[first :: _WORKERS.value] for first in range(_WORKERS.value)]
    processes = [
        context.Process(target=_library_process, args=(sys.argv, share, queue)) for share in shares
    ]
    for process in processes:
        process.start()
    times = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    return {"seconds": max(wall for wall, _ in times), "cpu_seconds": sum(cpu for _, cpu in times)}


def main(_: list[str]) -> None:
    """Measures both, one after the other, and prints a line of JSON."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="prepare."))
    try:
        ours = measure_prepare(folder / "corpus")
    finally:
        shutil.rmtree(folder)
    library = measure_library()
    print(
        json.dumps(
            {
                "workers": _WORKERS.value,
                "cpus": os.cpu_count(),
                "prepare": ours,
                "tokens_per_second": ours["tokens"] / ours["seconds"],
                "library": library,
                "ratio": library["seconds"] / ours["seconds"],
                "cpu_ratio": library["cpu_seconds"] / ours["cpu_seconds"],
            }
        )
    )


if __name__ == "__main__":
    app.run(main)

r"""Runs `prepare` on Apache Beam: the same flags, and the same corpus.

    python -m bert_jax.prepare_beam --source='text:/shared/corpus/*.txt' --output=/shared/wiki \
        --tokenizer=train:sentencepiece:32000 --runner=FlinkRunner --flink_master=HOST:8081

Flags that are not those of `prepare` are Beam's, written `--name=value`. The machines need the
sources and the output on a file system that they share, named from its root. Install Beam with
`pip install 'bert_jax[beam]'`, in an environment of its own: it needs other versions of some
libraries.
"""

import difflib
import functools
import importlib.util
import typing
from collections.abc import Iterator, Sequence

from absl import flags

from bert_jax import prepare
from bert_jax.cli import app
from bert_jax.errors import UserError

if typing.TYPE_CHECKING:
    from bert_jax.data.corpus.pieces import Job, ShardFinished


def run_pieces(
    job: "Job", numbers: Sequence[int], beam_flags: Sequence[str]
) -> "Iterator[ShardFinished]":
    """Does pieces on the runner that Beam's flags name."""
    from bert_jax.data.corpus.beam_pieces import run_on_beam  # loads Beam

    yield from run_on_beam(job, numbers, beam_flags)


def _check_installed() -> None:
    if importlib.util.find_spec("apache_beam") is None:
        raise UserError(
            "apache_beam is not installed: pip install 'bert_jax[beam]' in an environment of its"
            " own"
        )


def main(argv: Sequence[str]) -> None:
    """Makes a corpus, or looks at one."""
    find = flags.FLAGS.find_module_defining_flag
    ours = [name for name in flags.FLAGS if find(name) == prepare.__name__]
    for given in argv[1:]:  # Beam leaves out what it does not know
        name = given.lstrip("-").partition("=")[0]
        if meant := difflib.get_close_matches(name, ours, 1, cutoff=0.8):
            raise UserError(f"unknown flag {given}; did you mean --{meant[0]}?")
    if flags.FLAGS.workers:
        raise UserError(
            f"--workers={flags.FLAGS.workers} is of prepare alone: use the runner's own flag"
        )
    if not (flags.FLAGS.verify or flags.FLAGS.describe):
        _check_installed()  # before a tokenizer is trained
    prepare.prepare_with(functools.partial(run_pieces, beam_flags=argv[1:]))


if __name__ == "__main__":
    app.run(main, unknown_flags=True)

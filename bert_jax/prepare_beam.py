r"""Runs `prepare` on Apache Beam: the same flags, and the same corpus.

    python -m bert_jax.prepare_beam --source='text:/shared/corpus/*.txt' --output=/shared/wiki \
        --tokenizer=train:sentencepiece:32000 --runner=FlinkRunner --flink_master=HOST:8081

Flags that are not those of `prepare` are Beam's, written `--name=value`. The machines need the
sources and the output on a file system that they share, named from its root. Install Beam with
`pip install 'bert_jax[beam]'`, in an environment of its own: it needs other versions of some
libraries.
"""

import functools
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
    try:
        from bert_jax.data.corpus.beam_pieces import (
            run_on_beam,  # here, to tell in a line that it is missing
        )
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed: pip install 'bert_jax[beam]' in an environment of its"
            " own"
        ) from error
    yield from run_on_beam(job, numbers, beam_flags)


def main(argv: Sequence[str]) -> None:
    """Makes a corpus, or looks at one."""
    if flags.FLAGS.workers:
        raise UserError(
            f"--workers={flags.FLAGS.workers} is of prepare alone: use the runner's own flag"
        )
    prepare.prepare_with(functools.partial(run_pieces, beam_flags=argv[1:]))


if __name__ == "__main__":
    app.run(main, unknown_flags=True)

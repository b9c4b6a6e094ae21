"""`prepare` on Apache Beam: the same flags and the same corpus, by the machines of a runner.

python -m bert_jax.prepare_beam --source='text:/shared/corpus/*.txt' --output=/shared/wiki \
        --tokenizer=train:sentencepiece:32000 --runner=FlinkRunner --flink_master=HOST:8081

Flags that are not those of `prepare` are Beam's, written `--name=value`. The machines need the
sources and the output on a file system that they share, named from its root. Install Beam with
`pip install 'bert_jax[beam]'`, in an environment of its own: it needs other versions of some
libraries.
"""

from collections.abc import Iterator, Sequence

from absl import flags

from bert_jax import cli, prepare
from bert_jax.data.corpus.pieces import Job, Progress
from bert_jax.errors import UserError

_beam_flags: list[str] = []


def run_pieces(job: Job, numbers: Sequence[int]) -> Iterator[Progress]:
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
    yield from run_on_beam(job, numbers, _beam_flags)


def main() -> None:
    """Makes a corpus, or looks at one."""
    if flags.FLAGS.workers:
        raise UserError(
            f"--workers={flags.FLAGS.workers} is of prepare alone: use the runner's own flag"
        )
    prepare.run(run_pieces)


if __name__ == "__main__":
    cli.run(main, unknown_flags=_beam_flags)

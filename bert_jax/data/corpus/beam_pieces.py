"""Makes the pieces of a corpus with Apache Beam."""

from collections.abc import Iterator, Sequence

import apache_beam as beam  # pyright: ignore[reportMissingImports]
from apache_beam.options.pipeline_options import (  # pyright: ignore[reportMissingImports]
    PipelineOptions,
)

from bert_jax.data.corpus.pieces import Job, PieceWriter, ShardFinished
from bert_jax.errors import UserError


class _WritePiece(beam.DoFn):
    """Writes the shards of a piece; outputs the errors of the user's input: (piece, message)."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def setup(self) -> None:
        self._write = PieceWriter(self._job)

    def process(self, number: int) -> Iterator[tuple[int, str]]:
        # A runner would print a traceback, and try again in vain.
        try:
            for _ in self._write(number):
                pass
        except UserError as error:
            yield number, str(error)


def run_on_beam(
    job: Job, numbers: Sequence[int], options: Sequence[str]
) -> Iterator[ShardFinished]:
    """Makes pieces of a job in a pipeline.

    The runner's machines need the source and the staging directory under the same paths.

    Args:
      job: of the pieces.
      numbers: indices of the pieces in the source.
      options: of the pipeline, such as "--runner=DirectRunner".

    Yields:
      A report of each piece, all at the end.

    Raises:
      UserError: that of the first piece that failed.
    """
    failures = job.staging / "failures"
    for old in job.staging.glob(f"{failures.name}*"):
        old.unlink()
    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        _ = (
            pipeline
            | beam.Create(list(numbers))
            | beam.Reshuffle()
            | beam.ParDo(_WritePiece(job))
            | beam.Map(lambda failure: f"{failure[0]:09d} {failure[1]}")
            | beam.io.WriteToText(str(failures))
        )
    texts = [path.read_text() for path in job.staging.glob(f"{failures.name}*")]
    found = [line for text in texts for line in text.splitlines()]
    if found:
        raise UserError(min(found).partition(" ")[2])
    for number in numbers:
        yield ShardFinished(job.source.pieces[number].size)

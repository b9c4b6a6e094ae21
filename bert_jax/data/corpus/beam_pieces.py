"""The pieces of a corpus, done by Apache Beam."""

from collections.abc import Iterator, Sequence

import apache_beam as beam  # pyright: ignore[reportMissingImports]
from apache_beam.options.pipeline_options import (  # pyright: ignore[reportMissingImports]
    PipelineOptions,
)

from bert_jax.data.corpus.pieces import Job, PieceWriter, Progress
from bert_jax.errors import UserError


class _WritePiece(beam.DoFn):
    """Makes the shards of a piece; an output is what a user can put right: (number, message)."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def setup(self) -> None:
        self._write = PieceWriter(self._job)

    def process(self, number: int) -> Iterator[tuple[int, str]]:
        # Runners tell exceptions with a traceback, and try again what cannot succeed.
        try:
            for _ in self._write(number):
                pass
        except UserError as error:
            yield number, str(error)


def run_on_beam(job: Job, numbers: Sequence[int], options: Sequence[str]) -> Iterator[Progress]:
    """Does pieces of a job in a pipeline.

    The runner's machines need the sources and the staging directory under the same names.

    Args:
      job: of the pieces.
      numbers: of the pieces in its source.
      options: of the pipeline, such as "--runner=DirectRunner".

    Yields:
      Progress, all at the end.

    Raises:
      UserError: what the first piece that failed had to say.
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
        yield Progress(job.source.pieces[number].size)

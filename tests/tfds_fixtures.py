"""Datasets of TFDS that are really built, for the tests of what reads them."""

import contextlib
import io
from pathlib import Path

import pytest
import tensorflow_datasets as tfds


def build_dataset(
    builder_type: type[tfds.core.GeneratorBasedBuilder],
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    config: str | None = None,
    shards: int | None = None,
) -> None:
    """Writes a dataset as array_record, and makes its directory the one where TFDS looks."""
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(directory))  # as TFDS_DATA_DIR does
    builder = builder_type(config=config, data_dir=directory, file_format="array_record")
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(num_shards=shards)
        )

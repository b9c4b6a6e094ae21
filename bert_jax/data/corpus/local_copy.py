"""Copies a corpus once to this host's disk, from a file system or an object store."""

import fcntl
import hashlib
import pathlib
import shutil
import time
from collections.abc import Iterator

from etils import epath
from tqdm import tqdm

from bert_jax.data.corpus.corpus import corpus_fingerprint
from bert_jax.data.corpus.shards import listed_files
from bert_jax.errors import UserError
from bert_jax.files import given_path, write_atomically

_CHUNK_BYTES = 1 << 23


def local_copy(directory: str, local_dir: str) -> tuple[str, str]:
    """Copies a corpus into a local directory, or finds the copy there.

    Several processes of a host may call this at once: one copies, the others wait for it. An
    interrupted copy is continued. Every array is compared with its checksum in the manifest.

    Args:
      directory: of the corpus; any path that `etils.epath` opens, such as gs://bucket/wiki.
      local_dir: the copy is in a folder of it, named by the corpus's name and fingerprint.

    Returns:
      The directory of the copy, and a line for the log.

    Raises:
      UserError: if the directory is not a corpus, a file does not have its checksum, or the disk
        has too little space.
    """
    source = epath.Path(directory)
    name = f"{source.name}-{corpus_fingerprint(directory)[:12]}"
    target = given_path(local_dir) / name
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--config.data.local_dir={local_dir}: {error.strerror}") from None
    begin = time.monotonic()
    with (target / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (target / "manifest.json").exists():
            return str(target), f"reading {directory} from its copy {target}"
        copied = _copy(source, target, local_dir)
    seconds = time.monotonic() - begin
    return str(target), f"copied {directory} to {target}: {copied / 1e6:,.1f} MB in {seconds:.0f} s"


def _copy(source: epath.Path, target: pathlib.Path, local_dir: str) -> int:
    """Copies the files that are missing, the manifest last; returns the number of bytes copied."""
    files = listed_files(source)
    files |= {f"tokenizer/{path.name}": "" for path in (source / "tokenizer").iterdir()}
    sizes = {name: _size(source / name) for name in files}
    # A file gets its name only when its copy is complete and its checksum is right.
    missing = {name: size for name, size in sizes.items() if not (target / name).exists()}
    wanted, free = sum(missing.values()), shutil.disk_usage(target).free
    if wanted > free:
        raise UserError(
            f"--config.data.local_dir={local_dir} has {free / 1e9:.1f} GB free, but the rest of"
            f" {source} takes {wanted / 1e9:.1f} GB: choose a larger disk, or leave local_dir empty"
            " to read the corpus from where it is"
        )
    with tqdm(
        total=wanted, desc=f"copying {source.name}", unit="B", unit_scale=True, disable=None
    ) as bar:
        for name in missing:
            for part in _copy_file(source / name, target / name, files[name]):
                bar.update(part)
    write_atomically(target / "manifest.json", (source / "manifest.json").read_bytes())
    return wanted


def _size(path: epath.Path) -> int:
    try:
        return path.stat().length
    except OSError:
        raise UserError(f"{path} is missing: prepare the corpus again") from None


def _copy_file(source: epath.Path, target: pathlib.Path, checksum: str) -> Iterator[int]:
    """Copies a file, yielding the bytes of each part; a `checksum` of '' is not compared."""
    target.parent.mkdir(exist_ok=True)
    staged = target.with_name(f".{target.name}.part")
    digest = hashlib.blake2b()
    try:
        with source.open("rb") as reader, staged.open("wb") as writer:
            while part := reader.read(_CHUNK_BYTES):
                digest.update(part)
                writer.write(part)
                yield len(part)
        if checksum and digest.hexdigest()[:32] != checksum:
            raise UserError(
                f"{source} does not have its checksum in the manifest: prepare the corpus again, or"
                " check the storage"
            )
        staged.replace(target)
    finally:
        staged.unlink(missing_ok=True)

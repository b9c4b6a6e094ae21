"""A corpus copied to the host: whole and checked, or a line that says why not."""

import pathlib
import shutil
import threading
import time
from collections import namedtuple

import numpy as np
import pytest

from bert_jax.data.corpus import local_copy as copying
from bert_jax.data.corpus.corpus import corpus_fingerprint, open_corpus
from bert_jax.data.corpus.local_copy import local_copy
from bert_jax.errors import UserError
from tests.fixtures.data import make_documents, write_corpus


@pytest.fixture
def corpus(tmp_path: pathlib.Path) -> pathlib.Path:
    write_corpus(tmp_path / "wiki", make_documents(20), shards=3, heldout=make_documents(3, seed=1))
    (tmp_path / "wiki" / "tokenizer").mkdir()
    (tmp_path / "wiki" / "tokenizer" / "vocab.txt").write_text("[PAD]\n")
    return tmp_path / "wiki"


def files_of(directory: pathlib.Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_the_copy_is_the_corpus(corpus: pathlib.Path, tmp_path: pathlib.Path) -> None:
    copy, said = local_copy(str(corpus), str(tmp_path / "local"))
    assert files_of(pathlib.Path(copy)) == files_of(corpus)
    assert said.startswith(f"copied {corpus} to {copy}: 0.0 MB in ")
    assert corpus_fingerprint(copy) == corpus_fingerprint(corpus)
    assert open_corpus(copy, "train").documents == 20


def test_a_copy_is_made_once(corpus: pathlib.Path, tmp_path: pathlib.Path) -> None:
    copy, _ = local_copy(str(corpus), str(tmp_path / "local"))
    shutil.rmtree(corpus / "train")  # whatever happens to the source now
    again, said = local_copy(str(corpus), str(tmp_path / "local"))
    assert (again, said) == (copy, f"reading {corpus} from its copy {copy}")


def test_another_content_is_another_copy(corpus: pathlib.Path, tmp_path: pathlib.Path) -> None:
    copy, _ = local_copy(str(corpus), str(tmp_path / "local"))
    shutil.rmtree(corpus)
    write_corpus(corpus, make_documents(21))
    (corpus / "tokenizer").mkdir()
    other, _ = local_copy(str(corpus), str(tmp_path / "local"))
    assert other != copy and open_corpus(copy, "train").documents == 20


def test_what_was_copied_is_not_copied_again(
    corpus: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_file, copied = copying._copy_file, []

    def failing(source, target, checksum):
        if len(copied) == 4:
            raise KeyboardInterrupt
        copied.append(target.name)
        yield from copy_file(source, target, checksum)

    monkeypatch.setattr(copying, "_copy_file", failing)
    with pytest.raises(KeyboardInterrupt):
        local_copy(str(corpus), str(tmp_path / "local"))
    (target,) = (tmp_path / "local").iterdir()
    assert not (target / "manifest.json").exists()  # it does not look finished
    first = list(copied)
    monkeypatch.setattr(copying, "_copy_file", lambda *a: copied.append(a[1].name) or copy_file(*a))
    copy, _ = local_copy(str(corpus), str(tmp_path / "local"))
    assert len(copied) == len(files_of(corpus)) - 1  # all but the manifest, each once
    assert copied[:4] == first
    assert files_of(pathlib.Path(copy)) == files_of(corpus)


def test_several_processes_of_a_host_copy_once(
    corpus: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_all, copies = copying._copy, []

    def slow_copy(*arguments):
        copies.append(arguments)
        time.sleep(0.1)  # or the first would be done before the second looks
        return copy_all(*arguments)

    monkeypatch.setattr(copying, "_copy", slow_copy)
    found: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(local_copy(str(corpus), str(tmp_path / "local"))[0])
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(copies) == 1 and len(found) == 4 and len(set(found)) == 1


@pytest.mark.parametrize("damage", ["edited", "missing"])
def test_a_damaged_source_is_told(
    corpus: pathlib.Path, tmp_path: pathlib.Path, damage: str
) -> None:
    path = corpus / "train" / "00001.tokens.npy"
    if damage == "edited":
        array = np.load(path)
        array[0] += 1
        np.save(path, array)
    else:
        path.unlink()
    with pytest.raises(UserError) as error:
        local_copy(str(corpus), str(tmp_path / "local"))
    message = {"edited": "does not have its checksum", "missing": "is missing"}[damage]
    assert str(path) in str(error.value) and message in str(error.value)
    (target,) = (tmp_path / "local").iterdir()
    assert not (target / "manifest.json").exists()
    assert not list(target.rglob("*.part"))


def test_a_disk_too_small_is_told_before_copying(
    corpus: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(copying.shutil, "disk_usage", lambda _: usage(10, 0, 10))
    with pytest.raises(UserError, match=r"local_dir=.* has 0.0 GB free, but the rest of .* takes"):
        local_copy(str(corpus), str(tmp_path / "local"))
    (target,) = (tmp_path / "local").iterdir()
    assert files_of(target) == {}


def test_what_is_no_corpus_or_no_directory_is_told(
    corpus: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(UserError, match="is not a corpus"):
        local_copy(str(tmp_path), str(tmp_path / "local"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--config.data.local_dir=.*/file: "):
        local_copy(str(corpus), str(tmp_path / "file"))

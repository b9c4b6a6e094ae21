"""Sources of documents: what is read, in which order, and what is refused."""

import gzip
import itertools
import json
import os
import pickle
import random
import sysconfig
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pytest
from backports import zstd

from bert_jax.data.corpus import documents, python_docs, text_files
from bert_jax.data.corpus.documents import Document, Layout, Source
from bert_jax.data.corpus.sentences import SentenceSplitter
from bert_jax.data.corpus.sources import open_source
from bert_jax.errors import UserError
from tests.fixtures.slow_readers import read_json, read_text


def _write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _read(source: Source) -> Iterator[Document]:
    return itertools.chain.from_iterable(map(source.read, source.pieces))


def _sentences(spec: str, layout: Layout = Layout.LINES, language: str = "en") -> list[list[str]]:
    source = open_source(spec, layout)
    splitter = SentenceSplitter(source.layout, language)
    return [splitter.split(document) for document in _read(source)]


def _refusal(spec: str, layout: Layout = Layout.LINES) -> str:
    with pytest.raises(UserError) as caught:
        list(_read(open_source(spec, layout)))
    message = str(caught.value)
    assert "\n" not in message
    return message


# Text files


def test_blank_lines_and_file_ends_divide_documents(tmp_path: Path) -> None:
    _write(tmp_path / "b.txt", "Five.\n")
    first = _write(tmp_path / "a.txt", "\n\nOne.\n  Two. \n \t\n\nThree.\nFour.")
    assert list(_read(open_source(f"text:{tmp_path}/*.txt"))) == [
        Document(f"{first} byte 2", ["One.", "Two."]),
        Document(f"{first} byte 19", ["Three.", "Four."]),
        Document(f"{tmp_path}/b.txt byte 0", ["Five."]),
    ]


def test_files_are_sorted_and_globs_recurse(tmp_path: Path) -> None:
    for name in ("z.txt", "m/c.txt", "m/n/b.txt", "a.txt", "a.md"):
        _write(tmp_path / name, name)
    assert _sentences(f"text:{tmp_path}/**/*.txt") == [
        ["a.txt"],
        ["m/c.txt"],
        ["m/n/b.txt"],
        ["z.txt"],
    ]


def test_an_existing_name_is_no_pattern(tmp_path: Path) -> None:
    _write(tmp_path / "a[1].txt", "Here.")
    assert _sentences(f"text:{tmp_path}/a[1].txt") == [["Here."]]


def test_paragraphs_are_split_and_lines_are_not(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.txt", "Dr. Ada came. She saw 3.5 cats!\nThe end.\n")
    spec = f"text:{path}"
    assert _sentences(spec) == [["Dr. Ada came. She saw 3.5 cats!", "The end."]]
    assert _sentences(spec, layout=Layout.PARAGRAPHS) == [
        ["Dr. Ada came.", "She saw 3.5 cats!", "The end."]
    ]


def test_language_reaches_the_splitter(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.txt", "Am 3. Mai kam Prof. Huber. Das war gut.")
    spec = f"text:{path}"
    assert _sentences(spec, Layout.PARAGRAPHS, "de") == [
        ["Am 3. Mai kam Prof. Huber.", "Das war gut."]
    ]
    assert len(_sentences(spec, Layout.PARAGRAPHS, "en")[0]) == 3
    with pytest.raises(UserError, match="--language=English"):
        SentenceSplitter(Layout.PARAGRAPHS, "English")


def test_line_ends_and_white_space(tmp_path: Path) -> None:
    text = "One\u2028two\x0bthree\x85four.\r\nFive \t\xa0 six.\r\n\r\nSeven\reight.\n"
    path = _write(tmp_path / "a.txt", text)
    expected = [["One two three four.", "Five six."], ["Seven eight."]]
    assert _sentences(f"text:{path}") == expected


@pytest.mark.parametrize("text", ["B\u2028.", "J.\xa0R.\xa0B\xa0. Next.", "A\x85."])
def test_white_space_that_the_splitter_cannot_bear(tmp_path: Path, text: str) -> None:
    path = _write(tmp_path / "a.txt", text)
    sentences = _sentences(f"text:{path}", layout=Layout.PARAGRAPHS)[0]
    assert " ".join(sentences) == " ".join(text.split())


@pytest.mark.parametrize(
    "text",
    [
        "{}One.\nTwo.\n",
        "One.\n{}Two.\n",
        "{}One.\n{0}{0} Two.{0}\n",
        "O{}ne.\n{0}Two.",
        "One. \n{} \tTwo.",
    ],
)
def test_byte_order_marks_are_dropped_wherever_they_are(text: str, tmp_path: Path) -> None:
    marked = text.replace("{0}", "{}").replace("{}", "\ufeff")
    assert _sentences(f"text:{_write(tmp_path / 'a.txt', marked)}") == [["One.", "Two."]]
    path = _write(tmp_path / "a.jsonl", json.dumps({"text": marked}))
    assert _sentences(f"jsonl:{path}#text") == [["One.", "Two."]]


def test_documents_come_before_the_file_has_been_read(tmp_path: Path) -> None:
    good = "One.\n\n" * 10_000
    path = _write(tmp_path / "a.txt", good.encode() + b"\xff")
    read = _read(open_source(f"text:{path}"))
    assert len(list(itertools.islice(read, 9_999))) == 9_999
    with pytest.raises(UserError, match="byte 60000"):
        list(read)


@pytest.mark.parametrize(
    ("content", "spec"),
    [
        ("Ok.\n\nOne two three four.", "text:{}"),
        ("Ok.\n\nOne.\nTwo.\nThree.\nFour.\n", "text:{}"),
        ('{"a": "Ok"}\n\n{"a": "Too long."}\n', "jsonl:{}#a"),
    ],
)
def test_a_document_too_long_for_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, spec: str
) -> None:
    path = _write(tmp_path / "a.txt", content)
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", 16)
    assert f"{path}:3: the document that begins here has more than" in _refusal(spec.format(path))


@pytest.mark.parametrize("size", [1, 5, 7])
def test_only_documents_count_as_long_whatever_is_read_at_a_time(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", 9)
    monkeypatch.setattr(text_files, "_CHUNK_BYTES", size)
    path = _write(tmp_path / "a.txt", "One.\n\n" * 5)
    assert _sentences(f"text:{path}") == [["One."]] * 5


# JSON lines


def test_json_lines(tmp_path: Path) -> None:
    rows = [
        {"text": "One.\nTwo. Three.\r\n\nFour\u2028five.", "id": 1},
        {"text": " \n", "id": 2},
        {"text": "Six \U0001f600.", "id": 3},
    ]
    lines = [json.dumps(row) for row in rows]
    path = _write(tmp_path / "a#b.jsonl", "\ufeff" + "\r\n\n".join(lines))
    spec = f"jsonl:{path}#text"
    second, third = len(lines[0]) + 6, len("".join(lines[:2])) + 9
    assert list(_read(open_source(spec))) == [
        Document(f"{path} byte 0", ["One.", "Two. Three.", "Four five."]),
        Document(f"{path} byte {second}", []),
        Document(f"{path} byte {third}", ["Six \U0001f600."]),
    ]
    assert _sentences(spec, Layout.PARAGRAPHS)[0] == ["One.", "Two.", "Three.", "Four five."]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"', "is not JSON (Expecting"),
        ("[" * 100_000, "is not JSON ("),
        ("1" * 5_000, "is not JSON ("),
        ('["a"]', "is not a JSON object"),
        ('{"body": "a", "id": 1}', "has no field 'text': its fields are body, id"),
        ("{}", "has no field 'text': its fields are none"),
        ('{"text": null}', "field 'text' is null"),
        ('{"text": 1.5}', "field 'text' is a number"),
        ('{"text": true}', "field 'text' is true or false"),
        ('{"text": ["a"]}', "field 'text' is a list"),
        ('{"text": "a\\u0000b"}', "NUL"),
        ('{"text": "a\\ud800b"}', "half of a surrogate pair (\\ud800)"),
    ],
)
def test_faulty_json_lines_are_refused_by_place(tmp_path: Path, line: str, message: str) -> None:
    path = _write(tmp_path / "a.jsonl", '{"text": "Fine."}\n' + line + "\n")
    refusal = _refusal(f"jsonl:{path}#text")
    assert refusal.startswith(f"{path}:2")
    assert message in refusal


# Pieces


def _random_text(rng: random.Random) -> bytes:
    words = ["Word", "é", "\u2028", " \t", "\U0001f600 x", "\x0b", "\ufeff", "a" * 30]
    lines = [
        "".join(rng.choices(words, k=rng.randrange(4))) + rng.choice(["", "\r", " "])
        for _ in range(rng.randrange(1, 60))
    ]
    if rng.random() < 0.3:  # a document over many pieces
        lines[rng.randrange(len(lines)) :] = ["The same line again."] * rng.randrange(40)
    start = "\ufeff" * (rng.random() < 0.3)
    return (start + "\n".join(lines) + "\nEnd." + "\n" * rng.randrange(3)).encode()


def _random_json(rng: random.Random) -> bytes:
    texts = ["", "One.", "É\nTwo. \r\n\n Three.", "Long. " * 40]
    lines = [
        json.dumps({"text": rng.choice(texts)}, ensure_ascii=rng.random() < 0.5)
        if rng.random() < 0.8
        else rng.choice(["", "\r", "  "])
        for _ in range(rng.randrange(30))
    ]
    start = "\ufeff" * (rng.random() < 0.3)
    return (start + "\n".join([*lines, '{"text": "End."}']) + "\n" * rng.randrange(2)).encode()


@pytest.mark.parametrize("kind", ["lines", "documents", "jsonl"])
def test_pieces_together_are_the_files(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(5)
    seen = Counter()
    for number in range(40):
        folder = tmp_path / str(number)
        paths = [folder / name for name in ("a", "b", "c")]
        expected = []
        for path in paths:
            content = _random_json(rng) if kind == "jsonl" else _random_text(rng)
            _write(path, content)
            if kind == "jsonl":
                expected += read_json(path, content)
            else:
                expected += read_text(path, content, Layout(kind))
        monkeypatch.setattr(documents, "PIECE_BYTES", rng.choice([3, 20, 90, 400, 1500, 6000]))
        monkeypatch.setattr(text_files, "_CHUNK_BYTES", rng.choice([1, 2, 5, 1000]))
        spec = f"jsonl:{folder}#text" if kind == "jsonl" else f"text:{folder}"
        source = open_source(spec, Layout.LINES if kind == "jsonl" else Layout(kind))
        found = [list(source.read(piece)) for piece in source.pieces]
        assert list(itertools.chain(*found)) == expected
        seen["without a document"] += sum(not piece for piece in found)
        seen["with several"] += sum(len(piece) > 1 for piece in found)
        seen["of several files"] += sum(len(piece.spans) > 1 for piece in source.pieces)
    assert len(seen) == 3 and min(seen.values()) > 5


def test_pieces_are_parts_of_large_files_and_groups_of_small_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "PIECE_BYTES", 100)
    for name, size in {"a": 30, "b": 70, "c": 20, "d": 250, "e": 90, "f.gz": 240}.items():
        _write(tmp_path / name, "x" * size)
    pieces = open_source(f"text:{tmp_path}").pieces
    assert [
        [(Path(span.path).name, span.begin, span.end) for span in piece.spans] for piece in pieces
    ] == [
        [("a", 0, 30), ("b", 0, 70)],
        [("c", 0, 20)],
        [("d", 0, 83)],
        [("d", 83, 166)],
        [("d", 166, 250)],
        [("e", 0, 90)],
        [("f.gz", 0, 240)],
    ]
    assert [piece.size for piece in pieces] == [100, 20, 83, 83, 84, 90, 240]


def test_the_identity_of_a_piece_changes_with_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "PIECE_BYTES", 10)
    first = _write(tmp_path / "a", "One two three.\n")
    _write(tmp_path / "b", "Four.\n")

    def identities() -> list[str]:
        return [piece.identity for piece in open_source(f"text:{tmp_path}").pieces]

    before = identities()
    assert len(set(before)) == 3 and identities() == before
    os.utime(first, ns=(0, first.stat().st_mtime_ns + 1))
    after = identities()
    assert after[2] == before[2] and not set(after[:2]) & set(before)
    times = first.stat()
    first.write_text("One two three\n")
    os.utime(first, ns=(0, times.st_mtime_ns))
    assert not set(identities()[:2]) & {*before, *after}


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.txt", "One.\n\nTwo.\n")
    source = open_source(f"text:{path}")
    reading = source.read(source.pieces[0])
    assert next(reading).lines == ["One."]
    path.write_text("One.\n\nTwo.\n\nThree.\n")
    with pytest.raises(UserError, match=f"{path} changed while being read"):
        list(reading)


def test_only_what_a_piece_holds_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "PIECE_BYTES", 1 << 10)
    path = _write(tmp_path / "a.txt", b"\xff\n\n" * 4096 + b"Good.\n\n" * 512)
    source = open_source(f"text:{path}")
    assert len(list(source.read(source.pieces[-1]))) > 100
    with pytest.raises(UserError, match="is not UTF-8"):
        list(source.read(source.pieces[0]))


def test_sources_can_be_pickled(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jsonl", '{"a": "One."}\n')
    for spec in (f"text:{path}", f"jsonl:{path}#a"):
        source = open_source(spec)
        assert list(_read(pickle.loads(pickle.dumps(source)))) == list(_read(source))


@pytest.mark.parametrize("layout", Layout)
def test_text_may_begin_in_a_later_piece(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "PIECE_BYTES", 10)
    path = _write(tmp_path / "a.txt", " \n" * 20 + "End.")
    assert _sentences(f"text:{path}", layout) == [["End."]]
    path = _write(tmp_path / "a.txt", " \n" * 20)
    assert f"{path} has no text" in _refusal(f"text:{path}", layout)


def test_places_in_later_pieces_are_those_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "PIECE_BYTES", 4)
    path = _write(tmp_path / "a.txt", b"One.\n\nTwo.\n\nThr\xe9e.\n")
    assert f"{path} is not UTF-8 at byte 15 (0xe9, in line 5)" in _refusal(f"text:{path}")
    path = _write(tmp_path / "b.txt", b"One.\n\nTwo.\n\nThr\0e.\n")
    assert f"{path}:5 has a NUL" in _refusal(f"text:{path}")
    path = _write(tmp_path / "c.jsonl", b'{"a": "One."}\n\n{"b": "Two."}\n')
    assert f"{path}:3 has no field 'a'" in _refusal(f"jsonl:{path}#a")


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.zst"])
def test_an_endless_line_is_refused_without_being_held(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", 1 << 20)
    monkeypatch.setattr(documents, "PIECE_BYTES", 1 << 21)
    path = _write(tmp_path / name, _stored(name, b"One.\n\n" + b"a" * (16 << 20) + b"\n"))
    source = open_source(f"text:{path}")
    tracemalloc.start()
    try:
        for piece in source.pieces:
            with pytest.raises(
                UserError, match=f"{path}:3: the document that begins here has more than 1 MiB"
            ):
                list(source.read(piece))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


# Folders and compressed files


def _stored(name: str, content: bytes) -> bytes:
    if name.endswith(".gz"):
        return gzip.compress(content, mtime=0)
    if name.endswith(".zst"):
        return pyarrow.compress(content, codec="zstd", asbytes=True)
    return content


def test_a_folder_is_the_files_below_it(tmp_path: Path) -> None:
    for name in ("b.txt", "a/c.md", "a/.hidden", ".git/x.txt", "a/b/d"):
        _write(tmp_path / "corpus" / name, name)
    _write(tmp_path / "elsewhere" / "e.txt", "linked")
    (tmp_path / "corpus" / "z").symlink_to(tmp_path / "elsewhere")
    expected = [["a/b/d"], ["a/c.md"], ["b.txt"], ["linked"]]
    assert _sentences(f"text:{tmp_path}/corpus") == expected
    assert _sentences(f"text:{tmp_path}/corpus/") == expected
    (tmp_path / "corpus" / "a" / "up").symlink_to(tmp_path / "corpus")
    assert "Too many levels of symbolic links" in _refusal(f"text:{tmp_path}/corpus")


def test_a_folder_that_cannot_be_listed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path / "a.txt", "One.")
    _write(tmp_path / "shut" / "b.txt", "Two.")
    scandir = os.scandir

    def refuse(path: str):  # as the system does to all but its administrator
        if path == f"{tmp_path}/shut":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert f"cannot read {tmp_path}/shut: Permission denied" in _refusal(f"text:{tmp_path}")


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_compressed_files_are_read_as_their_text(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "PIECE_BYTES", 8)  # less than each file has
    text = b"\xef\xbb\xbfOne.\n\nTwo.\nThree.\n\n"
    # Two runs of the program, one after the other, in one file.
    path = _write(tmp_path / f"a{ending}", _stored(ending, text) + _stored(ending, b"Four."))
    source = open_source(f"text:{path}")
    assert list(_read(source)) == [
        Document(f"{path} byte 0", ["One."]),
        Document(f"{path} byte 9", ["Two.", "Three."]),
        Document(f"{path} byte 22", ["Four."]),
    ]
    assert [(piece.size, len(piece.spans)) for piece in source.pieces] == [(path.stat().st_size, 1)]
    lines = b'{"a": "One."}\n\n{"a": 2}\n'
    path = _write(tmp_path / f"b{ending}", _stored(ending, lines))
    assert f"{path}:3: field 'a' is a number" in _refusal(f"jsonl:{path}#a")
    path = _write(tmp_path / f"c{ending}", _stored(ending, b" \n\n"))
    assert f"{path} has no text" in _refusal(f"text:{path}")


@pytest.mark.parametrize("window", [10, 27, 28, 31])
def test_zst_is_read_whatever_its_window(window: int, tmp_path: Path) -> None:
    options: dict[int, int] = {zstd.CompressionParameter.window_log: window}
    writer = zstd.ZstdCompressor(options=options)  # it does not know the size to come
    content = b"".join(
        [writer.compress(b"One.\n\n"), writer.compress(b"Two.\n"), writer.flush(writer.FLUSH_FRAME)]
    )
    path = _write(tmp_path / "a.zst", content)
    assert _sentences(f"text:{path}") == [["One."], ["Two."]]


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_compressed_files_cut_short_are_refused(ending: str, tmp_path: Path) -> None:
    content = _stored(ending, "\n\n".join(map(str, range(1000))).encode())
    path = tmp_path / f"a{ending}"
    for size in (1, 3, 9, len(content) // 2, len(content) - 1):
        _write(path, content[:size])
        assert f"{path} is damaged or incomplete (" in _refusal(f"text:{path}")
    for damaged in (content + b"more", b"Plain text."):
        _write(path, damaged)
        assert f"{path} is damaged or incomplete (" in _refusal(f"text:{path}")
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    assert f"cannot read {path}: No such file" in _refusal(f"text:{path}")


# What is refused whatever the kind


def test_not_utf8_names_file_line_and_byte(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.txt", b"\xef\xbb\xbfab\ncd\xe9f\n")
    assert f"{path} is not UTF-8 at byte 8 (0xe9, in line 2)" in _refusal(f"text:{path}")
    path = _write(tmp_path / "b.txt", b"\xef\xbb\xbfab\xe9f\n")
    assert f"{path} is not UTF-8 at byte 5 (0xe9, in line 1)" in _refusal(f"text:{path}")


def test_nul_is_refused_by_place(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.txt", b"ab\nc\0d\n")
    assert f"{path}:2 has a NUL" in _refusal(f"text:{path}")


def test_an_empty_file_is_refused_before_reading(tmp_path: Path) -> None:
    _write(tmp_path / "a.txt", "Fine.")
    path = _write(tmp_path / "b.txt", "")
    with pytest.raises(UserError, match=f"{path} is empty"):
        open_source(f"text:{tmp_path}/*.txt")


@pytest.mark.parametrize("content", [" \n\n\t\n", "\ufeff"])
def test_a_file_without_text_is_refused(tmp_path: Path, content: str) -> None:
    path = _write(tmp_path / "a.txt", content)
    assert f"{path} has no text" in _refusal(f"text:{path}")


def test_json_lines_without_text_are_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jsonl", '{"text": ""}\n')
    assert f"{path} has no text" in _refusal(f"jsonl:{path}#text")


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    link = tmp_path / "gone.txt"
    link.symlink_to(tmp_path / "nowhere")
    assert f"cannot read {link}: No such file" in _refusal(f"text:{tmp_path}/*.txt")
    link.unlink()
    path = _write(tmp_path / "late.txt", "One.")
    source = open_source(f"text:{path}")
    path.unlink()
    with pytest.raises(UserError, match=f"cannot read {path}: No such file"):
        list(_read(source))
    os.mkfifo(path)
    assert f"{path} is not a regular file" in _refusal(f"text:{path}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("text:{0}/*.none", "matches no file"),
        ("text:{0}", "matches no file"),  # a folder
        ("text:", "names no files"),
        ("jsonl:{0}/a.jsonl", "write jsonl:GLOB#FIELD"),
        ("jsonl:{0}/a.jsonl#", "write jsonl:GLOB#FIELD"),
        ("jsonl:#text", "write jsonl:GLOB#FIELD"),
        ("csv:{0}/a.csv", "unknown kind: write text:GLOB, jsonl:GLOB#FIELD, parquet:"),
        ("python_docs:numpy", "unknown kind"),
        ("", "unknown kind"),
    ],
)
def test_faulty_specifications_are_refused(tmp_path: Path, spec: str, message: str) -> None:
    assert message in _refusal(spec.format(tmp_path))


# The documentation of the installed Python

_NUMPYDOC = """
    Compute the ``mean`` of :func:`~numpy.array` values, see `the guide <https://x.org>`_ [1]_.

    This sentence is *wrapped* over
    two lines of the source. Here is numpy.random.Generator as one word.

    .. versionadded:: 1.2
        This option was added for people in a hurry.

    .. code-block:: python

        This code looks like ordinary English prose.

    Parameters
    ----------
    x : array_like, optional
        The values that are to be averaged.
    axis
        Axis along which the values are averaged.

    Returns
    -------
    The name of the result, which is a signature.
        The averages of the values.

    See Also
    --------
    median
        This is the description of another function.

    Notes
    -----
    The text goes on after the sections::

        This literal block is not a sentence of prose.

    =====  =======================
    Name   This heading has four words.
    =====  =======================
    Row    This first row has words.
    Row    This second row has words.
    =====  =======================

    Size : This is the signature of something.

    Warning:
    This function is slow for many rows.

    - The first item of a list,
      which hangs below its marker.
    - The second item of a list.

    Examples
    --------
    >>> mean([1, 2])
    Result. This output looks like a sentence to you.

    References
    ----------
    .. [1] This is a book that somebody wrote.
"""

_GOOGLE = """Does the thing that it says.

    Args:
      size (int, optional): The number of rows in
        the table that is returned.
      name: The name of the table.

    Returns:
      A table with one row for each name
    This follows at a smaller indent.

    ```
    This code stands between two fences here.
    ```
    Copyright 2001 by the people who wrote it.
    The result of f(x) and g is returned.
    See https://example.org for more about the subject.
    The value is given by x = y + 1 in all cases.
    Calls foo_bar and baz_qux with a_b then c_d in x_y or z_w.
    Too short.
    this one does not begin like a sentence.
    This one does not end like a sentence
"""


def test_numpydoc_is_reduced_to_prose() -> None:
    assert python_docs.clean(_NUMPYDOC) == [
        "Compute the mean of numpy.array values, see the guide.",
        "This sentence is wrapped over two lines of the source.",
        "Here is numpy.random.Generator as one word.",
        "This option was added for people in a hurry.",
        "The values that are to be averaged.",
        "Axis along which the values are averaged.",
        "The averages of the values.",
        "This function is slow for many rows.",
        "The first item of a list, which hangs below its marker.",
        "The second item of a list.",
    ]


def test_google_style_is_reduced_to_prose() -> None:
    assert python_docs.clean(_GOOGLE) == [
        "Does the thing that it says.",
        "The number of rows in the table that is returned.",
        "The name of the table.",
        "This follows at a smaller indent.",
    ]


def test_field_lists_and_licences() -> None:
    fields = (
        "Opens the file of that name.\n\n:param str name: The name of the file.\n"
        ":rtype: The four words here."
    )
    assert python_docs.clean(fields) == ["Opens the file of that name.", "The name of the file."]
    assert python_docs.clean("Permission is hereby granted to anybody who asks for it.") == []


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A standard library and packages of known content."""
    files = {
        "lib/abc.py": '"""The module of the letters."""\n',
        "lib/broken.py": "def (:\n",
        "lib/old.py": '"""An old module that warns."""\nx = "\\d"\n',
        "lib/test/test_abc.py": '"""This is a test of letters."""\n',
        "lib/pydoc_data/topics.py": "topics = {'with': 'The statement wraps a block.', 'x': '-'}\n",
        "site/zoo/__init__.py": '"""The animals of the zoo."""\n',
        "site/zoo/_vendor/abc.py": '"""A copy of something else."""\n',
        "site/zoo/cat.py": (
            'class Cat:\n    """A cat that sits around."""\n'
            '    def sit(self):\n        """Sits down on the mat."""\n'
            'if True:\n    def nested():\n        """Half \\ud800 of a character pair."""\n'
            'class Dog:\n  """A dog that runs around."""\n'
            '  def sit(self):\n    """Sits down on the mat."""\n'
        ),
        "site/zoo/cat_test.py": '"""This is a test of cats."""\n',
        "site/zoo/stray.py": "raise SystemExit('imported')\n",
    }
    for name, content in files.items():
        _write(tmp_path / name, content)
    (tmp_path / "site/zoo/.#cat.py").symlink_to("nowhere")
    roots = {"stdlib": str(tmp_path / "lib"), "purelib": str(tmp_path / "site")}
    monkeypatch.setattr(sysconfig, "get_paths", lambda: roots)
    return tmp_path


def test_python_docs_are_a_document_a_module(installation: Path) -> None:
    source = open_source("python_docs")
    assert list(_read(source)) == [
        Document("abc", ["The module of the letters."]),
        Document("old", ["An old module that warns."]),
        Document("pydoc_data.topics.with", ["The statement wraps a block."]),
        Document("zoo", ["The animals of the zoo."]),
        Document(
            "zoo.cat",
            [
                "A cat that sits around.",
                "Sits down on the mat.",
                "Half ? of a character pair.",
                "A dog that runs around.",
            ],
        ),
    ]
    (piece,) = source.pieces
    assert piece.size == sum(file.size for file in python_docs.source_files()) > 0
    assert source.layout is Layout.LINES
    assert list(source.read(piece)) == list(source.read(piece))


def test_python_docstrings_name_their_package(installation: Path) -> None:
    docstrings = list(python_docs.python_docstrings())
    assert [(docstring.package, docstring.module) for docstring in docstrings] == [
        ("python", "abc"),
        ("python", "old"),
        ("zoo", "zoo"),
        *[("zoo", "zoo.cat")] * 4,
    ]
    assert docstrings[3].sentences == ["A cat that sits around."]


def test_python_docs_without_sources_are_refused(installation: Path) -> None:
    for path in installation.rglob("*.py"):
        path.unlink()
    assert "install Python with its source files" in _refusal("python_docs")


def test_the_python_that_runs_has_prose() -> None:
    source = open_source("python_docs")
    documents = itertools.islice(_read(source), 40)
    text = "".join(line for document in documents for line in document.lines)
    assert len(text) > 20_000
    assert sum(character.isalpha() or character == " " for character in text) > 0.93 * len(text)

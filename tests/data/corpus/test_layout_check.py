"""The warning about lines of several sentences: paragraphs get it, sentences and code do not."""

import pathlib
import re

import pytest

from bert_jax.data.corpus.documents import Layout
from bert_jax.data.corpus.layout_check import layout_warning
from bert_jax.data.corpus.sources import open_source
from docs.formats.make_page import HERE
from tests.fixtures.drivers import ROOT, Drivers, prepare_flags

PARAGRAPHS = """\
= Lamplighting =

The first lamps of the harbour were lit in 1821 by Mr. E. Hale, who rowed out to them every \
night. They burned whale oil, and each held about 2.5 litres. A lamp had to be trimmed twice \
before dawn, so two men shared the work.

= = Gas = =

Gas reached the town in the 1850s (see the map of J. Moore, p. 12). The council paid for forty \
lamps along the quay, but only thirty-one were ever built! Why the rest were left out is not \
recorded. In "The Harbour Lights" the poet A. Dunn called them "a broken string of pearls".

The lamps were switched to electricity in 1903. By then, the U.S. company that had made the \
burners no longer existed, and spare parts were cast in the town's own foundry. The last gas \
lamp stands in front of the museum. It is lit once a year.
"""
SENTENCES = (HERE / "text.txt").read_text()
TAGGED = "".join(f"{word}\tNN\tO\n" for word in SENTENCES.split()) + ".\tPUNCT\tO\n\n"
LIST = "".join(f"{n}. {word} (see p. {n}).\n" for n, word in enumerate(SENTENCES.split()))
CODE = (ROOT / "bert_jax" / "config.py").read_text()


def warning_of(tmp_path: pathlib.Path, text: str, layout: Layout = Layout.LINES) -> str:
    (tmp_path / "a.txt").write_text(text)
    return layout_warning(open_source(f"text:{tmp_path / 'a.txt'}", layout), "en")


def test_paragraphs_are_warned_of_with_the_remedy(tmp_path: pathlib.Path) -> None:
    warning = warning_of(tmp_path, PARAGRAPHS)
    assert re.match(
        r"a line of --source has 2.\d sentences and 1\d\d characters on average", warning
    )
    assert warning.endswith("use --layout=paragraphs") and "\n" not in warning
    assert not warning_of(tmp_path, PARAGRAPHS, Layout.PARAGRAPHS)
    assert not warning_of(tmp_path, PARAGRAPHS, Layout.DOCUMENTS)


@pytest.mark.parametrize(
    "text", [SENTENCES, TAGGED, LIST, CODE], ids=["sentences", "tagged", "list", "code"]
)
def test_sentences_lists_and_code_are_not(tmp_path: pathlib.Path, text: str) -> None:
    assert warning_of(tmp_path, text) == ""


def test_short_lines_of_two_sentences_are_not(tmp_path: pathlib.Path) -> None:
    assert warning_of(tmp_path, "It was late. Snow fell.\n" * 50) == ""


def test_a_very_long_line_is_read_in_part(tmp_path: pathlib.Path) -> None:
    assert "a line of --source has" in warning_of(tmp_path, "It was very late there. " * 100_000)


def test_a_fault_of_the_input_is_left_to_the_reading(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"red \xff\n")
    assert layout_warning(open_source(f"text:{tmp_path / 'a.txt'}"), "en") == ""


def test_python_docs_make_their_own_lines() -> None:
    source = open_source("python_docs")
    assert not source.layout_is_given and layout_warning(source, "en") == ""


def test_prepare_warns_once_before_the_work(drivers: Drivers, tmp_path: pathlib.Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text(PARAGRAPHS)
    tokenizer = "--tokenizer=train:wordpiece:80"
    result = drivers.run("prepare", *prepare_flags(text, tmp_path / "lines"), tokenizer)
    assert result.status == 0 and result.err.startswith("warning: a line of --source has"), result
    assert result.err.count("--layout=paragraphs") == 1
    flags = [*prepare_flags(text, tmp_path / "split"), tokenizer, "--layout=paragraphs"]
    result = drivers.run("prepare", *flags)
    assert result.status == 0 and not result.err

"""The losses of a model that was made anew, beside the committed ones."""

import pathlib

import pytest

from bert_jax.errors import UserError
from bert_jax.text.tokenizer import SETTINGS_FILE
from bert_jax.text.wordpiece import WordPieceTokenizer
from bert_jax.training.logs import LOG_FILE, read_log
from experiments.committed_losses import (
    COMMITTED,
    comparison,
    heldout_losses,
    main,
    same_vocabulary,
)

_LOSSES = heldout_losses(read_log(COMMITTED / LOG_FILE))


@pytest.mark.parametrize(
    ("shift", "said"),
    [
        (0.0, "all losses are the committed ones"),
        (0.004, "at most 0.0040 nats apart, as on another kind of machine"),
        (-0.3, "up to 0.3000 nats apart: another text, or another recipe"),
    ],
)
def test_losses_are_compared_step_by_step(shift: float, said: str) -> None:
    assert len(_LOSSES) == 16 and _LOSSES[8000] < 3.8
    ours = {step: loss + shift * (step == 8000) for step, loss in _LOSSES.items()}
    *lines, last = comparison(ours | {8500: 9.9}, _LOSSES)
    assert last == said and len(lines) == 17 and lines[-1].endswith(f"{shift:+.4f}")


def test_losses_of_another_vocabulary_are_not_judged() -> None:
    *_, last = comparison(_LOSSES, _LOSSES, vocabulary_differs=True)
    assert (
        last == "another vocabulary: prepare the corpus with sentencepiece 0.2.2 to compare losses"
    )


def test_vocabularies_are_told_apart_by_their_fingerprints(tmp_path: pathlib.Path) -> None:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]
    WordPieceTokenizer(pieces, lower_case=True).save(tmp_path / "tokenizer")
    assert not same_vocabulary(tmp_path, COMMITTED)
    assert same_vocabulary(tmp_path, tmp_path / "tokenizer")
    assert (COMMITTED / SETTINGS_FILE).is_file()


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ([], "name one run: python -m experiments.committed_losses runs/"),
        (["{run}"], "is no run of pretraining: it has no log.jsonl"),
        (["{run}/logged"], "is no run of pretraining: it has no tokenizer/tokenizer_settings.json"),
    ],
)
def test_what_is_no_run_is_refused(named: list[str], message: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "logged").mkdir()
    (tmp_path / "logged" / LOG_FILE).write_text("")
    with pytest.raises(UserError, match=message):
        main(["", *(each.format(run=tmp_path) for each in named)])


def test_a_run_without_evaluations_is_not_compared() -> None:
    with pytest.raises(UserError, match="let it go on"):
        comparison({3: 7.0}, {500: 5.0})

r"""Runs a checkpoint on new text: fills [MASK], does its task, scores or encodes it.

    python -m bert_jax.predict --checkpoint=runs/base --text='the capital of france is [MASK] .'
    python -m bert_jax.predict --checkpoint=runs/sst2 --text='this teddy bear is so cute.'
    python -m bert_jax.predict --checkpoint=runs/wnut --text='Angela Merkel visits Paris.'
    python -m bert_jax.predict --checkpoint=runs/wnut --words --text='["u.s.", "troops", "leave"]'
    python -m bert_jax.predict --checkpoint=runs/squad --text='Who?' --text_pair='It was she.'
    python -m bert_jax.predict --checkpoint=runs/sst2 --json --input=lines.txt
    python -m bert_jax.predict --checkpoint=runs/base --score --input=lines.txt
    python -m bert_jax.predict --checkpoint=runs/base --features=mean --layer=-2 \
        --input=lines.txt --output=vectors.npy

The input is plain text; [CLS] and [SEP] are added here. Only filling reads the letters [MASK] as
the mask; everywhere else they are text. A task of pairs takes lines of two texts with a tab
between, such as a question and the text to search. A tagger takes words with `--words`: each line
is a JSON list of them, and they are tagged as `evaluate` does; it splits plain text itself.

`--score` tells how likely a pretrained model finds a text, each token masked in turn. `--features`
writes vectors of any checkpoint: of [CLS], of the mean over a text, of its last token, or of each
of its tokens; `--features=of_checkpoint` those that task=vectors trained.
"""

import contextlib
import functools
import json
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import flags

from bert_jax.cli import app
from bert_jax.cli.flags import batch_size_flag, checkpoint_flag
from bert_jax.cli.streams import answer
from bert_jax.errors import UserError
from bert_jax.files import given_path
from bert_jax.inspection.choices import FEATURES, OF_CHECKPOINT, TOKENS, VectorType

_CHECKPOINT = checkpoint_flag("pretrained or fine-tuned")
_TEXT = flags.DEFINE_string("text", None, "one input; without it, lines of standard input are read")
_TEXT_PAIR = flags.DEFINE_string("text_pair", "", "the second text of a pair")
_INPUT = flags.DEFINE_string("input", None, "a file of lines to read instead of standard input")
_WORDS = flags.DEFINE_bool("words", False, "a tagger's lines are JSON lists of words")
_JSON = flags.DEFINE_bool("json", False, "print JSON lines")
_TOP_K = flags.DEFINE_integer("top_k", 5, "how many tokens for each [MASK]", lower_bound=1)
_BATCH_SIZE = batch_size_flag()
_SCORE = flags.DEFINE_bool("score", False, "tell the pseudo-log-likelihood of texts")
_FEATURES = flags.DEFINE_enum("features", None, FEATURES, "write vectors of texts")
_LAYER = flags.DEFINE_integer("layer", -1, "whose vectors: 1 is the lowest, -1 the last")
_OUTPUT = flags.DEFINE_string("output", None, "of --features: a new .npy or .parquet")
_QUERIES = flags.DEFINE_bool(
    "queries", False, "of --features=of_checkpoint: the texts are queries, with their prompt"
)
_LENGTH = flags.DEFINE_integer(
    "length",
    None,
    "of --features: tokens that longer texts are cut to; by default --features=of_checkpoint cuts"
    " as task=vectors did, and else a longer text than the model can read is an error",
    lower_bound=4,
)
_DTYPE = flags.DEFINE_enum(
    "dtype", "float32", [each.value for each in VectorType], "of --features: of their numbers"
)
_RANGE_SAMPLE = flags.DEFINE_string(
    "range_sample", None, "of --dtype=int8: a file of lines, whose vectors fix the ranges"
)
_RANGES = flags.DEFINE_string(
    "ranges", None, "of --dtype=int8: the ranges of other vectors, VECTORS.npy.ranges.json"
)

_BLOCK = 64  # batches whose results are told, or written, at a time


def _print_scores(checkpoint: pathlib.Path, metadata: dict[str, Any]) -> None:
    with app.imports():
        from bert_jax.checkpoints.pretrained import one_device, restore_masked_lm
        from bert_jax.inspection.scores import Scores, show_score
        from bert_jax.inspection.text_vectors import encode_lines
    score = Scores(restore_masked_lm(checkpoint, metadata, one_device()), _BATCH_SIZE.value)
    inputs = _all_inputs()
    a, b = encode_lines(inputs, score.tokenizer, score.max_length, _place)
    show = _dumps if _JSON.value else show_score
    for block in _blocks(len(inputs)):
        for prediction in score(inputs[block], a[block], b[block]):
            answer(show(prediction))


def _write_features(checkpoint: pathlib.Path, metadata: dict[str, Any], features: str) -> None:
    with app.imports():
        from bert_jax.checkpoints.pretrained import one_device, restore_encoder, trained_length
        from bert_jax.config import TaskKind
        from bert_jax.inspection import text_vectors, vector_files
        from bert_jax.inspection.line_vectors import LineVectors
    output = app.require_path("output", _OUTPUT.value, "vectors.npy")
    vector_files.check_output(output)
    if _QUERIES.value and metadata["kind"] != TaskKind.VECTORS.value:
        raise UserError(
            f"--queries is of prompts that were trained, and {checkpoint} is of kind"
            f" {metadata['kind']} and has none: leave it out, or name a run of task=vectors"
        )
    mesh, settings = one_device(), text_vectors.chosen_settings(features, metadata)
    encoder = text_vectors.lowest_layers(restore_encoder(checkpoint, metadata, mesh), _LAYER.value)
    prompt, length = "", _LENGTH.value
    if features == OF_CHECKPOINT and settings:
        prompt = settings.query_prompt if _QUERIES.value else settings.text_prompt
        length = length or trained_length(metadata)
    text_vectors.check_length(length, encoder.config)
    size = _BATCH_SIZE.value
    vectors = LineVectors(encoder, mesh, settings, batch_size=size, prompt=prompt, length=length)
    if _INPUT.value is not None and given_path(_INPUT.value).is_file():
        vectors.check(_inputs(), _place)  # before the first is computed; a pipe is read once
    ranges = _ranges(vectors, encoder.config.width)
    blocks, kind = vectors.blocks(_inputs(), _place), VectorType(_DTYPE.value)
    if features == TOKENS:
        vocabulary = range(encoder.tokenizer.vocab_size)
        pieces = [encoder.tokenizer.id_to_piece(id) for id in vocabulary]
        columns = vector_files.token_columns(blocks, pieces)
    else:
        columns = vector_files.line_columns(blocks)
    rows, width = vector_files.write_vectors(output, columns, kind, ranges)
    cut = f"; {vectors.cut:,} lines cut to {length} tokens" if vectors.cut else ""
    print(f"wrote {output}: {rows:,} vectors of {width}{cut}")


def _ranges(vectors: Any, width: int) -> Any:
    """Returns the ranges of int8 vectors: of other vectors, or of the lines of a sample."""
    import numpy as np

    from bert_jax.inspection.narrow_vectors import load_ranges, ranges_of

    if _RANGES.value is not None:
        ranges = load_ranges(given_path(_RANGES.value))
        if len(ranges.low) != width:
            raise UserError(
                f"--ranges={_RANGES.value} has {len(ranges.low)} dimensions, and the vectors have"
                f" {width}: name those of the vectors that these are compared with"
            )
        return ranges
    if _RANGE_SAMPLE.value is None:
        return None
    blocks = vectors.blocks(_pairs(_RANGE_SAMPLE.value), f"{_RANGE_SAMPLE.value}, line {{}}".format)
    sizes = (np.concatenate([np.atleast_2d(each) for each in b.vectors]) for b in blocks)
    return ranges_of(sizes, _RANGE_SAMPLE.value)


def _blocks(count: int) -> Iterator[slice]:
    size = _BLOCK * _BATCH_SIZE.value
    return (slice(begin, begin + size) for begin in range(0, count, size))


def _place(number: int) -> str:
    """Returns the place of an input, numbered from 1, for messages."""
    return "--text" if _TEXT.value is not None else f"{_source()}, line {number}"


def _source() -> str:
    return _INPUT.value or "standard input"


def _inputs() -> Iterator[tuple[str, str]]:
    """Yields the input of the flags, or those of the lines."""
    if _TEXT.value is not None:
        return iter([(_TEXT.value, _TEXT_PAIR.value)])
    return _pairs(_INPUT.value)


def _all_inputs() -> list[tuple[str, str]]:
    return list(_inputs())


def _pairs(name: str | None) -> Iterator[tuple[str, str]]:
    """Yields the texts of the lines of a file, or of standard input; a tab parts a pair.

    Raises:
      UserError: if a line has more than two texts.
    """
    for number, line in enumerate(_lines_of(name), start=1):
        first, *others = line.split("\t")
        if len(others) > 1:
            raise UserError(
                f"{name or 'standard input'}, line {number} has {1 + len(others)} columns: leave"
                " TEXT alone, or TEXT, a tab, TEXT"
            )
        yield first, "".join(others)


def _all_words() -> list[list[str]]:
    """Returns the words of each sentence."""
    from bert_jax.tasks.predictors import check_words

    sentences = []
    given = _lines_of(_INPUT.value) if _TEXT.value is None else [_TEXT.value]
    for number, line in enumerate(given, start=1):
        try:
            words = json.loads(line)
        except ValueError:  # also of digits beyond Python's limit
            words = line
        with _named(number):
            sentences.append(check_words(words))
    return sentences


def _lines_of(name: str | None) -> Iterator[str]:
    """Yields the lines of a file, or of standard input, at least one.

    Raises:
      UserError: if a line is not UTF-8, or there is none.
    """
    source, number = name or "standard input", 0
    with given_path(name).open("rb") if name else contextlib.nullcontext(sys.stdin.buffer) as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode().rstrip("\r\n")
                yield text.removeprefix("\ufeff") if number == 1 else text
            except UnicodeDecodeError as error:
                problem = f"is not UTF-8 (byte {error.start} of the line): convert it first"
                raise UserError(f"{source}, line {number} {problem}") from None
    if not number:
        raise UserError(f"{source} has no line: give it at least one text")


@contextlib.contextmanager
def _named(number: int) -> Iterator[None]:
    """Names the input in a user's error about it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{_place(number)}: {error}") from None


_dumps = functools.partial(json.dumps, ensure_ascii=False)


def _print_predictions(checkpoint: pathlib.Path, metadata: dict[str, Any]) -> None:
    with app.imports():
        from bert_jax.checkpoints.pretrained import one_device, restore_masked_lm
        from bert_jax.inspection.fill_mask import FillMask, show_masks
        from bert_jax.tasks.finetuned import FineTuned
        from bert_jax.tasks.predictors import PREDICTORS
    if metadata["kind"] == "pretraining":
        lm = restore_masked_lm(checkpoint, metadata, one_device())
        predict, show = FillMask(lm, _TOP_K.value), show_masks
    else:
        tuned = FineTuned(checkpoint, metadata, one_device())
        predict = PREDICTORS[tuned.config.task](tuned, _BATCH_SIZE.value)
        show = predict.show
    show = _dumps if _JSON.value else show
    inputs = _all_inputs()
    for number, pair in enumerate(inputs, start=1):
        with _named(number):
            predict.check(*pair)
    _answer(predict, inputs, show)


def _print_words(checkpoint: pathlib.Path, metadata: dict[str, Any]) -> None:
    with app.imports():
        from bert_jax.checkpoints.pretrained import one_device
        from bert_jax.config import TaskKind
        from bert_jax.tasks.finetuned import FineTuned
        from bert_jax.tasks.predictors import Tags
    if metadata["kind"] != TaskKind.TAGS.value:
        raise UserError(
            f"--words needs a tagger, and {checkpoint} is of kind {metadata['kind']}: leave it out,"
            " or name another checkpoint"
        )
    tagger = Tags(FineTuned(checkpoint, metadata, one_device()), _BATCH_SIZE.value)
    _answer(tagger.tag_words, _all_words(), _dumps if _JSON.value else tagger.show_words)


def _answer(
    predict: Callable[[Sequence[Any]], list[dict[str, Any]]],
    inputs: Sequence[Any],
    show: Callable[[dict[str, Any]], str],
) -> None:
    block = _BLOCK * _BATCH_SIZE.value
    for begin in range(0, len(inputs), block):
        for prediction in predict(inputs[begin : begin + block]):
            answer(show(prediction))


def _check_ranges() -> None:
    given = [flag for flag in (_RANGE_SAMPLE, _RANGES) if flag.value is not None]
    if _DTYPE.value == VectorType.INT8.value and len(given) != 1:
        raise UserError(
            "--dtype=int8 needs ranges that are fixed once: give --range_sample=TEXTS, or --ranges="
            "VECTORS.npy.ranges.json of the vectors that these are compared with, and one of them"
        )
    if given and _DTYPE.value != VectorType.INT8.value:
        raise UserError(
            f"--{given[0].name}={given[0].value} is of --dtype=int8: add it, or leave this out"
        )


def main(_: Sequence[str]) -> None:
    """Restores the checkpoint, then predicts, scores or writes vectors."""
    if _SCORE.value and _FEATURES.value:
        raise UserError(f"--score and --features={_FEATURES.value} are two things: choose one")
    if _WORDS.value and (_SCORE.value or _FEATURES.value or _TEXT_PAIR.value):
        raise UserError("--words is of taggers: leave out --score, --features and --text_pair")
    for flag in (_OUTPUT, _LAYER, _QUERIES, _LENGTH, _DTYPE, _RANGE_SAMPLE, _RANGES):
        if flag.present and not _FEATURES.value:
            raise UserError(f"--{flag.name}={flag.value} is of vectors: add --features=mean")
    _check_ranges()
    if _QUERIES.value and _FEATURES.value != OF_CHECKPOINT:
        raise UserError(
            f"--queries is of prompts that were trained, and --features={_FEATURES.value} has none:"
            f" leave it out, or set --features={OF_CHECKPOINT}"
        )
    if _TEXT.value is not None and _INPUT.value is not None:
        raise UserError(f"--text={_TEXT.value} and --input={_INPUT.value}: give one of them")
    if _TEXT_PAIR.value and _TEXT.value is None:
        raise UserError(
            f"--text_pair={_TEXT_PAIR.value} needs --text: in lines a tab parts a text from its"
            " second"
        )
    run = app.require_path("checkpoint", _CHECKPOINT.value, "runs/base")
    with app.imports():
        from bert_jax.checkpoints.checkpoint import find_checkpoint, read_metadata
        from bert_jax.distributed.compiled import keep_compiled_of_commands
    checkpoint = find_checkpoint(run)
    keep_compiled_of_commands()
    metadata = read_metadata(checkpoint)
    if _FEATURES.value:
        _write_features(checkpoint, metadata, _FEATURES.value)
    elif _SCORE.value:
        _print_scores(checkpoint, metadata)
    elif _WORDS.value:
        _print_words(checkpoint, metadata)
    else:
        _print_predictions(checkpoint, metadata)


if __name__ == "__main__":
    app.run(main)

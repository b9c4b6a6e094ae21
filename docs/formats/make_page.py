"""Writes docs/formats/README.md: rows of each valid combination of format, rate and objective.

    python -m docs.formats.make_page

The text is docs/formats/text.txt, and every word of it is a token.
"""

import pathlib
import tempfile
from collections.abc import Iterator

import numpy as np

from bert_jax.config import PAIR_FORMATS, ExampleFormat, PretrainConfig, SentenceObjective, validate
from bert_jax.data.corpus.corpus import Corpus
from bert_jax.data.pretraining.phases import with_length
from bert_jax.data.pretraining.plan import BlockPlan, plan_block
from bert_jax.data.pretraining.rows import make_rows, row_format
from bert_jax.errors import UserError
from bert_jax.text.tokenizer import Tokenizer
from docs.word_corpus import prepare_words

HERE = pathlib.Path(__file__).parent
PAGE = HERE / "README.md"
LENGTH, EXAMPLES_PER_ROW, ROWS, SEED = 40, 2, 4, 1
LABELS = {
    SentenceObjective.NSP: ("B follows A", "B is from another document"),
    SentenceObjective.SOP: ("in order", "swapped"),
}


def combinations() -> Iterator[PretrainConfig]:
    """Yields a config of each combination that `config.validate` accepts."""
    for format in ExampleFormat:
        for objective in SentenceObjective:
            for rate in (0.0, 0.5) if format in PAIR_FORMATS else (0.5,):
                config = PretrainConfig()
                config.data.corpus, config.data.length = "sample", LENGTH
                config.data.format, config.data.objective = format, objective
                config.data.random_b_rate = rate
                config.data.max_examples_per_row = EXAMPLES_PER_ROW
                try:
                    validate(config)
                except UserError:
                    continue
                yield config


def title(config: PretrainConfig) -> str:
    """Returns the flags of a combination, without their prefix."""
    data = config.data
    rate = f" random_b_rate={data.random_b_rate:g}" if data.format in PAIR_FORMATS else ""
    return f"format={data.format.value}{rate} objective={data.objective.value}"


def shown_rows(
    corpus: Corpus, plan: BlockPlan, tokenizer: Tokenizer, config: PretrainConfig
) -> Iterator[str]:
    """Yields the examples of the first rows, a line each, a blank line between rows."""
    data = with_length(config.data, LENGTH)
    chosen = np.arange(min(ROWS, plan.rows))
    layout = row_format(data, tokenizer.special)
    batch = make_rows(corpus, plan, chosen, layout, epoch=0, block=0)
    for row in chosen:
        for slot in range(batch["example_ids"][row].max()):
            ids = batch["token_ids"][row][batch["example_ids"][row] == slot + 1]
            label = ""
            if batch["weights"][row, slot]:
                label = LABELS[data.objective][batch["labels"][row, slot]]
            yield tokenizer.decode(ids.tolist()) + (f"   <- {label}" if label else "")
        yield ""


def make_page() -> str:
    """Returns the page."""
    parts = [_INTRODUCTION]
    with tempfile.TemporaryDirectory() as directory:
        corpus, tokenizer = prepare_words((HERE / "text.txt").read_text(), pathlib.Path(directory))
        for config in combinations():
            plan = plan_block(corpus, with_length(config.data, LENGTH), seed=SEED, epoch=0, block=0)
            rows = "\n".join(shown_rows(corpus, plan, tokenizer, config)).strip()
            parts.append(f"## {title(config)}\n\n```\n{rows}\n```\n")
            parts.append(f"{plan.describe(LENGTH)}.\n")
    return "\n".join(parts)


_INTRODUCTION = f"""# What the model sees

The first rows of each valid combination of format, rate and objective, from the small text beside
this page, at T={LENGTH} and N={EXAMPLES_PER_ROW}, before masking; written by
`python -m docs.formats.make_page`.

A blank line parts two rows; the examples of a row are below each other. Every word is a token here.
"Drop NSP" is one of three experiments: `objective=none` at rate 0.5 (the loss is dropped, the
pairing stays), at rate 0 (no text of another document either), or `full_sentences` and
`doc_sentences` (no pairs at all).

On 68.8 MB of English Wikipedia (467,037 sentences, 17.1 M tokens of a vocabulary of 8,000), the
share of the rows that is padding, and of the chosen tokens that is cut, by
`python -m benchmarks.data --corpus=DIR --formats`. Whole sentences leave the end of a row free;
pairs are cut to fill it.

| combination | padding at T=128 | cut | padding at T=512 | cut |
|---|---|---|---|---|
| format=segment_pair random_b_rate=0.5 objective=nsp | 1.3% | 14.9% | 0.3% | 3.86% |
| format=segment_pair random_b_rate=0 objective=sop | 1.0% | 14.8% | 0.0% | 3.97% |
| format=segment_pair random_b_rate=0 objective=none | 1.0% | 14.8% | 0.0% | 3.97% |
| format=segment_pair random_b_rate=0.5 objective=none | 1.3% | 14.9% | 0.3% | 3.86% |
| format=sentence_pair random_b_rate=0.5 objective=nsp | 5.7% | 1.9% | 0.8% | 0.01% |
| format=sentence_pair random_b_rate=0 objective=sop | 5.2% | 2.1% | 0.7% | 0.01% |
| format=sentence_pair random_b_rate=0 objective=none | 5.2% | 2.1% | 0.7% | 0.01% |
| format=sentence_pair random_b_rate=0.5 objective=none | 5.7% | 1.9% | 0.8% | 0.01% |
| format=full_sentences objective=none | 14.4% | 0.0% | 4.5% | 0.00% |
| format=doc_sentences objective=none | 14.3% | 0.0% | 4.4% | 0.00% |
"""


if __name__ == "__main__":
    PAGE.write_text(make_page())

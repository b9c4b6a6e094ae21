"""Writes docs/one_batch.md: two documents on their way to the loss, every array printed.

    python -m docs.one_batch

All arrays come from the functions that a run calls, at sizes that fit on a page.
"""

import inspect
import pathlib
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.config import EncoderConfig, PretrainConfig
from bert_jax.data.corpus.corpus import Corpus
from bert_jax.data.packing import draws
from bert_jax.data.packing.draws import DrawKey
from bert_jax.data.packing.packing import pack
from bert_jax.data.pretraining.examples import Purpose, pair_examples
from bert_jax.data.pretraining.phases import resolve_phases
from bert_jax.data.pretraining.plan import plan_block
from bert_jax.data.pretraining.rows import make_rows, row_format
from bert_jax.model.attention import tokens_of, visible
from bert_jax.model.encoder import Encoder
from bert_jax.model.heads import PretrainingModel
from bert_jax.objectives.losses import cross_entropy, make_pretraining_loss, mean
from bert_jax.objectives.masking import mask_tokens
from bert_jax.runs.steps import make_mask_fn, mask_vocabulary
from bert_jax.text.tokenizer import Tokenizer
from bert_jax.training.optimizer import make_optimizer
from bert_jax.training.schedules import pretraining_settings, tabulate
from bert_jax.training.state import RunInputs, TrainState, draw_params, run_key
from bert_jax.training.step import make_update
from docs.word_corpus import prepare_words

ROOT = pathlib.Path(__file__).parents[1]
PAGE = pathlib.Path(__file__).with_suffix(".md")
TEXT = """the river bends.
it slows here.

the lamp is lit.
ships see it.
"""
SEED = 3


def make_config() -> PretrainConfig:
    """Returns the config of the page: T=24, N=2, D=8, H=2, F=16, L=2, no dropout."""
    encoder = EncoderConfig(width=8, heads=2, mlp_width=16, layers=2, max_length=24)
    encoder.dropout_rate = encoder.attention_dropout_rate = 0.0
    config = PretrainConfig(encoder=encoder, steps=100, seed=SEED)
    config.data.length, config.data.max_examples_per_row = 24, 2
    config.optimizer.warmup_steps = 0
    return config


def link(function: Callable) -> str:
    """Returns a link to the file of a function or class."""
    path = pathlib.Path(inspect.getfile(function)).relative_to(ROOT)
    return f"`{function.__name__}` ([{path.relative_to('bert_jax')}](../{path}))"


def block(*lines: str) -> str:
    """Returns lines as a code block."""
    return "\n".join(["```", *lines, "```"])


def shown(name: str, array: Any, decimals: int = 2) -> str:
    """Returns a name, the shape and the values of an array of up to two axes, row by row."""
    array = np.asarray(array)
    rows = array.reshape(-1, array.shape[-1])
    if array.dtype.kind == "f":
        numbers = [[f"{each + 0.0:.{decimals}f}" for each in row] for row in rows.round(decimals)]
    else:
        numbers = [[str(each) for each in row] for row in rows]
    width = max(len(each) for row in numbers for each in row)
    lines = [" ".join(each.rjust(width) for each in row) for row in numbers]
    head = f"{name} {list(array.shape)} {array.dtype}"
    return "\n".join([head, *(f"  {line}" for line in lines)])


def columns(titles: Sequence[str], *fields: Sequence[Any]) -> Iterator[str]:
    """Yields the lines of a table, a column for each field."""
    rows = [titles, *([str(each) for each in row] for row in zip(*fields, strict=True))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(titles))]
    for row in rows:
        yield "  ".join(each.ljust(w) for each, w in zip(row, widths, strict=True)).rstrip()


def make_page() -> str:
    """Returns the page."""
    with tempfile.TemporaryDirectory() as directory:
        sections = _sections(*prepare_words(TEXT, pathlib.Path(directory)), make_config())
        return "\n\n".join(map(wrapped, sections)) + "\n"


def wrapped(section: str) -> str:
    """Returns a section with its paragraphs in lines of one width; code and tables stay."""
    paragraphs = section.split("\n\n") if not section.startswith("```") else [section]
    return "\n\n".join(
        each if each.startswith(("```", "|", "#")) else textwrap.fill(each, 110, **_BREAKS)
        for each in paragraphs
    )


_BREAKS: Any = {"break_long_words": False, "break_on_hyphens": False}


def run_step(
    config: PretrainConfig, tokenizer: Tokenizer, rows: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Takes a training step from fresh parameters, and returns what passes through it."""
    model = PretrainingModel(config.encoder, config.data.objective)
    loss = make_pretraining_loss(model)
    tx = make_optimizer(config.optimizer)
    phases = resolve_phases(config)
    settings = pretraining_settings(config.optimizer, config.masking, phases, config.steps)
    run = RunInputs(run_key(config.seed), tabulate(settings, config.steps))
    vocabulary = mask_vocabulary(config.masking, tokenizer)
    mask = make_mask_fn(config.masking, vocabulary)

    @jax.jit
    def step(run: RunInputs, rows: dict[str, jax.Array]) -> dict[str, Any]:
        seen: dict[str, Any] = {}

        def recorded_mask(*arguments: Any) -> Any:
            seen["batch"] = mask(*arguments)
            return seen["batch"]

        def gradient(*arguments: Any) -> Any:
            return jax.value_and_grad(loss, has_aux=True)(*arguments)

        params = draw_params(model, run.key)
        state = TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))
        seen["state"], seen["totals"] = make_update(gradient, recorded_mask, tx)(state, rows, run)
        batch = seen["batch"]
        seen["logits"], kept = model.apply(
            {"params": params},
            batch,
            deterministic=True,
            capture_intermediates=True,
            mutable=["intermediates"],
        )
        encoder = kept["intermediates"]["encoder"]
        seen["vectors"], seen["embeddings"] = (
            each["__call__"][0] for each in (encoder, encoder["embeddings"])
        )
        tokens = tokens_of(batch["example_ids"])
        return seen | {"visible": visible(tokens, tokens, causal=False)}

    return jax.device_get(step(run, rows))


def _sections(corpus: Corpus, tokenizer: Tokenizer, config: PretrainConfig) -> Iterator[str]:
    data, encoder = config.data, config.encoder
    encoder.vocab_size = tokenizer.vocab_size

    def pieces(ids: Any) -> list[str]:
        return [tokenizer.id_to_piece(int(each)) for each in ids]

    yield _INTRODUCTION
    yield block(*TEXT.strip().splitlines())

    tokens = corpus.token_ids(np.arange(corpus.tokens))
    yield f"""## 1. Ids

`prepare` splits the text into tokens and writes three flat arrays; {link(Corpus)} maps them into
memory. The vocabulary here is the words of the text and five special tokens: V =
{tokenizer.vocab_size}."""
    yield block(
        " ".join(pieces(tokens)),
        "",
        *(shown(name, array) for name, array in corpus.shards[0].items()),
    )
    yield """`sentence_ends` counts tokens, `document_ends` counts sentences: document 0 is
sentences 0 and 1,
tokens 0 to 7."""

    key = DrawKey(config.seed)
    documents = draws.permuted(
        np.arange(corpus.documents), corpus.documents, key, Purpose.DOCUMENT_ORDER
    )
    examples = pair_examples(corpus, documents, data, key)
    yield f"""## 2. Examples

An example is [CLS] A [SEP] B [SEP]. {link(pair_examples)} reads the documents in a
random order, draws where each A ends, and whether B is what follows (label 0) or comes from another
document (label 1). It returns offsets into the token array, no tokens:
example e has the parts `part_bounds[e]` to `part_bounds[e + 1]`."""
    parts = [
        " ".join(pieces(tokens[begin : begin + length]))
        for begin, length in zip(examples.part_begin, examples.part_length, strict=True)
    ]
    bounds = examples.part_bounds
    yield block(
        shown("part_begin", examples.part_begin),
        shown("part_length", examples.part_length),
        shown("part_segment", examples.part_segment),
        shown("part_bounds", bounds),
        shown("labels", examples.labels),
        "",
        *(
            f"example {i}, label {label}: {' | '.join(parts[bounds[i] : bounds[i + 1]])}"
            for i, label in enumerate(examples.labels)
        ),
    )

    row_of = pack(examples.sizes, data.length, data.max_examples_per_row)
    yield f"""## 3. Packing

A row has T = {data.length} tokens and holds up to N = {data.max_examples_per_row} examples.
{link(pack)} puts the longest
example first, and each into the fullest row that it fits. Then the rows are shuffled."""
    yield block(shown("sizes, with [CLS] and [SEP]", examples.sizes), shown("row_of", row_of))

    plan = plan_block(corpus, data, seed=config.seed, epoch=0, block=0)
    chosen = np.array([np.argmax(np.diff(plan.row_begins))])
    rows = make_rows(corpus, plan, chosen, row_format(data, tokenizer.special), epoch=0, block=0)
    yield f"""## 4. A row

{link(make_rows)} reads the tokens and writes the batch. Here it has one row (B = 1), the one with
two examples."""
    fields = ("token_ids", "example_ids", "segment_ids", "position_ids")
    yield block(
        *columns(
            ("", "", *fields),
            range(data.length),
            pieces(rows["token_ids"][0]),
            *(rows[name][0] for name in fields),
        ),
        "",
        *(
            shown(each, rows[each], 0)
            for each in ("pool_positions", "labels", "weights", "row_ids")
        ),
    )
    yield """`example_ids` is 0 for padding, and `position_ids` start again in each example.
`pool_positions` are the [CLS] tokens; `labels` and `weights` belong to next sentence prediction, a
slot for each example. `row_ids` is unique in the run, and the key of all that is drawn for
the row."""

    seen = run_step(config, tokenizer, rows)
    batch, logits = seen["batch"], seen["logits"]
    slots = batch["mlm_labels"].shape[1]
    yield f"""## 5. Masks

From here on everything runs on the device, in one compiled step. {link(mask_tokens)} chooses
{config.masking.rate:.0%} of each example's tokens, but at least one. Of those it replaces 80% by
[MASK] and 10% by a random
token, and keeps the rest. A row draws the same masks in every
batch and on every device. There
are M = {slots} slots, as many as any row needs; an unused slot has weight 0."""
    before, after = pieces(rows["token_ids"][0]), pieces(batch["token_ids"][0])
    used = int(batch["mlm_weights"].sum())
    yield block(
        " ".join(after),
        "",
        *(shown(name, batch[name], 0) for name in ("mlm_positions", "mlm_labels", "mlm_weights")),
        "",
        *(
            f"slot {slot}, position {at}: {before[at]!r} became {after[at]!r}"
            for slot, at in enumerate(batch["mlm_positions"][0, :used].tolist())
        ),
    )

    stream, width = (
        f"[B, T, D] = [1, {data.length}, {encoder.width}]",
        encoder.width // encoder.heads,
    )
    yield f"""## 6. Vectors

{link(Encoder)} adds the embeddings of token, segment and position, normalises the sum, and runs
L = {encoder.layers} layers:

| in a layer | shape |
|---|---|
| input x | {stream} |
| query, key, value | [B, T, H, K] = [1, {data.length}, {encoder.heads}, {width}] |
| attention probabilities | [B, H, T, T] = [1, {encoder.heads}, {data.length}, {data.length}] |
| x + attention, normalised | {stream} |
| inside the feed-forward layer | [B, T, F] = [1, {data.length}, {encoder.mlp_width}] |
| x + feed-forward, normalised | {stream} |

A token attends to the tokens of its own example. Each line is a token, each `#` a token it sees
(nothing reads what padding sees):"""
    yield block(*("".join(".#"[each] for each in row) for row in seen["visible"][0, 0].astype(int)))
    yield f"""The last layer computes only the P = M + N vectors that a head reads: the {slots}
masked slots and the
{data.max_examples_per_row} [CLS] tokens (an unused slot points at position 0). After the
embeddings, and out of the last layer:"""
    yield block(
        shown("embeddings [B, T, D]", seen["embeddings"]),
        "",
        shown("vectors [B, P, D]", seen["vectors"]),
    )
    yield f"""## 7. Logits

The masked-LM head transforms the vectors of the masked slots and multiplies them with the token
table,
which is also the output matrix: [B, M, D] x [V, D] gives [B, M, V] = [1, {slots},
{encoder.vocab_size}]. The {used} used slots, with `<` at
the label:"""
    labels = batch["mlm_labels"][0]
    yield block(
        *columns(
            ("", *(f"slot {slot}" for slot in range(used))),
            pieces(range(encoder.vocab_size)),
            *(
                [
                    f"{each.round(2) + 0.0:5.2f}{' <' if i == labels[slot] else ''}"
                    for i, each in enumerate(scores)
                ]
                for slot, scores in enumerate(logits.mlm[0, :used])
            ),
        ),
        "",
        shown("next sentence logits [B, N, 2]", logits.sentence),
    )

    mlm = cross_entropy(logits.mlm, labels[None], batch["mlm_weights"])
    nsp = cross_entropy(logits.sentence, batch["labels"], batch["weights"])
    yield f"""## 8. Loss

{link(cross_entropy)} returns a sum and its weight, not a mean: sums of devices and micro-batches
add,
and are divided once. The loss is the mean over the masked tokens plus the mean over the
examples."""
    yield block(
        *(
            f"{name}: sum {total.sum:.2f}, weight {total.weight:.0f}, mean {mean(total):.2f}"
            for name, total in (("mlm", mlm), ("nsp", nsp))
        ),
        f"loss: {mean(mlm) + mean(nsp):.2f}",
    )
    yield f"""The model is untrained: a guess among V tokens costs ln {encoder.vocab_size} =
{np.log(encoder.vocab_size):.2f}, between two answers
ln 2 = {np.log(2):.2f}.

## 9. Update

{link(make_update)} runs steps 5 to 8, differentiates the loss, and lets the optimizer change the
parameters, unless the loss or a gradient is not finite. It returns the next state and these
totals:"""
    yield block(
        *columns(
            ("", "sum", "weight"),
            seen["totals"],
            *([f"{total[i]:.2f}" for total in seen["totals"].values()] for i in range(2)),
        ),
        "",
        f"step: {seen['state'].step}",
    )
    yield _REST


_INTRODUCTION = """# One batch, from text to loss

Two documents become a loss, and every array on the way is printed. Ten minutes, eight files of
`bert_jax/`.
[architecture.md](architecture.md#the-batch) explains the letters. `python -m docs.one_batch`
writes this page
with the functions that a training run calls."""

_REST = """That is pretraining. Everything else makes it fast, exact and restartable (shards,
phases, mixtures, the
loader, the mesh, checkpoints, planning). You do not need it on a first reading;
[architecture.md](architecture.md) says where it is."""


if __name__ == "__main__":
    PAGE.write_text(make_page())

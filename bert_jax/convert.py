"""Converts models from and to other libraries, and from Google's TF1 code.

    python -m bert_jax.convert --from=hf:DIR --to=CHECKPOINT
    python -m bert_jax.convert --from=tf1:uncased_L-12_H-768_A-12/bert_model.ckpt --to=CHECKPOINT
    python -m bert_jax.convert --from=runs/base --to=hf:DIR
    python -m bert_jax.convert --from=runs/vectors --to=sentence-transformers:DIR
    python -m bert_jax.convert --from=sentence-transformers:DIR --to=CHECKPOINT
    python -m bert_jax.convert --average=RUN/checkpoints/8000,RUN/checkpoints/9000 --to=CHECKPOINT
    python -m bert_jax.convert --from=CHECKPOINT --add_tokens=tokens.txt --to=CHECKPOINT

A checkpoint is a directory that `finetune`, `predict`, `evaluate` and `pretrain --init` take. After
the conversion both models run on the same sentences, where the other library is installed, and the
maximum absolute difference is printed; --noverify leaves that out.
"""

from collections.abc import Sequence

from absl import flags

from bert_jax.cli import app
from bert_jax.errors import UserError

_FROM = flags.DEFINE_string(
    "from",
    None,
    "the model: hf:DIR, tf1:PREFIX, sentence-transformers:DIR, or a run or RUN/checkpoints/STEP",
)
_AVERAGE = flags.DEFINE_string(
    "average",
    "",
    "instead of --from: checkpoints A,B,... whose parameters to average; of a single one, the"
    " moving average that its run kept (config.average_decay)",
)
_ADD_TOKENS = flags.DEFINE_string(
    "add_tokens", "", "of a checkpoint: a text file with new tokens, one a line, for it to have"
)
_TO = flags.DEFINE_string(
    "to", None, "a new directory: of a checkpoint, or hf:DIR, or sentence-transformers:DIR"
)
_TOKENIZER = flags.DEFINE_string(
    "tokenizer",
    "",
    "for an imported model without one: a saved tokenizer, a *.model or a vocab.txt",
)
_PAIRS = flags.DEFINE_bool("pairs", False, "the imported classifier takes pairs of texts")
_PADDED = flags.DEFINE_bool(
    "padded_vocabulary", False, "the imported embedding has more rows than the vocabulary pieces"
)
_VERIFY = flags.DEFINE_bool("verify", True, "run both models and print their difference")
_SENTENCES = flags.DEFINE_string(
    "sentences", "", "a text file; both models run on its lines; '': on a few of our own"
)


def _check_makes_checkpoint(flag: str, target: str, kind: str) -> None:
    """Raises UserError unless the target is a checkpoint, and no flag is of other models."""
    if kind:
        raise UserError(
            f"--to={target}: --{flag} makes a checkpoint: name its directory, and convert that"
        )
    if _TOKENIZER.value or _PAIRS.value or _PADDED.value or _SENTENCES.value:
        raise UserError(
            "--tokenizer, --pairs, --padded_vocabulary and --sentences are of a model from"
            f" elsewhere: leave them out with --{flag}"
        )


def main(_: Sequence[str]) -> None:
    """Converts into a directory beside the target, which is renamed when it is complete."""
    target = app.require("to", _TO.value, "runs/imported")
    with app.imports():
        from bert_jax.interop.conversion import ImportOptions, convert, kind_and_path
    for maker in (_AVERAGE, _ADD_TOKENS):
        if maker.value:
            _check_makes_checkpoint(maker.name, target, kind_and_path(target)[0])
    if _AVERAGE.value:
        if _FROM.value:
            raise UserError(f"--average={_AVERAGE.value} --from={_FROM.value}: give one of the two")
        with app.imports():
            from bert_jax.checkpoints.average import average
        average(_AVERAGE.value, target)
        return
    source = app.require("from", _FROM.value, "hf:DIR")
    if _ADD_TOKENS.value:
        with app.imports():
            from bert_jax.interop.extension import add_tokens
        add_tokens(source, _ADD_TOKENS.value, target)
        return
    options = ImportOptions(_TOKENIZER.value, _PAIRS.value, _PADDED.value)
    convert(source, target, options, verify=_VERIFY.value, sentences=_SENTENCES.value)


if __name__ == "__main__":
    app.run(main)

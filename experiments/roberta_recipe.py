"""RoBERTa's recipe against BERT's: which of its changes pay?

Tables 1 to 4 of RoBERTa one after another, each on top of the one before: masks that are drawn anew
each time, no next sentence prediction and whole stretches of text, larger batches at equal tokens,
byte-level BPE, and more steps. At size cpu the encoder has rotary positions from the start, without
which a model of this size learns nothing that could be compared (decisions/0008), and it sees a
small text about four times, as often as BERT saw each of its masks.
"""

import dataclasses

from experiments import tasks
from experiments.sizes import CPU_PAIRS, GPU, POD, PREPARE_SMALL
from experiments.study import Overrides, Published, Size, Study, Variant

_EVAL_BATCHES = 64  # of BERT's recipe
_FULL_SENTENCES: Overrides = ("data.objective=none", "data.format=full_sentences")


def _with_variants(
    size: Size, *, batch_size: int, steps: int, rate: float, copies: int, vocabulary: int
) -> Size:
    """Returns a size with BERT's recipe and the steps to RoBERTa's.

    Args:
      size: to be given variants.
      batch_size: of BERT's recipe; the larger one has eight times as many rows.
      steps: of BERT's recipe.
      rate: highest rate of BERT's recipe.
      copies: K of the static masks.
      vocabulary: size of the byte-level one.
    """

    def budget(times: int, longer: int = 1) -> Overrides:
        # The rate grows as the square root of the batch, as is usual for Adam.
        count = steps // times
        return (
            f"batch_size={batch_size * times}",
            f"steps={count * longer}",
            f"optimizer.warmup_steps={max(count // 16, 1)}",
            f"optimizer.learning_rate={rate * times**0.5:.3g}",
            f"eval_batches={_EVAL_BATCHES // times}",  # the same rows
            "eval_full_sentences=True",
        )

    static = (f"data.static_copies={copies}",)
    tokenizer = (f"--tokenizer=train:bpe:{vocabulary}",)
    small, large = budget(1), budget(8)
    of_bert = (*small, "masking.rate=0.15")
    of_roberta = (*large, "masking.rate=0.15", *_FULL_SENTENCES)
    more = (*budget(8, longer=4), "masking.rate=0.15", *_FULL_SENTENCES)
    variants = (
        Variant("bert", pretrain=(*of_bert, *static)),
        Variant("+dynamic", pretrain=of_bert, against="bert"),
        Variant("+full_sentences", pretrain=(*of_bert, *_FULL_SENTENCES), against="+dynamic"),
        Variant("+large_batch", pretrain=of_roberta, against="+full_sentences"),
        Variant("+bytes", pretrain=of_roberta, prepare=tokenizer, against="+large_batch"),
        Variant("+longer", pretrain=more, prepare=tokenizer, against="+bytes"),
    )
    return dataclasses.replace(size, variants=variants)


STUDY = Study(
    base="bert",
    variants=(),
    tasks=(tasks.ENTITIES, tasks.PARTS_OF_SPEECH, tasks.RTE),
    sizes={
        "cpu": _with_variants(
            dataclasses.replace(CPU_PAIRS, prepare=PREPARE_SMALL),
            batch_size=32,
            steps=1000,
            rate=3e-3,
            copies=1,
            vocabulary=8000,
        ),
        "gpu": _with_variants(
            GPU, batch_size=256, steps=100_000, rate=5e-4, copies=10, vocabulary=50_000
        ),
        "pod": _with_variants(
            POD, batch_size=256, steps=1_000_000, rate=1e-4, copies=10, vocabulary=50_000
        ),
    },
    published=(
        Published(
            source="RoBERTa (Liu et al., 2019), tables 1 and 2: base, dev, medians of 5 seeds",
            columns=("SQuAD 2.0 F1", "MNLI-m", "SST-2"),
            rows={
                "static masks": (78.3, 84.3, 92.5),
                "dynamic masks": (78.7, 84.0, 92.9),
                "pairs with NSP": (78.7, 84.0, 92.9),
                "full sentences without NSP": (79.1, 84.7, 92.5),
            },
        ),
        Published(
            source="RoBERTa (Liu et al., 2019), table 3: base, dev; perplexity held out",
            columns=("perplexity", "MNLI-m", "SST-2"),
            rows={
                "256 rows, 1M steps, 1e-4": (3.99, 84.7, 92.7),
                "2K rows, 125K steps, 7e-4": (3.68, 85.2, 92.9),
                "8K rows, 31K steps, 1e-3": (3.77, 84.6, 92.8),
            },
        ),
        Published(
            source="RoBERTa (Liu et al., 2019), table 4: large, 8K rows, dev",
            columns=("SQuAD 2.0 F1", "MNLI-m", "SST-2"),
            rows={
                "16 GB of text, 100K steps": (87.3, 89.0, 95.3),
                "160 GB, 100K steps": (87.7, 89.3, 95.6),
                "160 GB, 300K steps": (88.7, 90.0, 96.1),
                "160 GB, 500K steps": (89.4, 90.2, 96.4),
            },
        ),
    ),
)

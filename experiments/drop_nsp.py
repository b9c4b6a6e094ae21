"""Does next sentence prediction help, or only the format of its pairs?

BERT's ablation removed the loss and kept the pairs; RoBERTa's removed the pairs as well. Here each
is a variant: pairs with the loss, pairs without it, no pairs from two documents, no pairs at all,
and BERT's left-to-right model.
"""

from experiments import tasks
from experiments.sizes import SIZES_OF_PAIRS
from experiments.study import Published, Study, Variant

_NO_LOSS = "data.objective=none"

STUDY = Study(
    base="nsp",
    variants=(
        Variant("nsp"),
        Variant("no_loss", pretrain=(_NO_LOSS,)),
        Variant("no_foreign_text", pretrain=(_NO_LOSS, "data.random_b_rate=0")),
        Variant("full_sentences", pretrain=(_NO_LOSS, "data.format=full_sentences")),
        Variant("doc_sentences", pretrain=(_NO_LOSS, "data.format=doc_sentences")),
        Variant("sentence_pair", pretrain=("data.format=sentence_pair",)),
        Variant(
            "left_to_right",
            pretrain=(_NO_LOSS, "encoder.causal=True", "masking.strategy=next_token"),
        ),
    ),
    tasks=(tasks.ENTITIES, tasks.RTE),
    sizes=SIZES_OF_PAIRS,
    published=(
        Published(
            source="BERT (Devlin et al., 2019), table 5: base, dev",
            columns=("MNLI-m", "QNLI", "MRPC", "SST-2", "SQuAD 1.1 F1"),
            rows={
                "nsp": (84.4, 88.4, 86.7, 92.7, 88.5),
                "no_loss (their No NSP)": (83.9, 84.9, 86.5, 92.6, 87.9),
                "left_to_right": (82.1, 84.3, 77.5, 92.1, 77.8),
            },
        ),
        Published(
            source="RoBERTa (Liu et al., 2019), table 2: base, dev, medians of 5 seeds",
            columns=("SQuAD 1.1 F1", "SQuAD 2.0 F1", "MNLI-m", "SST-2", "RACE"),
            rows={
                "nsp (SEGMENT-PAIR)": (90.4, 78.7, 84.0, 92.9, 64.2),
                "sentence_pair": (88.7, 76.2, 82.9, 92.1, 63.0),
                "full_sentences": (90.4, 79.1, 84.7, 92.5, 64.8),
                "doc_sentences": (90.6, 79.7, 84.7, 92.7, 65.6),
            },
        ),
    ),
)

"""Does pretraining make better vectors of texts, and do vectors know more than words?

`random` has the modern encoder's shape and none of its weights, `bert` is BERT's recipe with
sinusoids for positions, and `words` are no model at all: tf-idf for similarity, and BM25 for
search. `distilled` is taught by an encoder of twice its layers: at size cpu it has those of
`modern`, at size mini half of them. The vectors are trained three ways: on single sentences alone
(SimCSE), on scored pairs (STS-B), and on questions with the paragraphs that answer them (SQuAD).
"""

import dataclasses

from experiments.bert_to_modern import bert_with_sinusoids
from experiments.sizes import CPU, CPU_MINI
from experiments.study import Overrides, Published, Study, Task, Variant

_PAIRS: Overrides = (
    "task=vectors",
    "data.header=False",
    "data.text_column=0",
    "data.text_pair_column=1",
    "data.length=64",
)
_SCORED: Overrides = (*_PAIRS, "data.label_column=2", "data.dev={data}/similarity/dev.csv")
_SENTENCES = Task(
    name="sentences",
    recipe="configs/finetune_text.py",
    overrides=(
        *_SCORED,
        "data.train={data}/sentences/train.txt",
        "data.examples=8000",
        "vectors.loss=simcse",
        "batch_size=64",
        "epochs=1",
        "optimizer.learning_rate=1e-4",
    ),
)
_SIMILARITY = Task(
    name="similarity",
    recipe="configs/finetune_text.py",
    overrides=(
        *_SCORED,
        "data.train={data}/similarity/train.csv",
        "vectors.loss=cosent",
        "epochs=3",
        "optimizer.learning_rate=5e-4",
    ),
)
_SEARCH = Task(
    name="search",
    recipe="configs/finetune_text.py",
    overrides=(
        "task=vectors",
        "data.train={data}/squad/train.json",
        "data.dev={data}/squad/dev.json",
        "data.text_column=question",
        "data.text_pair_column=context",
        "data.label_column=",
        "data.length=128",
        "batch_size=64",
        "epochs=3",
        "optimizer.learning_rate=5e-4",
    ),
)


def _variants(width: int, *distilled: Variant) -> tuple[Variant, ...]:
    return (
        Variant("modern"),
        Variant("random", finetune=("transfer=False",)),
        Variant("bert", pretrain=bert_with_sinusoids(width)),
        *distilled,
        Variant("words", linear=True),
    )


_CPU_VARIANTS = _variants(
    128,
    Variant("teacher", pretrain=("encoder.layers=4", "steps=4000"), seeds=1),
    Variant("distilled", teacher="teacher"),
)
_MINI_VARIANTS = _variants(
    256,
    Variant("distilled", pretrain=("encoder.layers=2",), teacher="modern"),
)


STUDY = Study(
    base="modern",
    variants=_CPU_VARIANTS,
    tasks=(_SENTENCES, _SIMILARITY, _SEARCH),
    sizes={
        "cpu": dataclasses.replace(CPU, distil_recipe="configs/distil_tiny_cpu.py", finetune=()),
        "mini": dataclasses.replace(
            CPU_MINI,
            distil_recipe="configs/distil_mini_cpu.py",
            variants=_MINI_VARIANTS,
            finetune=(),
        ),
    },
    published=(
        Published(
            source="SimCSE (Gao et al., 2021b), table 5: base, mean of seven STS sets, Spearman",
            columns=("Spearman",),
            rows={
                "BERT, mean of the first and last layer": (56.70,),
                "SimCSE on sentences": (76.25,),
                "SimCSE on pairs of NLI": (81.57,),
            },
        ),
        Published(
            source="ModernBERT (Warner et al., 2024), table 1: base, one vector a text",
            columns=("BEIR nDCG@10",),
            rows={
                "BERT": (38.9,),
                "RoBERTa": (37.7,),
                "ModernBERT": (41.6,),
            },
        ),
    ),
)

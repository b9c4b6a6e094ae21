"""Do the steps from BERT to the modern encoder pay at this size, and which of them most?

`bert` is BERT's recipe. Each variant with `+` has everything of the one before it and one thing
more, and is compared with that one; the last of them is the modern recipe. Each variant `with_...`
is the modern recipe but for one thing, which is BERT's. Positions come first: a learned table keeps
a model of this size on a plateau (decision 0008), where nothing else shows. Nothing is tuned for a
variant: rate, batch and steps are the same.
"""

import itertools
from typing import NamedTuple

from experiments import tasks
from experiments.sizes import PREPARE_8000
from experiments.study import Overrides, Published, Size, Study, Variant


class _Step(NamedTuple):
    """One thing that modern encoders do differently.

    Attributes:
      modern: name of what they have.
      bert: name of what BERT has.
      overrides: of the modern recipe, to have what BERT has.
    """

    modern: str
    bert: str
    overrides: Overrides


def _steps(width: int) -> tuple[_Step, ...]:
    """Returns the steps in the order of the ladder, for an encoder of a width."""
    return (
        _Step("rotary", "learned_positions", ("encoder.position_encoding=learned",)),
        _Step(
            "single_texts",
            "nsp",
            (
                "data.format=segment_pair",
                "data.objective=nsp",
                "encoder.segments=2",
                "encoder.pooling=cls",
                "encoder.pooler=tanh",
            ),
        ),
        _Step(
            "no_dropout",
            "dropout",
            ("encoder.dropout_rate=0.1", "encoder.attention_dropout_rate=0.1"),
        ),
        _Step("mask_30", "mask_15", ("masking.rate=0.15",)),
        _Step("wide_init", "narrow_init", ("encoder.init_stddev=0.02",)),
        _Step("stable_rate", "linear_rate", ("optimizer.schedule=linear",)),
        _Step("beta2_0.98", "beta2_0.999", ("optimizer.beta2=0.999",)),
        _Step("decay_1e-5", "decay_0.01", ("optimizer.weight_decay=0.01",)),
        _Step("pre_norm", "post_norm", ("encoder.norm=post", "encoder.first_norm=True")),
        _Step("scaled_init", "even_init", ("encoder.depth_scaled_init=False",)),
        _Step("gated", "plain_mlp", ("encoder.mlp=plain", f"encoder.mlp_width={4 * width}")),
        _Step("no_biases", "biases", ("encoder.biases=True",)),
        _Step("norm_no_bias", "norm_bias", ("encoder.norm_kind=layer_norm",)),
        _Step("muon", "adamw", ("optimizer.rule=adamw",)),
    )


def _bert(steps: tuple[_Step, ...]) -> Overrides:
    return tuple(itertools.chain.from_iterable(step.overrides for step in steps))


def _ladder(steps: tuple[_Step, ...]) -> tuple[Variant, ...]:
    """Returns BERT's recipe, and a variant for each step."""
    rungs = [Variant("bert", pretrain=_bert(steps))]
    for number, step in enumerate(steps, start=1):
        missing = _bert(steps[number:])
        rungs.append(Variant(f"+{step.modern}", pretrain=missing, against=rungs[-1].name))
    return tuple(rungs)


def bert_with_sinusoids(width: int) -> Overrides:
    """Returns what makes BERT's recipe of the modern one, its positions starting as sinusoids."""
    return (*_bert(_steps(width)), "encoder.position_init=sinusoidal")


def _all_variants(width: int) -> tuple[Variant, ...]:
    steps = _steps(width)
    bert, *_, modern = rungs = _ladder(steps)
    slower = (*bert.pretrain, "optimizer.learning_rate=1e-3")
    as_many_parameters = ("encoder.mlp=plain", f"encoder.mlp_width={9 * width // 4}")
    return (
        *rungs,
        *(
            Variant(f"with_{step.bert}", pretrain=step.overrides, against=modern.name)
            for step in steps
        ),
        Variant("with_small_plain_mlp", pretrain=as_many_parameters, against=modern.name),
        Variant("with_stable_adamw", ("optimizer.rule=stable_adamw",), against=modern.name),
        Variant("bert_sinusoids", pretrain=bert_with_sinusoids(width), against=bert.name),
        Variant("bert_third_of_rate", pretrain=slower, against=bert.name),
    )


def _few_variants(width: int) -> tuple[Variant, ...]:
    """Returns the ends of the ladder, sinusoids, and the modern recipe without rotary positions."""
    steps = _steps(width)
    bert, *_, modern = _ladder(steps)
    rotary = steps[0]
    return (
        bert,
        Variant("bert_sinusoids", pretrain=bert_with_sinusoids(width), against=bert.name),
        Variant("modern", pretrain=modern.pretrain),
        Variant(f"with_{rotary.bert}", pretrain=rotary.overrides, against="modern"),
    )


_MUON = ("optimizer.rule=muon", "optimizer.update_rms=0.4")  # and not what the recipe may become
_TINY, _MINI = 128, 256  # widths

STUDY = Study(
    base="bert",
    variants=_all_variants(_TINY),
    tasks=(tasks.ENTITIES,),
    sizes={
        "cpu": Size(
            prepare=PREPARE_8000,
            recipe="configs/pretrain_modern_tiny.py",
            pretrain=_MUON,
            finetune=("optimizer.learning_rate=1e-3", "epochs=5"),
            seeds=5,
            minutes=30,
            cores=1,
        ),
        "mini": Size(
            prepare=PREPARE_8000,
            recipe="configs/pretrain_modern_mini.py",
            pretrain=_MUON,
            finetune=("optimizer.learning_rate=5e-4", "epochs=5"),
            seeds=3,
            variants=_few_variants(_MINI),
            minutes=240,
        ),
    },
    published=(
        Published(
            source="NeoBERT (Le Breton et al., 2025), table 2 and figure 1: base, GLUE dev",
            columns=("GLUE", "change in %"),
            rows={
                "M0: BERT base, pre-norm, without NSP": (79.2, None),
                "M1: rotary positions, SwiGLU, RMSNorm": (81.1, 2.4),
                "M2: RefinedWeb for Wikipedia and books": (84.0, 3.6),
                "M3: LLaMA's tokenizer (not kept)": (82.2, -2.1),
                "M4: AdamW and a cosine": (83.5, -0.5),
                "M5: 20 % masked, always by [MASK]": (82.9, -0.7),
                "M6: packed without a block mask (not kept)": (80.5, -2.9),
                "M7: 250 M parameters": (85.3, 2.9),
                "M8: 28 layers of 768": (86.0, 0.8),
                "M9: batches of 2 M tokens, rows of 4,096": (87.3, None),
            },
        ),
        Published(
            source="Cramming (Geiping and Goldstein, 2022), a day on one GPU, GLUE: in words, it"
            " gained by pre-norm, no biases, gated units, sinusoids, norms after the embeddings"
            " and at the end, no dropout and a rate tied to the budget, and nothing by RMSNorm or"
            " 40 % masked",
            columns=("GLUE",),
            rows={"the first edition": (78.6,), "bert-o4": (80.7,)},
        ),
    ),
)

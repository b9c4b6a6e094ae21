"""Which steps from BERT to the modern encoder pay at this size?

`bert` is BERT's recipe. Each `+` variant has everything of the one before and one thing more, and is
compared with it; the last of them is the modern recipe. Each `-` variant is the modern recipe with
one thing as BERT has it. Positions come first: on the plateau where a learned table leaves a model
(decision 0008) nothing else shows. Nothing is tuned for a variant: rate, batch and steps are the
same.
"""

import itertools
from typing import NamedTuple

from experiments.study import Overrides, Published, Size, Study, Task, Variant


class _Step(NamedTuple):
    """One thing that modern encoders do differently.

    Attributes:
      name: of its variants, after + and -.
      bert: what BERT has, as changes of the modern recipe.
    """

    name: str
    bert: Overrides


# In the order of the ladder, the first step first.
_STEPS = (
    _Step("rotary", ("encoder.position_encoding=learned", "encoder.rope_theta=10000")),
    _Step(
        "no_nsp",
        (
            "data.format=segment_pair",
            "data.objective=nsp",
            "encoder.segments=2",
            "encoder.pooling=cls",
            "encoder.pooler=tanh",
        ),
    ),
    _Step("no_dropout", ("encoder.dropout_rate=0.1", "encoder.attention_dropout_rate=0.1")),
    _Step("mask_30", ("masking.rate=0.15",)),
    _Step("wider_init", ("encoder.init_stddev=0.02",)),
    _Step("stable_rate", ("optimizer.schedule=linear",)),
    _Step("beta2_0.98", ("optimizer.beta2=0.999",)),
    _Step("less_decay", ("optimizer.weight_decay=0.01",)),
    _Step(
        "pre_norm",
        ("encoder.norm=post", "encoder.first_norm=True", "encoder.depth_scaled_init=False"),
    ),
    _Step("gated", ("encoder.mlp=plain", "encoder.mlp_width=288")),  # as many parameters
    _Step("no_biases", ("encoder.biases=True",)),
    _Step("norm_without_bias", ("encoder.norm_kind=layer_norm",)),
    _Step("muon", ("optimizer.rule=adamw",)),
)


def _joined(steps: tuple[_Step, ...]) -> Overrides:
    return tuple(itertools.chain.from_iterable(step.bert for step in steps))


def _ladder() -> tuple[Variant, ...]:
    """Returns BERT's recipe, then one variant for each step."""
    rungs = [Variant("bert", pretrain=_joined(_STEPS))]
    for number, step in enumerate(_STEPS, start=1):
        missing = _joined(_STEPS[number:])
        rungs.append(Variant(f"+{step.name}", pretrain=missing, against=rungs[-1].name))
    return tuple(rungs)


def _without() -> tuple[Variant, ...]:
    """Returns the modern recipe without each step."""
    return tuple(
        Variant(f"-{step.name}", pretrain=step.bert, against=f"+{_STEPS[-1].name}")
        for step in _STEPS
    )

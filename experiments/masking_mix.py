"""The masking mix: [MASK], the token itself, or a random one in the place of a target?

BERT's table 8. Held-out losses are always measured with the published mix, 80/10/10, so that a
model that never saw an unmasked target is asked about some.
"""

from experiments import tasks
from experiments.sizes import SIZES
from experiments.study import Published, Study, Variant


def _mix(mask: int, same: int, random: int) -> Variant:
    """Returns a row of the paper, in percent; what is neither masked nor random stays the same."""
    overrides = (f"masking.mask_share={mask / 100}", f"masking.random_share={random / 100}")
    return Variant(f"{mask}_{same}_{random}", pretrain=overrides)


STUDY = Study(
    base="80_10_10",
    variants=(
        _mix(80, 10, 10),
        _mix(100, 0, 0),
        _mix(80, 0, 20),
        _mix(80, 20, 0),
        _mix(0, 20, 80),
        _mix(0, 0, 100),
    ),
    tasks=(tasks.ENTITIES,),
    sizes=SIZES,
    published=(
        Published(
            source="BERT (Devlin et al., 2019), table 8: base, dev; rows are MASK, SAME, RND",
            columns=("MNLI", "NER fine-tuned", "NER from features"),
            rows={
                "80_10_10": (84.2, 95.4, 94.9),
                "100_0_0": (84.3, 94.9, 94.0),
                "80_0_20": (84.1, 95.2, 94.6),
                "80_20_0": (84.4, 95.2, 94.7),
                "0_20_80": (83.7, 94.8, 94.6),
                "0_0_100": (83.6, 94.9, 94.6),
            },
        ),
    ),
)

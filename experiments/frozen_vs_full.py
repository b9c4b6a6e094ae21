"""Frozen encoders: what is lost, and which layers should the head read then?

BERT's table 7, on entities: fine-tuning against features. One pretraining; seeds are those of the
heads.
"""

from experiments import tasks
from experiments.sizes import FROZEN, SIZES_OF_TASKS
from experiments.study import Published, Study, Variant

STUDY = Study(
    base="full",
    variants=(
        Variant("full"),
        Variant("last_layer", finetune=FROZEN),
        Variant("last_two_layers", finetune=(*FROZEN, "feature_layers=2")),
        Variant("random_encoder", finetune=("transfer=False",)),
    ),
    tasks=(tasks.ENTITIES,),
    sizes=SIZES_OF_TASKS,
    published=(
        Published(
            source="BERT (Devlin et al., 2019), table 7: CoNLL-2003, dev F1",
            columns=("F1",),
            rows={
                "full, large": (96.6,),
                "full, base": (96.4,),
                "features of base, embeddings": (91.0,),
                "features of base, second-to-last layer": (95.6,),
                "last_layer, base": (94.9,),
                "features of base, weighted sum of the last four": (95.9,),
                "features of base, the last four side by side": (96.1,),
                "features of base, weighted sum of all twelve": (95.5,),
            },
        ),
    ),
    one_pretraining=True,
)

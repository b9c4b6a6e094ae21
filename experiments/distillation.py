"""Does a teacher help a student of half its layers, and by which of its lessons?

`alone` is a model of the student's size, pretrained for as many steps without a teacher, and
`longer` one pretrained for about as long as a student takes. `student` learns by DistilBERT's three
losses and begins as layers of its teacher; each variant `without_...` leaves one thing out.
`student_twice` is taught the task as well, by the teacher that was fine-tuned for it. The MiniLM
ones learn attention and relations of the last layer, begin at random, and have no masked-LM head:
tasks alone can tell what they are worth.
"""

from experiments import tasks
from experiments.sizes import PREPARE_8000
from experiments.study import Overrides, Published, Size, Study, Variant

_MINILM: Overrides = (
    "student_layers=",
    "distillation.soft_weight=0",
    "distillation.mlm_weight=0",
    "distillation.cosine_weight=0",
)
_VALUE: Overrides = ("distillation.value_weight=1",)
_FEW = 3  # seeds of the variants that are not compared with a baseline


def _variants(teacher: Overrides, longer: Overrides) -> tuple[Variant, ...]:
    def taught(name: str, pretrain: Overrides = (), against: str = "student") -> Variant:
        return Variant(name, pretrain=pretrain, teacher="teacher", against=against, seeds=_FEW)

    return (
        Variant("teacher", pretrain=teacher, seeds=1),
        Variant("alone"),
        Variant("longer", pretrain=longer),
        Variant("student", teacher="teacher"),
        Variant("student_twice", teacher="teacher", task_teacher="teacher", against="student"),
        taught("without_soft", ("distillation.soft_weight=0",)),
        taught("without_cosine", ("distillation.cosine_weight=0",)),
        taught("without_mlm", ("distillation.mlm_weight=0",)),
        taught("without_teachers_layers", ("student_layers=",)),
        taught("minilm", (*_MINILM, *_VALUE, "distillation.attention_weight=1"), "alone"),
        taught("minilm_without_values", (*_MINILM, "distillation.attention_weight=1"), "minilm"),
        taught(
            "minilm_2",
            (*_MINILM, *_VALUE, "distillation.query_weight=1", "distillation.key_weight=1"),
            "minilm",
        ),
    )


STUDY = Study(
    base="alone",
    variants=_variants(("encoder.layers=4", "steps=4000"), ("steps=1600",)),
    tasks=(tasks.ENTITIES,),
    sizes={
        "cpu": Size(
            prepare=PREPARE_8000,
            recipe="configs/pretrain_modern_tiny.py",
            distil_recipe="configs/distil_tiny_cpu.py",
            finetune=("optimizer.learning_rate=1e-3", "epochs=5"),
            seeds=5,
            minutes=60,
            cores=1,
        ),
        "mini": Size(
            prepare=PREPARE_8000,
            recipe="configs/pretrain_modern_mini.py",
            distil_recipe="configs/distil_mini_cpu.py",
            pretrain=("encoder.layers=2",),
            finetune=("optimizer.learning_rate=5e-4", "epochs=5"),
            seeds=5,
            variants=_variants(("encoder.layers=4",), ("steps=12000",))[:5],
            minutes=120,
        ),
    },
    published=(
        Published(
            source="DistilBERT (Sanh et al., 2019), table 4: change of the GLUE score",
            columns=("change",),
            rows={
                "without soft targets": (-2.96,),
                "without cosine": (-1.46,),
                "without masked LM": (-0.31,),
                "random start": (-3.69,),
            },
        ),
        Published(
            source="MiniLM (Wang et al., 2020), table 5: dev, without and with value relations",
            columns=("SQuAD 2.0", "MNLI", "SST-2"),
            rows={"attention": (71.0, 80.9, 89.9), "attention and values": (72.4, 82.2, 91.0)},
        ),
    ),
)

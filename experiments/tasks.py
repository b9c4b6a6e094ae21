"""Tasks of the studies; their files are in the data folder (experiments/README.md)."""

from experiments.study import Task

SST2 = Task(
    name="sst2",
    recipe="configs/finetune_sst2.py",
    overrides=("data.train={data}/sst2/train.tsv", "data.dev={data}/sst2/dev.tsv"),
)
RTE = Task(
    name="rte",
    recipe="configs/glue.py:rte",
    overrides=("data.train={data}/rte/train.tsv", "data.dev={data}/rte/dev.tsv"),
)
COLA = Task(
    name="cola",
    recipe="configs/glue.py:cola",
    overrides=("data.train={data}/cola/train.tsv", "data.dev={data}/cola/dev.tsv"),
)
ENTITIES = Task(
    name="entities",
    recipe="configs/finetune_tags.py",
    overrides=("data.train={data}/entities/train.conll", "data.dev={data}/entities/dev.conll"),
)
POSTS = Task(
    name="posts",
    recipe="configs/finetune_tags.py",
    overrides=("data.train={data}/posts/train.conll", "data.dev={data}/posts/dev.conll"),
)
PARTS_OF_SPEECH = Task(
    name="pos",
    recipe="configs/finetune_tags.py",
    overrides=("data.train={data}/pos/train.conllu", "data.dev={data}/pos/dev.conllu"),
)
SQUAD = Task(
    name="squad",
    recipe="configs/finetune_squad.py",
    overrides=("data.train={data}/squad/train.json", "data.dev={data}/squad/dev.json"),
)
MNLI = Task(
    name="mnli",
    recipe="configs/glue.py:mnli",
    overrides=("data.train={data}/mnli/train.tsv", "data.dev={data}/mnli/dev_matched.tsv"),
)

"""Tasks of the studies; their files are in the data folder (experiments/README.md)."""

from experiments.study import Task


def _task(name: str, recipe: str, suffix: str, dev: str = "dev") -> Task:
    """Returns the task of a folder with files `train` and `dev`, or another name for the latter."""
    files = f"data.train={{data}}/{name}/train{suffix}", f"data.dev={{data}}/{name}/{dev}{suffix}"
    return Task(name=name, recipe=recipe, overrides=files)


SST2 = _task("sst2", "configs/finetune_sst2.py", ".tsv")
RTE = _task("rte", "configs/glue.py:rte", ".tsv")
COLA = _task("cola", "configs/glue.py:cola", ".tsv")
ENTITIES = _task("entities", "configs/finetune_tags.py", ".conll")
POSTS = _task("posts", "configs/finetune_tags.py", ".conll")
PARTS_OF_SPEECH = _task("pos", "configs/finetune_tags.py", ".conllu")
SQUAD = _task("squad", "configs/finetune_squad.py", ".json")
MNLI = _task("mnli", "configs/glue.py:mnli", ".tsv", dev="dev_matched")

"""A study so small that its runs take seconds, and the folder of its data."""

import pathlib
import textwrap

import pytest
from driver_fixtures import FINETUNE_RECIPE, PRETRAIN_RECIPE, write_task, write_text

STUDY = '''
"""Do pairs matter to two layers?"""

from experiments.study import Published, Size, Study, Task, Variant

SMALL = Size(
    prepare=("--source=text:{data}/text.txt", "--tokenizer=train:sentencepiece:40",
             "--heldout_rate=0.1"),
    recipe="RECIPES/pretrain.py",
    finetune=("epochs=2",),
    seeds=2,
    minutes=5,
    cores=1,
)
STUDY = Study(
    base="pairs",
    variants=(
        Variant("pairs"),
        Variant("no_loss", pretrain=("data.objective=none",)),
        Variant("slow", finetune=("optimizer.learning_rate=1e-3",)),
    ),
    tasks=(
        Task(
            name="feel",
            recipe="RECIPES/finetune.py",
            overrides=("data.train={data}/train.tsv", "data.dev={data}/dev.tsv",
                       "data.text_column=words", "data.label_column=feel"),
        ),
    ),
    sizes={"cpu": SMALL},
    published=(
        Published(source="A paper, table 1", columns=("F1",), rows={"pairs": (88.5,)}),
    ),
)
'''


@pytest.fixture(scope="session")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The file of the study; its data are beside it, in `data`."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "data").mkdir()
    write_text(folder / "data" / "text.txt", 60)
    write_task(folder / "data" / "train.tsv", 42, seed=0)
    write_task(folder / "data" / "dev.tsv", 17, seed=1)
    (folder / "pretrain.py").write_text(PRETRAIN_RECIPE)
    (folder / "finetune.py").write_text(FINETUNE_RECIPE)
    path = folder / "small.py"
    path.write_text(textwrap.dedent(STUDY).lstrip().replace("RECIPES", str(folder)))
    return path

"""Names with characters that have a meaning elsewhere, through every driver."""

import json
import os
import pathlib
import shutil

import pytest

from tests.fixtures.drivers import Drivers, Run, finetune_flags, log_of

NAMES = ["a [1], b=2", "~{x}*?#'é\n:%41"]


@pytest.fixture(scope="module", params=NAMES)
def folder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    made = tmp_path_factory.mktemp("odd") / request.param
    made.mkdir()
    return made


def test_prepare_and_pretrain(
    folder: pathlib.Path, drivers: Drivers, text: pathlib.Path, pretrain_flags: list[str]
) -> None:
    shutil.copy(text, folder / "text, [a].txt")
    source = f"--source=text:{folder}/*.txt"
    flags = ["--tokenizer=train:sentencepiece:40", "--heldout_rate=0.1"]
    flags += [f"--output={folder / 'corpus=1'}"]
    done = drivers.run("prepare", source, *flags)
    assert done.status == 0, done
    for look in ("verify", "describe"):
        assert drivers.run("prepare", f"--{look}={folder / 'corpus=1'}").status == 0
    recipe = shutil.copy(pretrain_flags[0].removeprefix("--config="), folder / "tiny:x.py")
    flags = [f"--config={recipe}", f"--config.data.corpus={folder / 'corpus=1'}"]
    flags += [f"--workdir={folder / 'run [1]'}"]
    stopped = drivers.run("pretrain", *flags, "--config.steps=4")
    assert stopped.status == 0, stopped
    assert drivers.run("pretrain", *flags, "--config.steps=4").out.endswith(
        "is finished: 4 steps\n"
    )
    filled = drivers.run("predict", f"--checkpoint={folder / 'run [1]'}", "--text=red [MASK]")
    assert filled.status == 0, filled


def test_fine_tune_evaluate_and_predict(
    folder: pathlib.Path, drivers: Drivers, task: pathlib.Path, pretrained: Run
) -> None:
    data = pathlib.Path(shutil.copytree(task, folder / "data, [1]"))
    again = f"--config.data.dev={task / 'dev.tsv'}"  # a second held-out file
    done = drivers.run("finetune", *finetune_flags(data, pretrained, folder / "task [1]"), again)
    assert done.status == 0, done
    assert {"dev_accuracy", "dev2_accuracy"} <= log_of(folder / "task [1]")[-1].keys()
    checkpoint = f"--checkpoint={folder / 'task [1]'}"
    done = drivers.run(
        "evaluate", checkpoint, f"--data={data / 'dev.tsv'}", f"--output={folder / 'out [1]'}"
    )
    assert done.status == 0, done
    scores = json.loads((folder / "out [1]/scores.json").read_text())
    assert scores["data"] == str(data / "dev.tsv")
    (folder / "lines [1].txt").write_text("red light\nblue wind\n")
    done = drivers.run("predict", checkpoint, f"--input={folder / 'lines [1].txt'}", "--json")
    assert done.status == 0 and len(done.out.splitlines()) == 2
    vectors = ["--features=mean", f"--output={folder / 'vectors [1].npy'}"]
    done = drivers.run("predict", checkpoint, f"--input={folder / 'lines [1].txt'}", *vectors)
    assert done.status == 0, done
    done = drivers.run(
        "inspection",
        str(pretrained[0]),
        str(folder / "task [1]"),
        f"--output={folder / 'plot [1].png'}",
    )
    assert done.status == 0 and (folder / "plot [1].png").stat().st_size > 1000
    left = {name for name in os.listdir(folder) if name.startswith(".")}
    assert not left

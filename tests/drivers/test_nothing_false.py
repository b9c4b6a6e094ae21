"""A run that learned nothing is no success, and no result has a number that is not finite."""

import json
import pathlib

import numpy as np
import pytest

from tests.fixtures.drivers import Drivers, finetune_flags


@pytest.mark.parametrize("steps", [1, 4])
def test_a_run_whose_every_step_was_skipped_saves_nothing(
    steps: int, drivers: Drivers, pretrain_flags: list[str], tmp_path: pathlib.Path
) -> None:
    done = drivers.run(
        "pretrain",
        *pretrain_flags,
        f"--workdir={tmp_path}",
        f"--config.steps={steps}",
        "--config.optimizer.warmup_steps=0",
        environment={"SICK_STEPS": "1,2,3,4"},
        patch="tests.fixtures.sick_steps",
    )
    assert done.status == 1 and not done.out
    message = done.err.splitlines()[-1]
    assert message.startswith(f"error: all {steps} steps had a loss or a gradient that is not")
    assert "nothing was learned" in message and "--config.debug=True" in message
    assert not (tmp_path / "checkpoints").exists() or not any((tmp_path / "checkpoints").iterdir())


def test_a_model_of_one_segment_reads_pairs(
    drivers: Drivers, pretrain_flags: list[str], task: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    flags = ["--config.encoder.segments=1", "--config.steps=4", "--config.debug=True"]
    run = tmp_path / "run"
    done = drivers.run("pretrain", *pretrain_flags, *flags, f"--workdir={run}")
    assert done.status == 0 and "not finite" not in done.err, done
    vectors = tmp_path / "vectors.npy"
    flags = [f"--checkpoint={run}", "--features=mean", f"--output={vectors}"]
    assert drivers.run("predict", *flags, stdin="red\tblue wind\nred\n").status == 0
    assert np.isfinite(np.load(vectors)).all()
    filled = drivers.run("predict", f"--checkpoint={run}", "--json", stdin="red [MASK]\tblue\n")
    assert filled.status == 0 and "pair" in json.loads(filled.out)

    for name in ("train", "dev"):
        rows = (task / f"{name}.tsv").read_text().splitlines()[1:]
        pairs = [f"{row}\tsun" for row in rows]
        (tmp_path / f"{name}.tsv").write_text("\n".join(["id\tfeel\twords\tother", *pairs]) + "\n")
    (tmp_path / "recipe.py").write_text((task / "recipe.py").read_text())
    flags = finetune_flags(tmp_path, (run, done), tmp_path / "task")
    done = drivers.run("finetune", *flags, "--config.data.text_pair_column=other")
    assert done.status == 0 and "skipped" not in done.err, done
    predicted = drivers.run(
        "predict", f"--checkpoint={tmp_path / 'task'}", "--json", stdin="red\tsun\n"
    )
    assert predicted.status == 0 and "NaN" not in predicted.out, predicted

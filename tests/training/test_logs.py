import json
import math
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.distributed.chips import Chip
from bert_jax.errors import UserError
from bert_jax.objectives.losses import Total
from bert_jax.training import logs, loss_watch
from bert_jax.training.logs import (
    LOG_FILE,
    STARTS_FILE,
    RunLog,
    StartClock,
    StepReports,
    divide,
    duration,
    pace,
    read_log,
)
from bert_jax.training.loss_watch import LossWatch


def totals(loss: float, weight: float = 1.0, tokens: float = 10.0) -> dict[str, Total]:
    one = jnp.float32(1)
    return {
        "loss": Total(jnp.float32(loss), jnp.float32(weight)),
        "tokens": Total(jnp.float32(tokens), one),
        "skipped": Total(jnp.float32(weight == 0), one),
    }


def open_log(workdir: pathlib.Path, first_step: int = 0) -> RunLog:
    return RunLog(workdir, first_step=first_step, steps=10)


def step_reports(log: RunLog, log_steps: int) -> StepReports:
    watch = LossWatch(lambda step: f"rows {step}", resumed=False)
    return StepReports(log, log_steps, np.arange(20.0), lambda step: 7.0, watch)


def test_sums_are_added_before_the_division() -> None:
    assert divide([totals(6.0, 3.0), totals(1.0, 1.0)])["loss"] == 7 / 4
    assert math.isnan(divide([totals(0.0, 0.0)])["loss"])


def test_reports_cover_every_step_once(tmp_path: pathlib.Path) -> None:
    log = open_log(tmp_path)
    reports = step_reports(log, 2)
    for step in range(1, 6):
        reports.add(step, totals(loss=step))
        if step == 3:
            with reports.paused("saving"):
                pass
    reports.flush()
    reports.flush()
    log.close()
    entries = read_log(tmp_path / LOG_FILE)
    assert [entry["step"] for entry in entries] == [2, 3, 4, 5]
    assert [entry["loss"] for entry in entries] == [1.5, 3, 4, 5]
    assert [entry["tokens"] for entry in entries] == [20, 10, 10, 10]
    assert all(entry["tokens_per_second"] > 0 for entry in entries)
    assert all(entry["memory_bytes"] > 1e6 for entry in entries)
    for entry in entries:
        # Eight devices; 7 operations for each token.
        speed = entry["tokens_per_second"]
        assert entry["tokens_per_second_per_device"] == pytest.approx(speed / 8)
        assert entry["model_flops_per_second"] == pytest.approx(7 * speed)
        assert ("saving_seconds" in entry) == (entry["step"] == 4)


def test_skipped_steps_are_named_and_too_many_in_a_row_end_the_run(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_watch, "MAX_SKIPPED_STEPS", 2)
    log = open_log(tmp_path)
    reports = step_reports(log, 3)
    losses = [1.0, None, 3.0, None, None, 6.0, None, None, None]
    for step, loss in enumerate(losses[:7], start=1):
        reports.add(step, totals(0.0, 0.0) if loss is None else totals(loss))
    for step in (8, 9):
        reports.add(step, totals(0.0, 0.0))
    with pytest.raises(
        UserError, match="the last 3 steps up to 9 had a loss or a gradient that is not"
    ):
        reports.flush()
    log.close()
    entries = read_log(tmp_path / LOG_FILE)
    assert [entry["loss"] for entry in entries] == [2, 6]  # means of the others
    assert [entry["skipped_steps"] for entry in entries] == [
        {"2": "rows 2"},
        {"4": "rows 4", "5": "rows 5"},
    ]
    told = "the loss or a gradient is not finite: step 4 (rows 4); step 5 (rows 5)"
    assert told in capsys.readouterr().err


def test_a_report_of_skipped_steps_alone_has_no_loss(tmp_path: pathlib.Path) -> None:
    log = open_log(tmp_path)
    reports = step_reports(log, 2)
    for step in (1, 2):
        reports.add(step, totals(0.0, 0.0))
    reports.flush()
    log.close()
    (entry,) = read_log(tmp_path / LOG_FILE)
    assert list(entry["skipped_steps"]) == ["1", "2"] and "loss" not in entry


@pytest.mark.parametrize(("loss", "is_told"), [(4.5, True), (3.2, False), (1.0, False)])
def test_a_sudden_rise_of_the_loss_is_told(loss: float, is_told: bool) -> None:
    watch, rng = LossWatch(lambda step: f"rows {step}", resumed=False), np.random.default_rng(0)
    before = [totals(3 + 0.1 * x) for x in rng.standard_normal(50)]
    assert watch.check(1, before) == ({}, [])
    values, lines = watch.check(51, [totals(loss), totals(3.0)])
    if is_told:
        assert values == {"loss_spikes": {"51": "loss 4.5000, rows 51"}}
        assert lines == ["the loss rose suddenly: step 51 (loss 4.5000, rows 51)"]
    else:
        assert not values and not lines


def test_utilisation_is_told_where_the_peak_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "mfu" not in pace(1e3, 1e15, 2.0)
    chip = Chip("a chip", flops=1e14, memory_bytes=1, memory_bandwidth=1, link_bandwidth=1)
    monkeypatch.setattr(logs, "find_chip", lambda kind: chip)
    assert pace(1e3, 1e15, 2.0)["mfu"] == pytest.approx(1e15 / 2 / (8 * 1e14))


def test_a_start_is_told_by_its_parts(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        clock = StartClock()
        clock.mark("imports")
        log = open_log(tmp_path, first_step=4)
        log.started(clock, jnp.zeros(3))
        log.close()
    first, second = (json.loads(line) for line in (tmp_path / STARTS_FILE).read_text().splitlines())
    assert first["step"] == 4 and first["devices"] == 8
    assert list(second["seconds"]) == ["imports", "first step"]
    assert "after the start: imports" in capsys.readouterr().err


def test_a_resumed_run_drops_what_it_will_do_again(tmp_path: pathlib.Path) -> None:
    log = open_log(tmp_path)
    for step in (1, 2, 3, 4):
        log.write(step, {"loss": step / 2, "name_note": "x"})
    log.close()
    path = tmp_path / LOG_FILE
    path.write_text(path.read_text() + '{"step": 5, "lo')  # torn by a crash
    log = open_log(tmp_path, first_step=2)
    log.write(3, {"loss": 9.0})
    log.close()
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(entry["step"], entry["loss"]) for entry in entries] == [(1, 0.5), (2, 1.0), (3, 9.0)]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59, "59 s"), (59.2, "1 min"), (3599, "59 min"), (3660, "1 h 01 min")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words

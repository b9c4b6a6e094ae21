"""Readers of the output may leave, the disk may be full, and the locale may be any."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.fixtures.drivers import ROOT, Run, prepare_flags


def run(
    driver: str, *flags: str, closed: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Runs a driver in a process of its own; the reader of its `closed` streams is gone."""
    reading, writing = os.pipe()
    os.close(reading)
    streams = {
        name: writing if name in closed else subprocess.PIPE for name in ("stdout", "stderr")
    }
    command = [sys.executable, "-m", f"bert_jax.{driver}", *flags]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, **streams)
    os.close(writing)
    out, err = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def test_a_closed_pipe_loses_no_results(finetuned: Run, tmp_path: pathlib.Path) -> None:
    output = tmp_path / "results"
    done = run("evaluate", f"--checkpoint={finetuned[0]}", f"--output={output}", closed=("stdout",))
    assert done.returncode == 0 and done.stderr == b""
    assert {"scores.json", "predictions.jsonl"} <= set(os.listdir(output))


def test_work_goes_on_without_readers(text: pathlib.Path, tmp_path: pathlib.Path) -> None:
    done = run("prepare", *prepare_flags(text, tmp_path / "new"), closed=("stdout", "stderr"))
    assert done.returncode == 0 and (tmp_path / "new/manifest.json").exists()


def test_answers_end_where_nobody_reads_them(pretrained: Run) -> None:
    flags = f"--checkpoint={pretrained[0]}", "--text=red [MASK]"
    done = run("predict", *flags, closed=("stdout",))
    assert done.returncode == 1 and done.stderr == b""


@pytest.mark.parametrize("flags", [("--help",), ("--show_config", "--config=pretrain_tiny")])
def test_a_full_disk_is_one_line(flags: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "bert_jax.pretrain", *flags]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        b"error: no space left for the output: free some or write elsewhere"
    ]


@pytest.mark.parametrize("locale", ["C", "POSIX", "de_DE.ISO-8859-1"])
def test_the_output_is_utf_8_in_every_locale(locale: str, tmp_path: pathlib.Path) -> None:
    missing = f"{tmp_path}/rün.py"
    environment = {"LC_ALL": locale, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = run("pretrain", f"--config={missing}", **environment)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert f"--config={missing} is no file".encode() in done.stderr


def test_a_name_that_is_not_utf_8_is_told_as_it_is(tmp_path: pathlib.Path) -> None:
    name = os.fsdecode(b"\xff.txt")
    done = run("prepare", f"--source=text:{tmp_path / name}", f"--output={tmp_path / 'new'}")
    assert done.returncode == 1 and b"\xff.txt matches no file" in done.stderr


def test_a_character_that_utf_8_cannot_hold_is_shown_as_an_escape(tmp_path: pathlib.Path) -> None:
    script = (
        "from bert_jax.cli.streams import open_streams; open_streams(); print('\\ud800 \\udcff')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True)
    assert done.stdout == b"\\ud800 \xff\n"


def test_work_goes_on_without_an_output(text: pathlib.Path, tmp_path: pathlib.Path) -> None:
    flags = prepare_flags(text, tmp_path / "new")
    command = [sys.executable, "-m", "bert_jax.prepare", *flags]
    done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command], cwd=ROOT, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "new/manifest.json").exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (
            ("predict", "--checkpoint={run}", "--input=nowhere.txt"),
            "nowhere.txt: No such file or directory; check the path",
        ),
        (("predict", "--checkpoint={run}", "--input={run}"), ": Is a directory; name a file"),
        (
            ("predict", "--checkpoint={run}", "--input={run}/config.json/a"),
            ": Not a directory; a part of the path is a file: name another",
        ),
    ],
)
def test_a_path_that_cannot_be_used_is_told_with_a_remedy(
    pretrained: Run, flags: tuple[str, ...], told: str
) -> None:
    driver, *rest = (flag.format(run=pretrained[0]) for flag in flags)
    done = run(driver, *rest)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert told in done.stderr.decode()

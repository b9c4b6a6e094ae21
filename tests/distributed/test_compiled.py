"""Where compiled programs are kept, and that a command finds those of the one before."""

import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Iterator

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from bert_jax.distributed import compiled
from tests.fixtures.drivers import ROOT, Run, finetune_flags


@pytest.fixture
def cache_dir() -> Iterator[None]:
    """Lets JAX have no cache during a test."""
    ours = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", ours)
    compilation_cache.reset_cache()


@pytest.mark.parametrize("asked", [False, True])
def test_a_run_keeps_its_programs_unless_the_environment_has_a_place(asked, tmp_path, cache_dir):
    elsewhere = str(tmp_path / "elsewhere") if asked else None
    jax.config.update("jax_compilation_cache_dir", elsewhere)
    compiled.keep_compiled(tmp_path / "run")
    expected = elsewhere or str(tmp_path / "run/compiled" / socket.gethostname())
    assert jax.config.jax_compilation_cache_dir == expected


def test_the_oldest_programs_of_commands_go_first(tmp_path, cache_dir, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiled, "_KEPT_BYTES", 25)
    folder = tmp_path / "bert_jax" / "compiled" / "host"
    folder.mkdir(parents=True)
    for age, name in enumerate(("new", "older", "oldest")):
        (folder / name).write_bytes(b"0123456789")
        os.utime(folder / name, (1e9 - age, 1e9 - age))
    compiled.keep_compiled_of_commands()
    assert sorted(path.name for path in folder.iterdir()) == ["new", "older"]
    place = folder.with_name(socket.gethostname())
    assert jax.config.jax_compilation_cache_dir == str(place)
    assert place.stat().st_mode & 0o077 == 0


def test_commands_keep_nothing_where_they_cannot(tmp_path, cache_dir, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    compiled.keep_compiled_of_commands()
    assert jax.config.jax_compilation_cache_dir is None


def run_command(caches: pathlib.Path, driver: str, *flags: str) -> tuple[str, dict[str, int]]:
    """Returns what a command prints, and the times of the programs that it leaves in `caches`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment |= {"XDG_CACHE_HOME": str(caches), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", f"bert_jax.{driver}", *flags],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and (driver == "finetune" or not done.stderr), done
    found = (caches / "bert_jax/compiled").glob("*/*-cache")
    return done.stdout, {path.name: path.stat().st_mtime_ns for path in found}


def test_the_second_command_compiles_nothing(pretrained: Run, tmp_path: pathlib.Path) -> None:
    flags = [f"--checkpoint={pretrained[0]}", "--text=the [MASK] sees"]
    printed, programs = zip(
        *(run_command(tmp_path, "predict", *flags) for _ in range(2)), strict=True
    )
    assert printed[0] == printed[1] and programs[0] == programs[1] != {}


def test_fine_tuning_into_another_directory_compiles_nothing(
    pretrained: Run, task: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    programs = []
    for name in ("one", "another"):
        workdir = tmp_path / name
        flags = finetune_flags(task, pretrained, workdir)
        programs.append(run_command(tmp_path, "finetune", *flags)[1])
        assert not (workdir / "compiled").exists()
    assert programs[0] == programs[1] != {}

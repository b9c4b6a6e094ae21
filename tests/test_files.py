"""Paths of users are data, and a result is whole or absent, wherever it is to be."""

import os
import pathlib
import shutil
import subprocess

import pytest

from bert_jax.data.pretraining.mixture import parse_mixture
from bert_jax.errors import UserError
from bert_jax.files import (
    check_new,
    given,
    given_path,
    locked_staging,
    matching,
    new_file,
    new_folder,
    path_list,
    write_atomically,
)

LONG = "n" * 255  # the longest name of most file systems


@pytest.fixture(autouse=True)
def inside(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The working directory, with a home of its own in it."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "there", "expected"),
    [
        ("~/a", False, "HOME/a"),
        ("~", False, "HOME"),
        ("~", True, "~"),
        ("~x.tsv", True, "~x.tsv"),
        ("~nobody-of-this-name/a", False, "~nobody-of-this-name/a"),
        ("a/~", False, "a/~"),
        ("$HOME", False, "$HOME"),
        ("%41", True, "%41"),
        ("gs://bucket/wiki", False, "gs://bucket/wiki"),
        (" a ", True, " a "),
    ],
)
def test_a_path_that_exists_is_taken_as_it_is(
    text: str, there: bool, expected: str, inside: pathlib.Path
) -> None:
    if there:
        pathlib.Path(text).touch()
    assert given(text) == expected.replace("HOME", str(inside / "home"), expected[:1] == "H")


def test_a_link_to_nothing_is_a_path_that_exists() -> None:
    os.symlink("nowhere", "~link")
    assert given_path("~link") == pathlib.Path("~link")


def test_nul_is_in_no_path() -> None:
    with pytest.raises(UserError, match=r"'a\\x00b' is no path: remove its NUL"):
        given_path("a\0b")


@pytest.mark.parametrize(
    ("pattern", "files", "expected"),
    [
        ("*.txt", ["a.txt", "b.txt", "c.tsv"], ["a.txt", "b.txt"]),
        ("[ab].txt", ["a.txt", "b.txt"], ["a.txt", "b.txt"]),
        ("[ab].txt", ["a.txt", "[ab].txt"], ["[ab].txt"]),
        ("x[1]/*.txt", ["x[1]/a.txt", "x1/b.txt"], ["x[1]/a.txt"]),
        ("x[1]/*.txt", ["x1/b.txt"], ["x1/b.txt"]),
        ("x*y/?.txt", ["x*y/a.txt", "xzy/b.txt"], ["x*y/a.txt"]),
        ("**/a.txt", ["a.txt", "x/a.txt", "x/[y]/a.txt"], ["a.txt", "x/a.txt", "x/[y]/a.txt"]),
        ("ABSOLUTE/x[1]/*", ["x[1]/a", "x1/b"], ["ABSOLUTE/x[1]/a"]),
        ("~/*.txt", ["home/a.txt"], ["HOME/a.txt"]),
        ("none*", [], []),
        ("none/x", [], []),
        ("/none/*", [], []),
    ],
)
def test_a_pattern_begins_after_the_folders_that_exist(
    pattern: str, files: list[str], expected: list[str], inside: pathlib.Path
) -> None:
    for name in files:
        pathlib.Path(name).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(name).touch()

    def absolute(text: str) -> str:
        return text.replace("ABSOLUTE", str(inside)).replace("HOME", str(inside / "home"))

    assert sorted(matching(absolute(pattern))) == sorted(map(absolute, expected))


@pytest.mark.parametrize(
    ("text", "files", "expected"),
    [
        ("a,b", [], ["a", "b"]),
        ("a, b ,", [], ["a", "b", ""]),
        ("", [], [""]),
        (",", [], ["", ""]),
        ("a,b", ["a,b"], ["a,b"]),
        ("a,b,c", ["a,b", "b,c"], ["a,b", "c"]),
        ("a,b,c", ["a,b", "a,b,c"], ["a,b,c"]),
        ("a,b,c", ["b,c"], ["a", "b,c"]),
        ("a\\,b,c", [], ["a,b", "c"]),
        ("a\\,b,c", ["a,b", "c"], ["a,b", "c"]),
        ("a\\,b", ["a\\,b"], ["a\\,b"]),
        (",", [","], [","]),
        (" a,b", [" a"], [" a", "b"]),
        ("~/x,y", ["home/x,y"], ["~/x,y"]),
        ("tfds:glue/sst2:train,x.tsv", [], ["tfds:glue/sst2:train", "x.tsv"]),
    ],
)
def test_a_list_is_not_cut_inside_a_path(text: str, files: list[str], expected: list[str]) -> None:
    for name in files:
        pathlib.Path(name).touch()
    assert path_list(text) == expected


@pytest.mark.parametrize(
    ("text", "folders", "expected"),
    [
        ("a=2,b=1", [], {"a": 2, "b": 1}),
        ("a=2", ["a=2"], {"a=2": 1}),
        ("a=2=3", ["a=2"], {"a=2": 3}),
        ("a,b=2,c=1", ["a,b", "c"], {"a,b": 2, "c": 1}),
        ("a,b=2,c=1", ["a,b=2,c"], {"a,b=2,c": 1}),
        ("a\\,b=2,c=1", [], {"a,b": 2, "c": 1}),
        ("~/a=1,b=2", [], {"HOME/a": 1, "b": 2}),
        ("gs://x/y=1,b=2", [], {"gs://x/y": 1, "b": 2}),
    ],
)
def test_a_mixture_is_not_cut_inside_a_directory(
    text: str, folders: list[str], expected: dict[str, float], inside: pathlib.Path
) -> None:
    for name in folders:
        pathlib.Path(name).mkdir()
    home = str(inside / "home")
    assert parse_mixture(text) == {n.replace("HOME", home): w for n, w in expected.items()}


PLACES = ["new", "a/b/new", LONG, "n[1]*", "-new", "é\n", "empty", "link", "link to nothing"]


def place(name: str) -> pathlib.Path:
    """Makes what is at a place before the result, and returns the place."""
    if name == "empty":
        pathlib.Path(name).mkdir()
    elif name == "link":
        pathlib.Path("elsewhere").mkdir()
        os.symlink("elsewhere", name)
    elif name == "link to nothing":
        os.symlink("elsewhere", name)
    return pathlib.Path(name)


@pytest.mark.parametrize("name", PLACES)
def test_a_folder_takes_its_place(name: str, inside: pathlib.Path) -> None:
    output = place(name)
    with new_folder(check_new(output, "output")) as made:
        (made / "inner").mkdir()
        (made / "file").write_text("x")
        assert not (output / "file").exists()
    assert sorted(os.listdir(output)) == ["file", "inner"]
    with pytest.raises(UserError, match="is there already: name a new or an empty directory"):
        check_new(output, "output")
    assert not list(inside.rglob("*partial*"))


@pytest.mark.parametrize("name", [name for name in PLACES if name not in ("empty", "link")])
def test_a_file_takes_its_place(name: str, inside: pathlib.Path) -> None:
    output = place(name)
    for text in ("old", "new"):
        with new_file(output) as made:
            made.write_text(text)
        assert output.read_text() == text
    assert output.is_symlink() == (name == "link to nothing")
    write_atomically(output, b"third")
    assert output.read_bytes() == b"third" and not list(inside.rglob("*partial*"))


@pytest.mark.parametrize("name", PLACES)
def test_after_an_error_all_is_as_before(name: str, inside: pathlib.Path) -> None:
    output = check_new(place(name), "output")
    before = sorted(inside.rglob("*"))
    with pytest.raises(ZeroDivisionError), new_folder(output) as made:
        (made / "half").touch()
        raise ZeroDivisionError
    assert sorted(inside.rglob("*")) == before


def test_a_place_where_an_attempt_was_killed_is_free(inside: pathlib.Path) -> None:
    (inside / "empty/.partial").mkdir(parents=True)
    (inside / "empty/.partial/half").touch()
    with new_folder(check_new(inside / "empty", "output")) as made:
        (made / "file").touch()
    assert os.listdir("empty") == ["file"]


def test_a_file_is_not_written_over_a_folder() -> None:
    pathlib.Path("folder").mkdir()
    with (
        pytest.raises(UserError, match="folder is a directory: name a file"),
        new_file(pathlib.Path("folder")),
    ):
        pass


def test_one_process_at_a_time(inside: pathlib.Path) -> None:
    with (
        locked_staging(inside / "new"),
        pytest.raises(UserError, match="another process is making .*/new: wait for it"),
        locked_staging(inside / "new"),
    ):
        pass


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="only root mounts")
def test_a_mounted_folder_takes_a_result(inside: pathlib.Path) -> None:
    (inside / "disk").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "none", "disk"], capture_output=True).returncode:
        pytest.skip("this machine mounts nothing")
    try:
        with new_folder(check_new(inside / "disk", "output")) as made:
            (made / "file").touch()
        assert os.listdir("disk") == ["file"]
    finally:
        subprocess.run(["umount", "disk"], check=True)

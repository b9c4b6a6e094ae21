"""The command `bert-jax`: lists the drivers, and runs one. `python -m bert_jax` is the same."""

import ast
import difflib
import pathlib
import runpy
import sys

import bert_jax

DRIVERS = (
    "prepare",
    "pretrain",
    "distill",
    "finetune",
    "finetune_sweep",
    "evaluate",
    "predict",
    "search",
    "mine",
    "convert",
    "plan",
    "inspection",
    "prepare_beam",
)


def overview() -> str:
    """Returns a line for each driver: its name, and the first line of its docstring."""
    lines = ["usage: bert-jax COMMAND [--FLAG=VALUE ...]", ""]
    folder = pathlib.Path(__file__).parent
    for name in DRIVERS:
        source = folder / f"{name}.py"
        source = source if source.exists() else folder / name / "__main__.py"
        docstring = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
        lines.append(f"  {name:16}{docstring.partition(chr(10))[0]}")
    return "\n".join([*lines, "", "bert-jax COMMAND --help lists the flags of a command."])


def main() -> None:
    """Runs the driver that the first argument names, with the arguments after it."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "help"):
        print(overview())
    elif name == "--version":
        print(bert_jax.__version__)
    elif name in DRIVERS:
        sys.argv = [f"bert-jax {name}", *arguments]
        runpy.run_module(f"bert_jax.{name}", run_name="__main__")
    else:
        nearest = difflib.get_close_matches(name, DRIVERS, n=1)
        meant = f"did you mean {nearest[0]}?" if nearest else "bert-jax alone lists the commands"
        sys.exit(f"error: there is no command {name!r}; {meant}")


if __name__ == "__main__":
    main()

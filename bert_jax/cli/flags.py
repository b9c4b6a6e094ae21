"""The flags that several drivers share, each defined once."""

from typing import Any

from absl import flags

from bert_jax.cli.recipes import Config
from bert_jax.config import (
    Launch,
    RootConfig,
    SearchOptions,
    Similarity,
    VectorPooling,
    validate,
)
from bert_jax.errors import UserError


class ConfigFlag(flags.Flag):
    """`--config`; `app.run` parses it and gives it its value.

    Attributes:
      config_types: the roots that the recipe may return.
      given: the fields that the command line named.
    """

    def __init__(self, *config_types: type[RootConfig]) -> None:
        """Has no value until `app.run` has read the recipe."""
        names = " or a ".join(each.__name__ for each in config_types)
        what = f"a recipe that returns a {names}: a name, or PATH.py, or either:WORD"
        super().__init__(flags.ArgumentParser(), None, "config", None, what)
        self.config_types = config_types
        self.given: frozenset[str] = frozenset()


def config_flag(*config_types: type[RootConfig]) -> flags.FlagHolder[Any]:
    """Defines `--config` and `--show_config`; read the first by `checked_config`."""
    flags.DEFINE_bool("show_config", False, "print the config with all overrides, and end")
    return flags.DEFINE_flag(ConfigFlag(*config_types))


def given_fields() -> frozenset[str]:
    """Returns the fields that the command line named, such as `encoder.width`."""
    flag = flags.FLAGS["config"]
    assert isinstance(flag, ConfigFlag)
    return flag.given


def checked_config(config: Any, config_type: type[Config]) -> Config:
    """Returns the value of `--config`, validated.

    Raises:
      UserError: if the flag was not given, or a value is impossible.
    """
    if not isinstance(config, config_type):  # a recipe's config was checked when it was read
        raise UserError("--config is not set: name a recipe, such as --config=pretrain_mini")
    validate(config)
    return config


def workdir_flag() -> flags.FlagHolder[str | None]:
    """Defines `--workdir`."""
    return flags.DEFINE_string(
        "workdir", None, "the directory of the run; a run that is there goes on"
    )


def replay_flag() -> flags.FlagHolder[int]:
    """Defines `--replay`, of a pretraining or distilling run."""
    return flags.DEFINE_integer(
        "replay", 0, "run to this step again and look for its first NaN; nothing is written"
    )


def checkpoint_flag(help: str) -> flags.FlagHolder[str | None]:
    """Defines `--checkpoint`, of a run or one of its steps."""
    return flags.DEFINE_string("checkpoint", None, f"{help}: a run, or RUN/checkpoints/STEP")


def batch_size_flag() -> flags.FlagHolder[int]:
    """Defines `--batch_size`, which changes speed and memory alone."""
    return flags.DEFINE_integer("batch_size", 32, "inputs at a time", lower_bound=1)


class LaunchFlags:
    """The flags by which a process finds the others of its run."""

    def __init__(self) -> None:
        """Defines `--coordinator`, `--processes` and `--process`."""
        self._coordinator = flags.DEFINE_string(
            "coordinator", "", "HOST:PORT of process 0, where JAX finds none"
        )
        self._processes = flags.DEFINE_string(
            "processes",
            "",
            "number of processes of the run; 'auto': ask JAX; '': auto on TPU pods and under"
            " SLURM, else 1",
        )
        self._process = flags.DEFINE_integer("process", -1, "number of this process, from 0")

    @property
    def value(self) -> Launch:
        """The values of the three flags."""
        return Launch(self._coordinator.value, self._processes.value, self._process.value)


class SearchFlags:
    """The flags of the vectors of a search, where they are not to be as the checkpoint has them."""

    def __init__(self) -> None:
        """Defines `--pooling`, `--similarity`, `--query_prompt`, `--text_prompt`, `--length`."""
        trained = "by default as task=vectors trained it, else"
        self._pooling = flags.DEFINE_enum(
            "pooling", None, [each.value for each in VectorPooling], f"of vectors; {trained} mean"
        )
        self._similarity = flags.DEFINE_enum(
            "similarity",
            None,
            [each.value for each in Similarity],
            f"that ranks texts; {trained} cosine",
        )
        self._query_prompt = flags.DEFINE_string(
            "query_prompt", None, f"words before each query; {trained} none"
        )
        self._text_prompt = flags.DEFINE_string(
            "text_prompt", None, f"words before each text that is searched; {trained} none"
        )
        self._length = flags.DEFINE_integer(
            "length",
            None,
            f"tokens that longer texts are cut to; {trained} all that the model has positions for",
            lower_bound=4,
        )

    @property
    def value(self) -> SearchOptions:
        """The values of the flags."""
        pooling, similarity = self._pooling.value, self._similarity.value
        return SearchOptions(
            VectorPooling(pooling) if pooling else None,
            Similarity(similarity) if similarity else None,
            self._query_prompt.value,
            self._text_prompt.value,
            self._length.value,
        )

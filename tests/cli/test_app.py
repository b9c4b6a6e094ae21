import pathlib

import pytest

from tests.fixtures.drivers import PRETRAIN_RECIPE, Drivers


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("recipes") / "recipe.py"
    path.write_text(PRETRAIN_RECIPE)
    return path


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "optimizer.learnin_rate=1",
            "no such field; did you mean --config.optimizer.learning_rate?",
        ),
        ("learning_rate=1", "no such field; did you mean --config.optimizer.learning_rate?"),
        ("encoder.layers.width=1", "no such field; did you mean --config.encoder.width?"),
        ("encoder.layers[0]=1", "no such field; did you mean --config.encoder.layers?"),
        ("phases=1", "phases is a list: write phases[0] and so on"),
        ("phases[0].length=64", "the recipe has 0 phases, counted from 0"),
        ("encoder=1", "is a group: set one of its fields (vocab_size, width, "),
        ("batch_size=1.5", "--config.batch_size=1.5: must be a whole number"),
        ("batch_size=", "--config.batch_size=: must be a whole number"),
        ("optimizer.beta1=much", "--config.optimizer.beta1=much: must be a number"),
        ("optimizer.bias_correction=2", "must be true or false"),
        ("encoder.norm=middle", "--config.encoder.norm=middle: choose one of post, pre"),
        (
            "encoder.heads=5",
            "heads=5 does not divide encoder.width=12: choose heads among [1, 2, 3",
        ),
        (
            "data.length=41",
            "data.length=41 is longer than the position table (encoder.max_length=40)",
        ),
        ("data.length=2", "--config.data.length=2 must be at least 8"),
        ("optimizer.warmup_steps=12", "warmup_steps=12 leaves no step to train"),
        ("optimizer.learning_rate=nan", "--config.optimizer.learning_rate=nan must be above 0"),
        ("optimizer.learning_rate=-1", "--config.optimizer.learning_rate=-1.0 must be above 0"),
        ("masking.rate=0", "--config.masking.rate=0.0 must be above 0"),
        ("masking.random_share=0.3", "add up to more than 1"),
        (
            "encoder.dropout_rate=1",
            "--config.encoder.dropout_rate=1.0 must be a rate from 0 to below 1",
        ),
        ("steps=0", "--config.steps=0 must be at least 1"),
        ("mesh.data=3", "data=3 x fsdp=1 x tensor=1 does not match 1 devices"),
        ("encoder.vocab_size=7", "--config.encoder.vocab_size=7 is less than the tokenizer's 40"),
    ],
)
def test_wrong_override_is_one_line(
    override: str, message: str, drivers: Drivers, pretrain_flags: list[str], tmp_path: pathlib.Path
) -> None:
    workdir = tmp_path / "run"
    flags = [*pretrain_flags, f"--workdir={workdir}", f"--config.{override}"]
    assert message in drivers.run("pretrain", *flags).error()
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def get_config(:", ", line 1: invalid syntax"),
        ("x = 1", "recipe.py defines no get_config(): add one"),
        (
            "def get_config():\n    pass",
            "recipe.py returns a NoneType, and this driver needs a Pre",
        ),
        (
            PRETRAIN_RECIPE.replace("Pretrain", "Finetune"),
            "line 5: TypeError: FinetuneConfig.__init__() got an unexp",
        ),
        (
            PRETRAIN_RECIPE.replace("layers", "layer"),
            "line 7: AttributeError: 'EncoderConfig' object",
        ),
        (
            PRETRAIN_RECIPE.replace("layers", "layer"),
            "has no attribute 'layer'; did you mean layers?",
        ),
        (
            PRETRAIN_RECIPE.replace("12, 2, 2", "'12', 2, 2"),
            "encoder.width='12' must be of type int",
        ),
        (
            PRETRAIN_RECIPE.replace("1e-3", "True"),
            "learning_rate=True must be of type float, not bool",
        ),
        ("def get_config():\n    return open('/nowhere/x')", "line 2: FileNotFoundError: "),
    ],
)
def test_wrong_recipe_is_one_line(
    content: str, message: str, drivers: Drivers, tmp_path: pathlib.Path
) -> None:
    recipe = tmp_path / "recipe.py"
    recipe.write_text(content)
    flags = [f"--config={recipe}", "--config.data.corpus=x", "--workdir=x"]
    assert message in drivers.run("pretrain", *flags).error()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--config is not set: name a recipe"),
        (["--config="], "--config= is no recipe: name a PATH.py, or one of continued, "),
        (["--config=configs"], "--config=configs is no recipe: name a PATH.py, or one of"),
        (["--config=pretrian_base"], "is no recipe; did you mean --config=pretrain_base?"),
        (["--config=configs/nope.py"], "--config=configs/nope.py is no file: name a PATH.py, or"),
        (["--config=configs/pretrian_base.py"], "did you mean --config=configs/pretrain_base.py?"),
        (["--config=nowhere/pretrain_base.py"], "is no file; did you mean --config=pretrain_base?"),
        (
            ["--config=configs/finetune_text.py"],
            "returns a FinetuneConfig, and this driver needs a",
        ),
        (
            ["--config=configs/pretrain_base.py"],
            "--config.data.corpus is not set: name a directory",
        ),
        (["--config=configs/pretrain_base.py", "--config.data.corpus=x"], "--workdir is not set"),
        (["--config.batch_size=1"], "--config.batch_size has no --config=RECIPE before it: name"),
        (["--workdr=x"], "unknown flag --workdr; did you mean --workdir?"),
        (["--confg=x"], "unknown flag --confg; did you mean --config?"),
        (["--zebra=x"], "unknown flag --zebra; --help lists them"),
        (["--show_config"], "--show_config needs a recipe, such as --config=pretrain_mini"),
        (["--workdir"], "Missing value for flag --workdir"),
        (["stray"], "unexpected argument 'stray': flags begin with --"),
        (
            ["--config=configs/pretrain_base.py", "--config.batch_size"],
            "--config.batch_size=: must be a whole number",
        ),
    ],
)
def test_wrong_flags_are_one_line(flags: list[str], message: str, drivers: Drivers) -> None:
    assert message in drivers.run("pretrain", *flags).error()


def test_the_value_of_an_override_may_be_the_next_argument(
    drivers: Drivers, pretrain_flags: list[str]
) -> None:
    flags = [*pretrain_flags, "--config.encoder.heads", "5"]
    assert "heads=5 does not divide" in drivers.run("pretrain", *flags).error()


def test_batches_must_divide_among_devices(
    drivers: Drivers, pretrain_flags: list[str], tmp_path: pathlib.Path
) -> None:
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}
    flags = [*pretrain_flags, f"--workdir={tmp_path / 'run'}"]
    message = drivers.run("pretrain", *flags, environment=devices).error()
    assert (
        "batch_size=4 cannot be split over 3 groups of devices: choose a multiple of 3" in message
    )
    assert not (tmp_path / "run").exists()


def test_debug_shows_the_traceback(drivers: Drivers) -> None:
    result = drivers.run("pretrain", "--debug")
    assert result.status == 1
    assert "Traceback" in result.err and "UserError: --config is not set" in result.err

"""Eight simulated CPU devices, whatever the shell asks for, and what all tests share."""
# ruff: noqa: E402 (JAX reads the environment when it is imported)

import os
import signal

# What a shell says to JAX, XLA, TensorFlow and the drivers is not for the tests: a test of such a
# variable sets it.
_FOREIGN = ("JAX_", "XLA_", "LIBTPU_", "TPU_", "TF_", "TFDS_", "SLURM_", "OMPI_")
for name in [name for name in os.environ if name.startswith(_FOREIGN)]:
    del os.environ[name]
os.environ["JAX_PLATFORMS"] = "cpu"
# The programs are many and tiny: compiling them takes longer than running them.
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"

import jax
import pytest

from bert_jax.config import EncoderConfig
from tests.fixtures import compiled

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
compiled.use(compiled.cache_folder())
compiled.lend(compiled.cache_folder())
# A shell's background jobs ignore ctrl-C, and so would the drivers that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.fixtures.drivers", "tests.fixtures.studies", "tests.fixtures.slurm"]


def pytest_sessionstart(session: pytest.Session) -> None:
    """Keeps the cache small, in the process that has the workers."""
    if not hasattr(session.config, "workerinput"):
        compiled.prune(compiled.cache_folder())


@pytest.fixture(scope="session")
def tiny_encoder() -> EncoderConfig:
    """An encoder so shaped that hardly a transposed axis can pass; with B=16, T=14, C=3, N=2.

    It divides every mesh of eight devices that the tests use.
    """
    return EncoderConfig(vocab_size=60, width=24, layers=2, heads=4, mlp_width=40, max_length=18)

"""Eight fake CPU devices, and what all tests share."""

import os
import signal

os.environ["JAX_PLATFORMS"] = "cpu"
# The programs are many and tiny: compiling them takes longer than running them.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"

import jax
import pytest

from bert_jax.config import EncoderConfig

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# A shell's background jobs ignore ctrl-C, and so would the drivers that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.fixtures.drivers", "tests.fixtures.studies", "tests.fixtures.slurm"]


@pytest.fixture(scope="session")
def tiny_encoder() -> EncoderConfig:
    """An encoder so shaped that hardly a transposed axis can pass; with B=16, T=14, C=3, N=2.

    It divides every mesh of eight devices that the tests use.
    """
    return EncoderConfig(vocab_size=60, width=24, layers=2, heads=4, mlp_width=40, max_length=18)

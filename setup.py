"""The packages of the wheel; all else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["bert_jax", "bert_jax.*"]), "bert_jax_configs"],
    package_dir={"bert_jax_configs": "configs"},  # `configs` is a name that others may install
)

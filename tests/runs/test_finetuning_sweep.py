"""The config of a sweep."""

from bert_jax.config import FinetuneConfig
from bert_jax.runs.finetuning_sweep import sweep_config


def test_rates_are_kept_to_the_last_digit() -> None:
    made = sweep_config(FinetuneConfig(), "1.23456789e-5,1.23456788e-5")
    assert made.learning_rates == "1.23456789e-05,1.23456788e-05"
    assert made.optimizer.learning_rate == 1.23456789e-5

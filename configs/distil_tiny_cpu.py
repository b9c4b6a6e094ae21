"""Two layers of width 128 from a teacher of four, on two CPU cores."""

import distil_mini_cpu
import pretrain_modern_tiny
from bert_jax.config import DistillConfig


def get_config() -> DistillConfig:
    """Differs from mini in its size, its schedule and its optimizer."""
    return distil_mini_cpu.distilling(pretrain_modern_tiny.get_config())

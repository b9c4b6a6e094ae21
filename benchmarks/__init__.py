"""Measurements: ratios of two programs in one run. Tests measure no time."""

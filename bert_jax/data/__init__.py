"""Documents in, batches out. NumPy only: nothing here imports jax (`loader` imports Grain, which does)."""

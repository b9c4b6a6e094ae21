"""Documents in, batches out. NumPy only: nothing here imports jax, but `loader`, through Grain."""

"""Recipes: each file returns the config of a run; installed as `bert_jax_configs`."""

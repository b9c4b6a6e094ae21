"""The command line: flags, recipes, help texts and one-line errors, for all drivers.

In: `sys.argv`. Out: the flags' values and a config (`bert_jax/config.py`), or a `UserError`.
Nothing here imports jax. Read `app` first.
"""

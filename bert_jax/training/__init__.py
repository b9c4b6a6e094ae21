"""Training: a state and batches in, a trained state and a log out.

Read `step.py` first: one update, from the masked batch to the next state. `state.py` has what a
step changes and what it takes, `optimizer.py` the rule, `loop.py` the loop, `logs.py` its reports;
`loss_watch.py` looks for skipped steps and spikes, and `debugging.py` finds what made a NaN.
"""

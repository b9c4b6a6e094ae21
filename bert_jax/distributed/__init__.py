"""Devices, hosts and processes of a run.

`sharding.py` makes the mesh (data, fsdp, tensor), gives each parameter its sharding, and turns the
rows of a host, [rows, ...], into global arrays, [B, ...]. `processes.py` starts a run of several
processes, which meet over the sockets of `rendezvous.py`, and stops them together. `chips.py` has
the peak figures of accelerators.

Read first: `sharding.py`.
"""

"""Quickstart, sweeps over the runs of a study, and the backends that they run on."""

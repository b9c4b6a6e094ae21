"""Where runs go: on this machine first."""

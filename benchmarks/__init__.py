"""The programs of `make bench`: each compares this project with a peer or a limit in one run."""

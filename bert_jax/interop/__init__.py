"""Models of other libraries: transformers' directories, both ways, and Google's TF1 checkpoints."""

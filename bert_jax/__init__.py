"""bert_jax: pretrain BERT-style encoders in JAX, then fine-tune them with a swapped head."""

import signal
import sys
import time

__version__ = "0.1.0"
STARTED = time.monotonic()  # about when the process began: a driver imports this first

# While Python looks for the module of `python -m bert_jax.DRIVER`, argv[0] is "-m". The driver's
# imports, which follow, take seconds; ctrl-C ends them without a traceback. `cli.run` takes over.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

"""bert_jax: pretrain BERT-style encoders in JAX, then fine-tune them with a swapped head.

The drivers are modules of this package; in a notebook or script, `load` opens what they made:

    model = bert_jax.load("runs/base")
    model.fill_mask("the capital of france is [MASK] .")
"""

import os
import time
import typing

if typing.TYPE_CHECKING:
    from bert_jax.inspection.loaded import LoadedModel

__version__ = "0.1.0"
STARTED = time.monotonic()  # about when the process began: drivers import this first


def load(path: "str | os.PathLike[str]") -> "LoadedModel":
    """Loads a trained model: pretrained, fine-tuned or imported.

        bert_jax.load("runs/base").fill_mask("the capital of france is [MASK] .")
        bert_jax.load("runs/sst2").predict("this teddy bear is so cute.")

    Args:
      path: a run (its best or newest checkpoint), or one of its checkpoints/STEP.

    Raises:
      bert_jax.errors.UserError: if there is no checkpoint, or it is damaged.
    """
    from bert_jax.inspection.loaded import LoadedModel  # imports jax, which takes seconds
    from bert_jax.inspection.stored import open_checkpoint

    return LoadedModel(open_checkpoint(path))

"""transformers at work on a directory: what it loads, and what its models and tokenizers return."""

import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from bert_jax.config import EncoderConfig, from_dict
from bert_jax.errors import UserError
from bert_jax.interop import verify
from bert_jax.interop.architectures import (
    ENCODER,
    MASKED_LM,
    PRETRAINING,
    SPANS,
    Model,
    architecture_of,
)
from bert_jax.interop.json_files import read_json
from bert_jax.interop.verify import Batch, Outputs
from bert_jax.text.tokenizer import tokenizer_from_dict

LIBRARIES = ("torch", "transformers")


class Loaded(NamedTuple):
    """A model of transformers."""

    run: Callable[[Batch], Outputs]
    missing: list[str]  # tensors that the model needs and the file has not
    unexpected: list[str]  # and the other way round


def load_model(
    directory: pathlib.Path, architecture: str, *, pooler: bool, dtype: str = "float32"
) -> Loaded:
    """Loads a directory, without dropout.

    Args:
      directory: with config.json and weights.
      architecture: the name of the class.
      pooler: whether an encoder by itself has one.
      dtype: to compute in.
    """
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    options: dict[str, Any] = {"attn_implementation": "eager", "dtype": getattr(torch, dtype)}
    if architecture == ENCODER:
        options["add_pooling_layer"] = pooler
    model, info = getattr(transformers, architecture).from_pretrained(
        directory, output_loading_info=True, local_files_only=True, **options
    )
    model.eval()

    def run(batch: Batch) -> Outputs:
        inputs = {
            "input_ids": batch["token_ids"],
            "attention_mask": (batch["example_ids"] > 0).astype(np.int32),
            "token_type_ids": batch["segment_ids"],
        }
        with torch.no_grad():
            out = model(**{name: torch.from_numpy(x).long() for name, x in inputs.items()})
        return {name: x.numpy() for name, x in _named_outputs(out, architecture).items()}

    return Loaded(run, sorted(info["missing_keys"]), sorted(info["unexpected_keys"]))


def _named_outputs(out: Any, architecture: str) -> dict[str, Any]:
    """Names their outputs as `verify.our_outputs` does."""
    if architecture == PRETRAINING:
        return {"mlm": out.prediction_logits, "sentence": out.seq_relationship_logits}
    if architecture == MASKED_LM:
        return {"mlm": out.logits}
    if architecture == SPANS:
        import torch

        return {"logits": torch.stack([out.start_logits, out.end_logits], dim=-1)}
    if architecture == ENCODER:
        pooled = {} if out.pooler_output is None else {"pooled": out.pooler_output}
        return {"hidden": out.last_hidden_state, **pooled}
    return {"logits": out.logits}


def load_tokenizer(directory: pathlib.Path) -> Any:
    """Loads the tokenizer of a directory."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    # The oldest configs do not say what they are, and only BERT's own class will take them.
    named = "model_type" in read_json(directory / "config.json")
    load = transformers.AutoTokenizer if named else transformers.BertTokenizer
    return load.from_pretrained(directory, local_files_only=True)


def prove(
    model: Model, directory: pathlib.Path, sentences: Sequence[str], *, exported: bool
) -> Iterator[str]:
    """Runs both sides on the same sentences, and yields how far apart they are.

    Args:
      model: of this side, as it was written or read.
      directory: of the other.
      sentences: to compare on.
      exported: whether the directory was written here; then it must fit to the letter.

    Raises:
      UserError: if they are different models, or tokenizers.
    """
    if not verify.is_installed(*LIBRARIES):
        yield f"not verified: {' and '.join(LIBRARIES)} are not both installed"
        return
    loaded = load_model(directory, architecture_of(model.metadata), pooler="pooler" in model.params)
    if exported and (loaded.missing or loaded.unexpected):
        raise UserError(
            f"transformers does not find {loaded.missing} and has no place for"
            f" {loaded.unexpected}: nothing was written"
        )
    tokenizer = tokenizer_from_dict(model.metadata["tokenizer"])
    encoder = from_dict(EncoderConfig, model.metadata["encoder"])
    batch = verify.make_rows(tokenizer, encoder, sentences)
    for difference in verify.compare(verify.our_outputs(model, batch), loaded.run(batch), batch):
        yield f"verified against transformers, {difference}"
    their_tokenizer = load_tokenizer(directory)

    def encode(text: str) -> list[int]:
        return their_tokenizer(text, add_special_tokens=False)["input_ids"]

    yield verify.check_ids(tokenizer, encode, sentences)

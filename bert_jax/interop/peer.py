"""Models and tokenizers of transformers, loaded from a directory and run."""

import contextlib
import inspect
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from bert_jax.config import EncoderConfig, from_dict
from bert_jax.errors import UserError
from bert_jax.files import read_json
from bert_jax.interop import verify
from bert_jax.interop.architectures import Model, family_of, head_of
from bert_jax.interop.families.family import Family, Head
from bert_jax.interop.tokenizers.huggingface_tokenizer import (
    has_tokenizer,
    is_class_followed,
    unstated_settings,
)
from bert_jax.interop.verify import InputRows, ModelOutputs
from bert_jax.text.library import LIBRARY_FILE
from bert_jax.text.tokenizer import LibraryTokenizer, Tokenizer, tokenizer_from_dict

LIBRARIES = ("torch", "transformers")


class Loaded(NamedTuple):
    """A model of transformers."""

    run: Callable[[InputRows], ModelOutputs]
    missing: list[str]  # tensors that the model needs and the file lacks
    unexpected: list[str]  # tensors in the file that the model does not use


def load_model(
    directory: pathlib.Path, family: Family, head: Head, *, pooler: bool, dtype: str = "float32"
) -> Loaded:
    """Loads a model of transformers in evaluation mode.

    Args:
      directory: with config.json and weights.
      family: of the model.
      head: on it.
      pooler: True if an encoder without a head has a pooler.
      dtype: of the computation.
    """
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # "eager" gives NaN where all tokens in a window are padding.
    options: dict[str, Any] = {"attn_implementation": "sdpa", "dtype": getattr(torch, dtype)}
    make = getattr(transformers, family.architecture(head))
    if "add_pooling_layer" in inspect.signature(make).parameters:
        options["add_pooling_layer"] = pooler
    model, info = make.from_pretrained(
        directory, output_loading_info=True, local_files_only=True, **options
    )
    model.eval()

    def run(batch: InputRows) -> ModelOutputs:
        inputs = {
            "input_ids": batch["token_ids"],
            "attention_mask": (batch["example_ids"] > 0).astype(np.int32),
        }
        if "token_type_ids" in inspect.signature(model.forward).parameters:
            inputs["token_type_ids"] = batch["segment_ids"]
        with torch.no_grad():
            out = model(**{name: torch.from_numpy(x).long() for name, x in inputs.items()})
        return {name: x.numpy() for name, x in _named_outputs(out, head).items()}

    return Loaded(run, sorted(info["missing_keys"]), sorted(info["unexpected_keys"]))


def _named_outputs(out: Any, head: Head) -> dict[str, Any]:
    """Returns the outputs of transformers under the names of `verify.our_outputs`."""
    if head is Head.PRETRAINING:
        return {"mlm": out.prediction_logits, "sentence": out.seq_relationship_logits}
    if head is Head.MASKED_LM:
        return {"mlm": out.logits}
    if head is Head.SPANS:
        import torch

        return {"logits": torch.stack([out.start_logits, out.end_logits], dim=-1)}
    if head is Head.ENCODER:
        pooled = {"pooled": out.pooler_output} if out.get("pooler_output") is not None else {}
        return {"hidden": out.last_hidden_state, **pooled}
    return {"logits": out.logits}


def load_peer_tokenizer(directory: pathlib.Path, tokenizer: Tokenizer, *, exported: bool) -> Any:
    """Loads the tokenizer of a directory by transformers.

    What the directory does not say about it, such as whether it is cased, is as in ours. It is the
    tokenizer that AutoTokenizer opens; but where a tokenizer.json has other steps than its class
    would build, as a note has told, the file is taken as it is.
    """
    import transformers

    transformers.utils.logging.set_verbosity_error()
    has_file = (directory / LIBRARY_FILE).is_file()
    if isinstance(tokenizer, LibraryTokenizer) and has_file and not exported:
        if not is_class_followed(directory, tokenizer):
            return transformers.PreTrainedTokenizerFast.from_pretrained(directory)
    # The oldest configs have no model_type, and only BERT's own class loads them.
    named = "model_type" in read_json(directory / "config.json")
    load = transformers.AutoTokenizer if named else transformers.BertTokenizer
    settings = unstated_settings(directory, tokenizer)
    return load.from_pretrained(directory, local_files_only=True, **settings)


@contextlib.contextmanager
def _told_in_one_line(directory: pathlib.Path) -> Iterator[None]:
    """Tells an error of transformers, which may be of any type, as one of the directory."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{directory}: transformers ends with {type(error).__name__} ({reason}): correct the"
            " files, or add --noverify to convert without the comparison"
        ) from error


def compare_with_transformers(
    model: Model, directory: pathlib.Path, sentences: Sequence[str], *, exported: bool
) -> Iterator[str]:
    """Runs our model and that of transformers on the same sentences.

    Args:
      model: ours.
      directory: of transformers.
      sentences: to compare on.
      exported: True if this project wrote the directory; transformers must then find every tensor
        and no other.

    Yields:
      Lines for the log with the differences, or one line if transformers is not installed.

    Raises:
      UserError: if the models or the tokenizers differ, or transformers cannot read them.
    """
    if not verify.is_installed(*LIBRARIES):
        yield f"not verified: {' and '.join(LIBRARIES)} are not both installed"
        return
    with _told_in_one_line(directory):
        family, head = family_of(model.metadata), head_of(model.metadata)
        loaded = load_model(directory, family, head, pooler="pooler" in model.params)
    if exported and (loaded.missing or loaded.unexpected):
        raise UserError(
            f"transformers misses the tensors {loaded.missing} and does not use"
            f" {loaded.unexpected}: nothing was written; use the version of transformers in"
            " pyproject.toml"
        )
    tokenizer = tokenizer_from_dict(model.metadata["tokenizer"])
    encoder = from_dict(EncoderConfig, model.metadata["encoder"])
    batch = verify.make_input_rows(tokenizer, encoder, sentences)
    with _told_in_one_line(directory):
        theirs = loaded.run(batch)
    for difference in verify.compare(verify.our_outputs(model, batch), theirs, batch):
        yield f"verified against transformers, {difference}"
    if not has_tokenizer(directory):
        yield f"token ids: not compared, for {directory} has no tokenizer"
        return
    with _told_in_one_line(directory):
        their_tokenizer = load_peer_tokenizer(directory, tokenizer, exported=exported)

    def encode(*texts: str, **options: Any) -> Any:
        with _told_in_one_line(directory):
            return their_tokenizer(*texts, **options)

    def encode_alone(text: str) -> list[int]:
        return encode(text, add_special_tokens=False)["input_ids"]

    with_added = [*sentences, *verify.with_added_tokens(tokenizer, sentences[0])]
    yield verify.compare_token_ids(tokenizer, encode_alone, with_added)
    yield verify.compare_frames(tokenizer, encode, segments=encoder.segments > 1)

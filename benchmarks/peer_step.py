"""The pretraining step of transformers, as a program that takes turns (`turns.py`).

    python -m benchmarks.peer_step --size=base --batch=8 --length=128

It is `BertForPreTraining`, or `ModernBertForMaskedLM` with logits of the masked tokens alone, as
their users train them: fused AdamW with clipping, PyTorch's `scaled_dot_product_attention`, and
padded rows with an attention mask. `bench` adds --compile on a GPU.
"""

import itertools
import time
from typing import Any

import numpy as np
import torch
from absl import app, flags
from transformers import BertForPreTraining, ModernBertConfig, ModernBertForMaskedLM

from benchmarks.commands.their_models import bert_config
from benchmarks.sizes import SIZES, VOCAB, Family, modern_encoder_of
from benchmarks.turns import Figures, peak_bytes, serve

_FAMILY = flags.DEFINE_enum_class("family", Family.BERT, Family, "of the model")
_SIZE = flags.DEFINE_enum("size", "base", list(SIZES), "the model")
_BATCH = flags.DEFINE_integer("batch", 8, "rows")
_LENGTH = flags.DEFINE_integer("length", 128, "tokens in a row")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "bfloat16: autocast")
_COMPILE = flags.DEFINE_bool("compile", False, "use torch.compile")
_DROPOUT = flags.DEFINE_bool("dropout", True, "as published")
_ATTENTION_DROPOUT = flags.DEFINE_bool("attention_dropout", True, "as published")
_BATCHES = flags.DEFINE_string("batches", "", "an .npz of padded examples; '': full rows")

_MASKED_SHARE = {Family.BERT: 0.15, Family.MODERN: 0.3}
_IGNORED = -100  # a label that the loss leaves out
_SPECIAL = ("pad", "cls", "sep", "bos", "eos")  # its default ids are above our vocabulary
_WARM_UP = 2

Inputs = dict[str, torch.Tensor]


def full_rows(generator: torch.Generator) -> Inputs:
    """Returns random rows without padding, as in `our_step`."""
    shape = (_BATCH.value, _LENGTH.value)
    ids = torch.randint(5, VOCAB, shape, generator=generator)
    if _FAMILY.value is Family.MODERN:
        return {"input_ids": ids}
    types = (torch.arange(_LENGTH.value) >= _LENGTH.value // 2).long().expand(shape)
    labels = torch.randint(0, 2, (_BATCH.value,), generator=generator)
    return {"input_ids": ids, "token_type_ids": types.contiguous(), "next_sentence_label": labels}


def read_batches(path: str) -> list[Inputs]:
    """Reads the batches of `real_text`, whose arrays are named `field.number`."""
    with np.load(path) as file:
        count = len({name.rsplit(".", 1)[1] for name in file.files})
        return [
            {
                name.rsplit(".", 1)[0]: torch.from_numpy(file[name])
                for name in file.files
                if name.endswith(f".{number}")
            }
            for number in range(count)
        ]


def _bert() -> Any:
    config = bert_config(
        _SIZE.value,
        VOCAB,
        hidden_dropout_prob=0.1 if _DROPOUT.value else 0.0,
        attention_probs_dropout_prob=(0.1 if _DROPOUT.value and _ATTENTION_DROPOUT.value else 0.0),
        max_position_embeddings=max(512, _LENGTH.value),
    )
    return BertForPreTraining(config)


def _modern_bert() -> Any:
    ours = modern_encoder_of(_SIZE.value, length=_LENGTH.value)
    special: Any = {f"{name}_token_id": number for number, name in enumerate(_SPECIAL)}
    config: Any = ModernBertConfig(
        vocab_size=VOCAB,
        hidden_size=ours.width,
        num_hidden_layers=ours.layers,
        num_attention_heads=ours.heads,
        intermediate_size=ours.mlp_width,
        max_position_embeddings=_LENGTH.value,
        sparse_prediction=True,
        **special,
    )
    return ModernBertForMaskedLM(config)


class Step:
    """The step, its batches and its model."""

    def __init__(self) -> None:
        """Builds the model and warms up."""
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        model = _modern_bert() if _FAMILY.value is Family.MODERN else _bert()
        self._model = model.to(self._device).train()
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(), lr=1e-4, weight_decay=0.01, fused=True
        )
        self._run = torch.compile(self._model) if _COMPILE.value else self._model
        batches = read_batches(_BATCHES.value) if _BATCHES.value else [full_rows(generator)]
        self._batches = itertools.cycle([self._prepared(batch, generator) for batch in batches])
        for _ in range(max(_WARM_UP, len(batches) if _COMPILE.value else 0)):
            self.turn()

    def _prepared(self, batch: Inputs, generator: torch.Generator) -> tuple[Inputs, int]:
        ids, mask = batch["input_ids"], batch.get("attention_mask")
        chosen = torch.rand(ids.shape, generator=generator) < _MASKED_SHARE[_FAMILY.value]
        if mask is not None:
            chosen &= mask > 0
        labels = torch.where(chosen, ids, _IGNORED)
        tokens = int(mask.sum()) if mask is not None else ids.numel()
        on_device = {name: field.to(self._device) for name, field in batch.items()}
        return on_device | {"labels": labels.to(self._device)}, tokens

    def turn(self) -> Figures:
        """Takes a step and returns its seconds and rate."""
        batch, tokens = next(self._batches)
        begin = time.perf_counter()
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self._device, torch.bfloat16, enabled=_DTYPE.value == "bfloat16"):
            loss = self._run(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        loss.item()
        if self._device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "tokens_per_second": tokens / seconds}

    def at_end(self) -> Figures:
        """Returns the peak memory in bytes."""
        if self._device == "cuda":
            return {"peak_bytes": torch.cuda.max_memory_allocated()}
        return {"peak_bytes": peak_bytes()}


def main(_: list[str]) -> None:
    """Serves turns."""
    step = Step()
    serve(step.turn, step.at_end)


if __name__ == "__main__":
    app.run(main)

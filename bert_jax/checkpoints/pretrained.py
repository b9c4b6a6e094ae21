"""Pretrained models, restored and ready to run: the encoder, or the masked language model."""

import dataclasses
import pathlib
from typing import Any

import jax
from jax.sharding import Mesh

from bert_jax.checkpoints.checkpoint import restore_groups
from bert_jax.config import (
    EncoderConfig,
    FinetuneConfig,
    MeshConfig,
    SentenceObjective,
    TaskKind,
    VectorPooling,
    VectorsConfig,
    from_dict,
)
from bert_jax.distributed.sharding import make_mesh
from bert_jax.errors import UserError
from bert_jax.model.encoder import Encoder
from bert_jax.model.heads import PretrainingModel
from bert_jax.objectives.losses import Params
from bert_jax.text.tokenizer import Tokenizer, tokenizer_from_dict
from bert_jax.training.state import abstract_params


@dataclasses.dataclass(frozen=True)
class TrainedEncoder:
    """The encoder of any checkpoint, pretrained or fine-tuned.

    Attributes:
      config: of the encoder.
      tokenizer: of the pretraining corpus.
      params: of `model.Encoder`.
    """

    config: EncoderConfig
    tokenizer: Tokenizer
    params: Params


@dataclasses.dataclass(frozen=True)
class MaskedLM:
    """The model of a pretraining checkpoint.

    Attributes:
      model: encoder and heads.
      tokenizer: of the pretraining corpus.
      params: of `model`.
    """

    model: PretrainingModel
    tokenizer: Tokenizer
    params: Params

    def token_logits(self, logits: jax.Array) -> jax.Array:
        """Returns logits without the columns that stand for no token of the tokenizer.

        The embedding table may have more rows than the vocabulary has tokens.

        Args:
          logits: [..., V] float, of the masked-LM head.

        Returns:
          [..., tokens] float.
        """
        return logits[..., : self.tokenizer.vocab_size]


def one_device() -> Mesh:
    """Returns a mesh of this host's first device, enough for a few texts."""
    return make_mesh(MeshConfig(data=1), devices=jax.local_devices()[:1])


def restore_encoder(
    checkpoint: pathlib.Path, metadata: dict[str, Any], mesh: Mesh
) -> TrainedEncoder:
    """Restores the encoder without any head.

    Args:
      checkpoint: CHECKPOINTS/STEP.
      metadata: from `read_metadata`.
      mesh: from `sharding.make_mesh`.

    Raises:
      UserError: if it is damaged.
    """
    config = from_dict(EncoderConfig, metadata["encoder"])
    abstract = {"encoder": abstract_params(Encoder(config), mesh)}
    params = restore_groups(checkpoint, abstract, abstract)["encoder"]
    return TrainedEncoder(config, tokenizer_from_dict(metadata["tokenizer"]), params)


def restore_masked_lm(checkpoint: pathlib.Path, metadata: dict[str, Any], mesh: Mesh) -> MaskedLM:
    """Restores encoder and heads of a pretraining checkpoint.

    Args:
      checkpoint: CHECKPOINTS/STEP.
      metadata: from `read_metadata`.
      mesh: from `sharding.make_mesh`.

    Raises:
      UserError: if it is damaged, or has no masked-LM head.
    """
    if metadata["kind"] != "pretraining":  # a head may have no parameters of its own
        raise UserError(
            f"{checkpoint} is of kind {metadata['kind']} and has no masked-LM head: name a"
            " pretraining run"
        )
    objective = SentenceObjective(metadata["config"]["data"]["objective"])
    model = PretrainingModel(from_dict(EncoderConfig, metadata["encoder"]), objective)
    abstract = abstract_params(model, mesh)
    params = restore_groups(checkpoint, abstract, abstract)
    return MaskedLM(model, tokenizer_from_dict(metadata["tokenizer"]), params)


def vector_settings(metadata: dict[str, Any]) -> VectorsConfig:
    """Returns how a checkpoint makes vectors: as task=vectors trained it, else by the plain mean.

    Args:
      metadata: of the checkpoint.
    """
    if metadata["kind"] == TaskKind.VECTORS.value:
        return from_dict(FinetuneConfig, metadata["config"]).vectors
    return VectorsConfig(pooling=VectorPooling.MEAN, normalised=False)


def trained_length(metadata: dict[str, Any]) -> int | None:
    """Returns the tokens that task=vectors cut texts to; None for another checkpoint."""
    if metadata["kind"] != TaskKind.VECTORS.value:
        return None
    return from_dict(FinetuneConfig, metadata["config"]).data.length

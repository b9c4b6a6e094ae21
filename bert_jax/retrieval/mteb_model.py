"""A checkpoint as a model of the library mteb, which scores vectors by many published tasks.

    mteb.evaluate(MtebModel("runs/vectors"), mteb.get_tasks(["STSBenchmark"]))

The library downloads the data of its tasks.
"""

import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from bert_jax.checkpoints.checkpoint import find_checkpoint, read_metadata
from bert_jax.checkpoints.fingerprint import json_digest
from bert_jax.checkpoints.pretrained import one_device
from bert_jax.config import SearchOptions, to_dict
from bert_jax.errors import UserError
from bert_jax.retrieval.search_encoder import SearchEncoder


class MtebModel:
    """Computes vectors as mteb asks for them (its `EncoderProtocol`).

    Queries and documents get the checkpoint's prompts. Texts that are neither, such as the pairs
    of STS, get none, as in the directory that `convert --to=sentence-transformers:DIR` writes. A
    text without a token, which published corpora have, has a vector of zeros: it is similar to
    nothing.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str],
        options: SearchOptions = SearchOptions(),
        *,
        batch_size: int = 32,
    ) -> None:
        """Restores the encoder of a run.

        Args:
          checkpoint: WORKDIR, or one step of it.
          options: what is not to be as it was trained.
          batch_size: texts at a time; sizes of mteb are not used.

        Raises:
          UserError: if mteb is missing, or there is no such checkpoint.
        """
        try:
            from mteb.models.model_meta import ModelMeta  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UserError(
                "MtebModel needs the library mteb: pip install 'bert_jax[mteb]'"
            ) from error
        found = find_checkpoint(pathlib.Path(checkpoint))
        metadata = read_metadata(found)
        self._encoder = SearchEncoder(
            found, one_device(), options, batch_size=batch_size, empty_texts=True
        )
        settings, length = self._encoder.settings, self._encoder.length
        # mteb finds kept scores by name and revision: another checkpoint has another revision.
        revision = json_digest(
            [metadata["fingerprints"]["params"], to_dict(settings), length, metadata["tokenizer"]]
        )
        self.mteb_model_meta = ModelMeta(
            loader=None,
            name=f"bert_jax/{pathlib.Path(checkpoint).resolve().name}",
            revision=revision,
            release_date=None,
            languages=None,
            n_parameters=self._encoder.parameters,
            memory_usage_mb=None,
            max_tokens=length,
            embed_dim=self._encoder.width,
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            framework=["JAX"],
            similarity_fn_name="cosine" if settings.normalised else "dot",
            use_instructions=bool(settings.query_prompt or settings.text_prompt),
            training_datasets=None,
        )

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **_: Any,
    ) -> np.ndarray:
        """Returns the vectors of texts, [n, D] float32.

        Args:
          inputs: batches, each with its texts in `text`.
          task_metadata: not used: texts have the same vectors in all tasks.
          hf_split: not used.
          hf_subset: not used.
          prompt_type: "query", "document", or None for texts that are neither.
        """
        del task_metadata, hf_split, hf_subset
        texts = [text for batch in inputs for text in batch["text"]]
        if prompt_type is None:
            return self._encoder.plain(texts)
        if prompt_type == "query":
            return self._encoder.queries(texts)
        return self._encoder.texts(texts)

    def similarity(self, embeddings1: np.ndarray, embeddings2: np.ndarray) -> np.ndarray:
        """Returns the similarity of each vector of one array to each of another.

        Args:
          embeddings1: [n, D], of `encode`.
          embeddings2: [m, D].

        Returns:
          [n, m]; cosines, if the vectors of this checkpoint are normalised.
        """
        return np.asarray(embeddings1) @ np.asarray(embeddings2).T

    def similarity_pairwise(self, embeddings1: np.ndarray, embeddings2: np.ndarray) -> np.ndarray:
        """Returns the similarity of each vector to that in the same place.

        Args:
          embeddings1: [n, D], of `encode`.
          embeddings2: [n, D].

        Returns:
          [n].
        """
        return np.einsum("nd,nd->n", embeddings1, embeddings2)

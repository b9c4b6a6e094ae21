"""The model of a teacher or a student: an encoder whose insides are read, and a head on it."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from bert_jax.config import EncoderConfig
from bert_jax.model.attention import AttentionFn, attention
from bert_jax.model.encoder import Batch, Encoder, Observed
from bert_jax.model.heads import MaskedLMHead
from bert_jax.model.layers import dense


class HiddenMaps(nn.Module):
    """Learned maps from the width of a student to that of its teacher (TinyBERT, section 3.1)."""

    config: EncoderConfig  # of the student
    width: int  # of the teacher

    @nn.compact
    def __call__(self, vectors: Sequence[jax.Array]) -> list[jax.Array]:
        """Maps each [B, T, D] to [B, T, `width`], with a matrix of its own."""
        axes = ("embed", "mapped")
        return [
            dense(self.config, self.width, axes, f"pair_{number}", use_bias=False)(x)
            for number, x in enumerate(vectors)
        ]


class ObservedModel(nn.Module):
    """Encoder, masked-LM head, and the maps of a student, each a group of parameters.

    Attributes:
      config: of the encoder.
      has_head: False: there is no masked-LM head.
      maps: number of hidden vectors that are mapped to a teacher's.
      mapped_width: of the teacher.
    """

    config: EncoderConfig
    has_head: bool = True
    maps: int = 0
    mapped_width: int = 0
    attend: AttentionFn = attention

    def setup(self) -> None:
        self.encoder = Encoder(self.config, self.attend)
        if self.has_head:
            self.mlm_head = MaskedLMHead(self.config)
        if self.maps:
            self.hidden_maps = HiddenMaps(self.config, self.mapped_width)

    def __call__(self, batch: Batch, *, deterministic: bool) -> jax.Array:
        """Returns the vectors of all tokens; its use is to make the parameters of all parts."""
        x = self.encoder(batch, deterministic=deterministic)
        if self.has_head:
            self.mlm_head(x, self.encoder.embeddings.tokens)
        if self.maps:
            self.map_hidden([x] * self.maps)
        return x

    def observe(
        self,
        batch: Batch,
        output_positions: jax.Array | None,
        *,
        deterministic: bool,
        hidden: Sequence[int] = (),
        heads_of: int | None = None,
    ) -> Observed:
        """Encodes the rows; see `Encoder.observe`."""
        return self.encoder.observe(
            batch, output_positions, deterministic=deterministic, hidden=hidden, heads_of=heads_of
        )

    def map_hidden(self, vectors: Sequence[jax.Array]) -> list[jax.Array]:
        """Maps hidden vectors to the width of the teacher; see `HiddenMaps`."""
        return self.hidden_maps(vectors)

"""How long a step takes by the peaks of a chip (Williams et al., 2009)."""

import dataclasses

from bert_jax.distributed.chips import Chip
from bert_jax.planning.hlo_costs import Costs


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The times of a step's parts at the peaks of a chip, in seconds.

    The program cannot be faster than the longest part: `bound`. If nothing overlaps and every peak
    is reached, it takes their sum: `seconds`. Real ones overlap some and reach no peak.

    Attributes:
      flops: of the matrix products.
      memory: of the traffic of the main memory.
      links: of what collective operations send.
      tokens: of a step.
      model_flops: of a step, on all devices.
      steps: of the stage.
      devices: chips.
      peak_flops: of a chip.
    """

    flops: float
    memory: float
    links: float
    tokens: int
    model_flops: float
    steps: int
    devices: int
    peak_flops: float

    @property
    def bound(self) -> float:
        """Seconds of a step, at least: everything overlaps."""
        return max(self.flops, self.memory, self.links)

    @property
    def seconds(self) -> float:
        """Seconds of a step where nothing overlaps."""
        return self.flops + self.memory + self.links

    def tokens_per_second(self, seconds: float) -> float:
        """Of all devices, where a step takes so long."""
        return self.tokens / seconds

    def utilisation(self, seconds: float) -> float:
        """The model's operations as a share of the peak (MFU), where a step takes so long."""
        return self.model_flops / (seconds * self.devices * self.peak_flops)

    def device_hours(self, seconds: float) -> float:
        """Of all steps, where each takes so long."""
        return self.steps * seconds * self.devices / 3600


def estimate(
    chip: Chip, costs: Costs, *, tokens: int, model_flops: float, steps: int, devices: int
) -> Estimate:
    """Divides what a step costs a device by the peaks of a chip; see `Estimate` for the rest."""
    return Estimate(
        flops=costs.flops / chip.flops,
        memory=costs.memory_bytes / chip.memory_bandwidth,
        links=costs.sent_bytes / chip.link_bandwidth,
        tokens=tokens,
        model_flops=model_flops,
        steps=steps,
        devices=devices,
        peak_flops=chip.flops,
    )

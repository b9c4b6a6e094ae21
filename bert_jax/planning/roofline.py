"""Seconds of a train step by a chip's peak rates: the roofline model (Williams et al., 2009)."""

import collections
import dataclasses
from collections.abc import Sequence

from bert_jax.config import ComputeType
from bert_jax.distributed.chips import Chip
from bert_jax.planning.hlo_costs import Costs


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of a step at the peak rates of a chip.

    The step cannot be faster than the largest of `flops`, `memory` and `links`: `bound`. With no
    overlap, and every peak reached, it takes their sum: `seconds`. Real steps overlap in part and
    reach no peak.

    Attributes:
      flops: seconds of the matrix products.
      memory: seconds of the traffic to and from main memory.
      links: seconds of sending for collective operations.
      tokens: of one step.
      model_flops: of one step, over all devices.
      steps: how often the run takes the step.
      devices: number of chips.
      peak_flops: FLOP/s of a chip in bfloat16, to which MFU refers, as in the log of a run.
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
        """Lower bound of a step, in seconds: everything overlaps."""
        return max(self.flops, self.memory, self.links)

    @property
    def seconds(self) -> float:
        """Seconds of a step if nothing overlaps."""
        return self.flops + self.memory + self.links

    def tokens_per_second(self, seconds: float) -> float:
        """Throughput of all devices together, for steps of this duration."""
        return self.tokens / seconds

    def utilisation(self, seconds: float) -> float:
        """Model FLOPs utilisation (MFU), 0 to 1, for steps of this duration."""
        return self.model_flops / (seconds * self.devices * self.peak_flops)

    def device_hours(self, seconds: float) -> float:
        """Device-hours of all steps, for steps of this duration."""
        return self.steps * seconds * self.devices / 3600


def estimate(
    chip: Chip,
    costs: Costs,
    *,
    tokens: int,
    model_flops: float,
    steps: int,
    hosts: Sequence[int],
    compute_type: ComputeType = ComputeType.BFLOAT16,
) -> Estimate:
    """Divides the costs of a step on one device by the chip's peak rates.

    Args:
      chip: its peaks.
      costs: of one step on one device.
      tokens: see `Estimate`, as for the others.
      model_flops: of one step, over all devices.
      steps: how often the run takes the step.
      hosts: the host of each device, in the order of the program's devices.
      compute_type: of the matrix products.
    """
    in_float32 = compute_type is ComputeType.FLOAT32
    return Estimate(
        flops=costs.flops / ((in_float32 and chip.float32_flops) or chip.flops),
        memory=costs.memory_bytes / chip.memory_bandwidth,
        links=sum(
            moved.sent_bytes
            / min(
                _sending_rate(chip, [hosts[device] for device in group])
                for group in each.groups or [range(len(hosts))]
            )
            for each, moved in costs.collectives.items()
        ),
        tokens=tokens,
        model_flops=model_flops,
        steps=steps,
        devices=len(hosts),
        peak_flops=chip.flops,
    )


def _sending_rate(chip: Chip, hosts: Sequence[int]) -> float:
    """Returns the bytes a second that a device sends in a ring over a group of devices.

    Where the group leaves what the links join, the ring leaves it once: its devices there share
    their network cards.

    Args:
      chip: its rates.
      hosts: the host of each device of the group.
    """
    joined = collections.Counter(host // chip.linked_hosts for host in hosts)
    if chip.network_bandwidth is None or len(joined) == 1:
        return chip.link_bandwidth
    return min(chip.link_bandwidth, min(joined.values()) * chip.network_bandwidth)

"""Tables of a plan: memory, work and times of each step on each topology."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from bert_jax.distributed.chips import Chip
from bert_jax.planning.abstract_steps import FINETUNING, AbstractStep
from bert_jax.planning.compile_ahead import Footprint
from bert_jax.planning.hlo_costs import Costs
from bert_jax.planning.roofline import Estimate, estimate

_LABEL, _CELL = 34, 16  # columns of the text
_NEGLIGIBLE = 0.01  # share of the bytes sent; smaller operations share one line


class Planned(NamedTuple):
    """A step with its footprint and its estimated times.

    Attributes:
      step: of the run.
      footprint: its memory and costs on one device.
      fits: True if the whole footprint fits; compilers check the temporaries alone.
      estimate: its times; None if it does not fit, or the device's peaks are unknown.
      price: of a device for an hour; 0: not known.
    """

    step: AbstractStep
    footprint: Footprint
    fits: bool
    estimate: Estimate | None
    price: float


def planned(step: AbstractStep, footprint: Footprint, chip: Chip | None, price: float) -> Planned:
    """Compares a footprint with a chip; None is a device whose memory and peaks are unknown."""
    costs = footprint.costs
    fits = costs is not None and (chip is None or footprint.peak <= chip.memory_bytes)
    if chip is None or costs is None or not fits:
        return Planned(step, footprint, fits, None, price)
    estimated = estimate(
        chip,
        costs,
        tokens=step.tokens,
        model_flops=step.model_flops,
        steps=step.steps,
        hosts=[device.process_index for device in step.mesh.devices.flat],
        compute_type=step.compiled.model.config.compute_type,
    )
    return Planned(step, footprint, fits, estimated, price)


def size(number: float) -> str:
    """Formats bytes of memory, in powers of 1024: '13.5 GiB'."""
    for power, unit in ((3, "GiB"), (2, "MiB")):
        if number >= 1024**power:
            return f"{_three_digits(number / 1024**power)} {unit}"
    return f"{_three_digits(number / 1024)} KiB"


def amount(number: float, unit: str) -> str:
    """Formats a quantity, in powers of 1000: '678 MB', '23.4 TFLOP'."""
    for power, prefix in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{_three_digits(number / 10**power)} {prefix}{unit}"
    return f"{_three_digits(number)} {unit}"


def _three_digits(number: float) -> str:
    if number >= 99.95:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 9.995 else f"{number:.2f}"


def milliseconds(seconds: float) -> str:
    """Formats the duration of a step, from seconds: '50.2 ms'."""
    return f"{_three_digits(1000 * seconds)} ms"


def in_hours(number: float) -> str:
    """Formats a number of hours: '0.296', '98.4', '1,214'."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def report(plans: Sequence[Planned], chip: Chip | None) -> str:
    """Returns the table of one topology, with a column for each step.

    Args:
      plans: of the steps.
      chip: what each device is; None: unknown, and without times.
    """
    lines = [_line("", [plan.step.name for plan in plans])]
    lines += _rows(plans, _shape_rows())
    taught = any(plan.footprint.teacher for plan in plans)
    lines += ["", "memory of a device", *_rows(plans, _memory_rows(taught=taught))]
    if chip:
        lines.append(_line(f"  of its {size(chip.memory_bytes)}", [_share(p, chip) for p in plans]))
    lines += ["", "work of a step", *_rows(plans, _work_rows()), *_sent_rows(plans)]
    if chip and any(plan.estimate for plan in plans):
        lines += ["", f"at the peak rates of a {chip.name}", *_rows(plans, _time_rows())]
        if any(plan.price for plan in plans):
            lines += _rows(plans, [("  cost", _cost), ("  of 100 B tokens", _cost_of_tokens)])
    return "\n".join(lines)


def _line(label: str, cells: Sequence[str]) -> str:
    return f"{label:{_LABEL}}{''.join(f'{cell:>{_CELL}}' for cell in cells)}".rstrip()


_Row = tuple[str, Callable[[Planned], str]]


def _rows(plans: Sequence[Planned], rows: Sequence[_Row]) -> list[str]:
    return [_line(label, [cell(plan) for plan in plans]) for label, cell in rows]


def _shape_rows() -> list[_Row]:
    return [
        ("rows of tokens", lambda p: f"{p.step.rows:,} x {p.step.length}"),
        ("steps", lambda p: f"{p.step.steps:,}"),
        ("encoder.attention", lambda p: p.step.compiled.model.config.attention.value),
        ("encoder.unroll", lambda p: str(p.step.compiled.model.config.unroll)),
    ]


def _memory_rows(*, taught: bool) -> list[_Row]:
    teacher: _Row = "  teacher", lambda p: size(p.footprint.teacher)
    return [
        ("  parameters", lambda p: size(p.footprint.parameters)),
        ("  optimizer", lambda p: size(p.footprint.optimizer)),
        *([teacher] if taught else []),
        ("  batch", lambda p: size(p.footprint.batch)),
        ("  activations, gradients, ...", lambda p: size(p.footprint.temporaries)),
        ("  program", lambda p: size(p.footprint.program) if p.footprint.costs else "-"),
        ("  total", lambda p: size(p.footprint.peak)),
    ]


def _share(plan: Planned, chip: Chip) -> str:
    if not plan.fits:
        return "does not fit"
    return f"{100 * plan.footprint.peak / chip.memory_bytes:.0f} %"


def _work_rows() -> list[_Row]:
    def of_costs(show: Callable[[Costs], str]) -> Callable[[Planned], str]:
        return lambda plan: show(plan.footprint.costs) if plan.footprint.costs else "-"

    return [
        ("  model FLOPs, all devices", lambda p: amount(p.step.model_flops, "FLOP")),
        ("  FLOPs, a device", of_costs(lambda costs: amount(costs.flops, "FLOP"))),
        ("  memory traffic, a device", of_costs(lambda costs: amount(costs.memory_bytes, "B"))),
        ("  rows made, a host", lambda p: amount(p.step.host_batch_bytes, "B")),
        ("  checkpoint, all devices", lambda p: size(p.step.checkpoint_bytes)),
    ]


def _sent_rows(plans: Sequence[Planned]) -> list[str]:
    """Returns lines of the bytes that a device sends, by operation and mesh axes, largest first."""
    totals: dict[tuple[str, str], float] = {}
    for plan in plans:
        whole = sum(plan.footprint.sent.values())
        for key, sent in plan.footprint.sent.items():
            totals[key] = max(totals.get(key, 0), sent / whole if whole else 0)
    shown = [key for key, share in totals.items() if share >= _NEGLIGIBLE]
    shown.sort(key=lambda key: -totals[key])

    def line(label: str, keys: Sequence[tuple[str, str]]) -> str:
        sums = [sum(plan.footprint.sent.get(key, 0) for key in keys) for plan in plans]
        known = [plan.footprint.costs is not None for plan in plans]
        cells = [amount(sent, "B") if ok else "-" for sent, ok in zip(sums, known, strict=True)]
        return _line(label, cells)

    lines = [line(f"  {operation} over {axes}", [(operation, axes)]) for operation, axes in shown]
    if rest := [key for key in totals if key not in shown]:
        lines.append(line("  other collectives", rest))
    return lines


def _of_estimate(show: Callable[[Estimate], str]) -> Callable[[Planned], str]:
    return lambda plan: show(plan.estimate) if plan.estimate else "-"


def _time_rows() -> list[_Row]:
    rows: list[tuple[str, Callable[[Estimate], str]]] = [
        ("  FLOPs", lambda e: milliseconds(e.flops)),
        ("  memory traffic", lambda e: milliseconds(e.memory)),
        ("  links", lambda e: milliseconds(e.links)),
        ("  a step without overlap", lambda e: milliseconds(e.seconds)),
        ("  with full overlap", lambda e: milliseconds(e.bound)),
        ("  tokens/s", lambda e: amount(e.tokens_per_second(e.seconds), "")),
        ("  at most", lambda e: amount(e.tokens_per_second(e.bound), "")),
        ("  tokens/s a chip", lambda e: amount(e.tokens_per_second(e.seconds) / e.devices, "")),
        ("  at most", lambda e: amount(e.tokens_per_second(e.bound) / e.devices, "")),
        ("  MFU", lambda e: f"{100 * e.utilisation(e.seconds):.1f} %"),
        ("  at most", lambda e: f"{100 * e.utilisation(e.bound):.1f} %"),
        ("  device-hours", lambda e: in_hours(e.device_hours(e.seconds))),
        ("  at least", lambda e: in_hours(e.device_hours(e.bound))),
    ]
    return [(label, _of_estimate(show)) for label, show in rows]


def _cost(plan: Planned) -> str:
    if not plan.estimate or not plan.price:
        return "-"
    return f"{plan.price * plan.estimate.device_hours(plan.estimate.seconds):,.2f}"


def _cost_of_tokens(plan: Planned) -> str:
    if not plan.estimate or not plan.price:
        return "-"
    hours = plan.estimate.device_hours(plan.estimate.seconds)
    return f"{plan.price * hours * 100e9 / trained_tokens([plan]):,.2f}"


def device_hours(plans: Sequence[Planned], *, bound: bool = False) -> float:
    """Returns the device-hours of the steps that fit; with `bound`, their lower bound."""
    estimates = [plan.estimate for plan in plans if plan.estimate]
    return sum(each.device_hours(each.bound if bound else each.seconds) for each in estimates)


def trained_tokens(plans: Sequence[Planned]) -> int:
    """Returns the tokens of all steps together."""
    return sum(plan.step.steps * plan.step.tokens for plan in plans)


def totals(plans: Sequence[Planned]) -> list[str]:
    """Returns a line for pretraining and one for fine-tuning, with their device-hours."""
    lines = []
    for name, chosen in (
        ("pretraining", [plan for plan in plans if plan.step.name != FINETUNING]),
        (FINETUNING, [plan for plan in plans if plan.step.name == FINETUNING]),
    ):
        if not chosen or not all(plan.estimate for plan in chosen):
            continue
        hours, least, price = (
            device_hours(chosen),
            device_hours(chosen, bound=True),
            chosen[0].price,
        )
        money = f"; at {price:g} an hour {price * hours:,.2f}" if price else ""
        lines.append(f"{name}: {in_hours(hours)} device-hours, at least {in_hours(least)}{money}")
    return lines


def compare_topologies(named: Sequence[tuple[str, Sequence[Planned]]]) -> str:
    """Returns a table of several topologies, with a line for each step on each.

    Args:
      named: (name, plans) of each topology.
    """
    priced = any(plan.price for _, plans in named for plan in plans)
    heads = ["of memory", "tokens/s a chip", "MFU", "device-hours"] + ["cost"] * priced
    lines = [f"{'':14}{'stage':14}{'chips':>6}" + "".join(f"{head:>17}" for head in heads)]
    for name, plans in named:
        for plan in plans:
            each = plan.estimate
            cells = ["does not fit" if not plan.fits else size(plan.footprint.peak)]
            if each:
                cells += [
                    amount(each.tokens_per_second(each.seconds) / each.devices, ""),
                    f"{100 * each.utilisation(each.seconds):.1f} %",
                    in_hours(each.device_hours(each.seconds)),
                ]
                cells += [_cost(plan)] * priced
            line = f"{name:14}{plan.step.name:14}{plan.step.mesh.size:>6}"
            lines.append((line + "".join(f"{cell:>17}" for cell in cells)).rstrip())
    return "\n".join(lines)

"""Pictures of runs."""

import pathlib
from collections.abc import Mapping

from matplotlib.figure import Figure

from bert_jax.training.logs import LOG_FILE, read_log

_PANELS = (
    ("mlm_loss", "MLM loss (nats)"),
    ("nsp_loss", "NSP loss (nats)"),
    ("sop_loss", "SOP loss (nats)"),
)


def plot_losses(
    runs: Mapping[str, pathlib.Path], path: pathlib.Path, *, unigram_entropy: float
) -> pathlib.Path:
    """Draws the losses of pretraining runs over their steps, training and held out, as a PNG.

    Args:
      runs: name -> workdir, whose log.jsonl is read.
      path: the picture to write.
      unigram_entropy: of their corpus, in nats: drawn where the MLM losses are.

    Returns:
      `path`.
    """
    logs = {name: read_log(workdir / LOG_FILE) for name, workdir in runs.items()}
    panels = [each for each in _PANELS if any(each[0] in e for log in logs.values() for e in log)]
    figure = Figure(figsize=(4.5 * max(len(panels), 1) + 1, 3.5), layout="constrained")
    for column, (loss, title) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), column + 1)
        for number, (name, entries) in enumerate(logs.items()):
            for prefix, part, alpha, marker in (
                ("", "training", 0.4, ""),
                ("heldout_", "held out", 1.0, "o"),
            ):
                points = [(e["step"], e[prefix + loss]) for e in entries if prefix + loss in e]
                if points:
                    (line,) = axes.plot(*zip(*points, strict=True), marker, label=f"{name}, {part}")
                    line.set(color=f"C{number}", alpha=alpha, linestyle="-", markersize=4)
        if loss == "mlm_loss":
            axes.axhline(unigram_entropy, color="gray", linestyle=":", label="unigram entropy")
        axes.set_xlabel("step")
        axes.set_title(title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    return path

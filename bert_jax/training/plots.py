"""Pictures of a run."""

import pathlib

from matplotlib.figure import Figure

from bert_jax.training.logs import LOG_FILE, read_log

_PANELS = (("mlm_loss", "MLM loss (nats)"), ("nsp_loss", "NSP loss (nats)"))


def plot_losses(workdir: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    """Draws the losses of a pretraining run over its steps, training and held out, as a PNG.

    Args:
      workdir: of the run; its log.jsonl is read.
      path: the picture to write.

    Returns:
      `path`.
    """
    entries = read_log(workdir / LOG_FILE)
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
        for prefix, style, label in (("", "-", "training"), ("heldout_", "o-", "held out")):
            points = [(e["step"], e[prefix + name]) for e in entries if prefix + name in e]
            if points:
                axes.plot(*zip(*points, strict=True), style, markersize=4, label=label)
        axes.set_xlabel("step")
        axes.set_title(title)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)
    return path

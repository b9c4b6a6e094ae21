"""Tables of a checkpoint: parameters by array or layer, optimizer moments, nearest tokens."""

import math
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from bert_jax.config import OptimizerConfig, from_dict
from bert_jax.errors import UserError
from bert_jax.inspection.stored import StoredArrays, StoredCheckpoint
from bert_jax.text.tokenizer import Tokenizer

STACKED = "encoder/layers/"  # of arrays with a leading axis of layers


class Table(list[dict[str, Any]]):
    """Rows, each a dictionary with the same keys, printed in columns.

    `pandas.DataFrame(table)` accepts it.
    """

    def __repr__(self) -> str:
        """Returns the table as text, numbers aligned to the right, text to the left."""
        if not self:
            return "(no rows)"
        columns = []
        for name in self[0]:
            cells = [name, *(_shown(row[name]) for row in self)]
            width = max(map(len, cells))
            is_number = any(isinstance(row[name], int | float) for row in self)
            columns.append(
                [cell.rjust(width) if is_number else cell.ljust(width) for cell in cells]
            )
        return "\n".join("  ".join(cells).rstrip() for cells in zip(*columns, strict=True))


def _shown(value: Any) -> str:
    match value:
        case None:
            return ""
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.4g}"
        case tuple():
            return "x".join(map(str, value)) or "()"
        case list():
            return ", ".join(f"{_shown(name)} {number:.3f}" for name, number in value)
    return str(value)


def by_layers(name: str, array: np.ndarray) -> Iterator[tuple[int | None, np.ndarray]]:
    """Yields each layer of a stacked array with its number from 1; any other array with None."""
    if name.startswith(STACKED):
        yield from enumerate(array, start=1)
    else:
        yield None, array


def parameter_table(
    arrays: StoredArrays,
    *,
    match: str = "",
    sort: str = "",
    by_layer: bool = False,
    values: bool = True,
) -> Table:
    """Returns shape and statistics of arrays, reading one array at a time.

    Args:
      arrays: of a checkpoint.
      match: regular expression searched in the names; '': all.
      sort: column to sort by, numbers from the largest; '': the order of the checkpoint.
      by_layer: one row for each layer of a stacked array.
      values: False: shapes only, without reading any array.

    Returns:
      Rows of `name`, `shape`, `type`, `count`, `bytes`; with values `mean`, `spread` (standard
      deviation) and `norm` (root of the sum of squares). By layer also `layer`, from 1; None for
      arrays outside the layers.

    Raises:
      UserError: if nothing matches, an array is damaged, or the column does not exist.
    """
    rows = Table()
    for name in arrays.matching(match):
        shape, dtype = arrays.shapes[name]
        if values:
            array = arrays[name]
        else:
            array = np.broadcast_to(np.zeros((), jnp.dtype(dtype)), shape)
        for layer, part in by_layers(name, array) if by_layer else [(None, array)]:
            row = {"layer": layer} if by_layer else {}
            row |= {"name": name, "shape": part.shape, "type": dtype}
            row |= {"count": part.size, "bytes": part.nbytes}
            rows.append(row | (_statistics(part) if values else {}))
    if by_layer:
        rows.sort(key=lambda row: row["layer"] or 0)
    if sort:
        if sort not in rows[0]:
            raise UserError(f"sort={sort} is not a column: choose one of {', '.join(rows[0])}")
        is_number = not isinstance(rows[0][sort], str | tuple)
        rows.sort(key=lambda row: row[sort] or 0, reverse=is_number)
    return rows


def _statistics(array: np.ndarray) -> dict[str, float]:
    wide = array.astype(np.float64)
    return {
        "mean": float(wide.mean()),
        "spread": float(wide.std()),
        "norm": math.sqrt(float(np.square(wide).sum())),
    }


def group_table(arrays: StoredArrays, *, match: str = "") -> Table:
    """Returns the size of each group of arrays, without reading any.

    Returns:
      Rows of `group`, `arrays` (their number), `count` of parameters, `bytes`, and `share` of all
      parameters in the table.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in parameter_table(arrays, match=match, values=False):
        parts = row["name"].split("/")
        group = "/".join(parts[: 2 if parts[0] == "encoder" else 1])
        groups.setdefault(group, []).append(row)
    total = sum(row["count"] for rows in groups.values() for row in rows)
    return Table(
        {
            "group": group,
            "arrays": len(rows),
            "count": sum(row["count"] for row in rows),
            "bytes": sum(row["bytes"] for row in rows),
            "share": sum(row["count"] for row in rows) / total,
        }
        for group, rows in groups.items()
    )


def layer_arrays(arrays: StoredArrays, layer: int) -> dict[str, np.ndarray]:
    """Returns the arrays of one layer, without the layer axis.

    Args:
      arrays: the parameters of a checkpoint.
      layer: from 1, the lowest.

    Raises:
      UserError: if there is no such layer.
    """
    names = arrays.matching(f"^{STACKED}")
    layers = arrays.shapes[names[0]][0][0]
    if not 1 <= layer <= layers:
        raise UserError(f"layer={layer} does not exist: choose 1 to {layers}")
    return {name.removeprefix(STACKED): arrays[name][layer - 1] for name in names}


def moment_table(checkpoint: StoredCheckpoint, *, match: str = "", by_layer: bool = False) -> Table:
    """Summarises the optimizer's moments of each parameter array.

    Returns:
      Rows of `name`; `first`, root mean square of the gradient's running mean; `second`, root of
      the running mean of its square, averaged over the array; both corrected for their start at 0;
      `ratio` of the two, near 1 if all steps pull the same way, near 0 if they contradict each
      other. Muon keeps a running sum alone, as `first`; the others of its arrays are None. By layer
      also `layer`, as in `parameter_table`.

    Raises:
      UserError: if nothing matches, or an array is damaged.
    """
    state, rows = checkpoint.opt_state, Table()
    stored = {moment: _by_parameter(state, f"/{moment}/") for moment in ("mu", "trace", "nu")}
    firsts = stored["trace"] | stored["mu"]
    of_adam = _weights_of_gradients(checkpoint, stored["mu"])
    for name in checkpoint.params.matching(match):
        if name not in firsts:
            continue  # a frozen group has no moments
        means = _layers_or_whole(name, state[firsts[name]], by_layer)
        squares = [(None, None)] * len(means)
        if name in stored["nu"]:
            squares = _layers_or_whole(name, state[stored["nu"][name]], by_layer)
        weight, square_weight = of_adam if name in stored["mu"] else (1.0, 1.0)
        for (layer, mean), (_, square) in zip(means, squares, strict=True):
            first = math.sqrt(np.square(mean).mean()) / weight
            second = None if square is None else math.sqrt(square.mean() / square_weight)
            row = {"layer": layer} if by_layer else {}
            row |= {"name": name, "first": first, "second": second}
            rows.append(row | {"ratio": second and first / second})
    if by_layer:
        rows.sort(key=lambda row: row["layer"] or 0)
    return rows


def _weights_of_gradients(
    checkpoint: StoredCheckpoint, means: dict[str, str]
) -> tuple[float, float]:
    """Returns the weights of all gradients together in Adam's two moments; the rest is of a 0.

    The moments are stored without correction, whatever `bias_correction` says of the updates.

    Args:
      checkpoint: with optimizer state.
      means: the stored names of first moments, by parameter.
    """
    if not means:
        return 1.0, 1.0
    config = from_dict(OptimizerConfig, checkpoint.metadata["config"]["optimizer"])
    state = next(iter(means.values())).partition("/mu/")[0]
    # The optimizer's own count: a skipped update is a step, too.
    count = max(int(checkpoint.opt_state[f"{state}/count"]), 1)
    return 1 - config.beta1**count, 1 - config.beta2**count


def _layers_or_whole(
    name: str, values: np.ndarray, by_layer: bool
) -> list[tuple[int | None, np.ndarray]]:
    values = values.astype(np.float64)
    return list(by_layers(name, values)) if by_layer else [(None, values)]


def _by_parameter(state: StoredArrays, moment: str) -> dict[str, str]:
    return {name.partition(moment)[2]: name for name in state if moment in name}


def neighbours(checkpoint: StoredCheckpoint, token: str, *, count: int = 10) -> Table:
    """Finds the tokens with the nearest embeddings, by cosine.

    Args:
      checkpoint: only its token embeddings are read.
      token: a word that is one token, or a piece as the vocabulary has it, such as '##ing'.
      count: number of neighbours.

    Returns:
      Rows of `token`, `id`, `cosine`, the nearest first, without the token itself.

    Raises:
      UserError: if the token is neither.
    """
    tokenizer = checkpoint.tokenizer
    id = _token_id(tokenizer, token)
    table = checkpoint.params["encoder/embeddings/tokens"][: tokenizer.vocab_size]
    table = table.astype(np.float64)
    table /= np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-30)
    cosines = table @ table[id]
    nearest = [int(i) for i in np.argsort(-cosines, kind="stable") if i != id][:count]
    return Table(
        {"token": tokenizer.id_to_piece(i), "id": i, "cosine": float(cosines[i])} for i in nearest
    )


def _token_id(tokenizer: Tokenizer, token: str) -> int:
    """Returns the id of a word that is one token, or else of a piece of the vocabulary."""
    ids = tokenizer.encode(token).tolist()
    if len(ids) == 1 and ids[0] != tokenizer.special.unk:
        return ids[0]
    for id in range(tokenizer.vocab_size):
        if tokenizer.id_to_piece(id) == token:
            return id
    pieces = " ".join(map(tokenizer.id_to_piece, ids))
    raise UserError(
        f"{token!r} is {len(ids)} tokens ({pieces or 'none'}): choose one of them, or another word"
        if len(ids) != 1
        else f"{token!r} is not in the vocabulary: choose another word"
    )

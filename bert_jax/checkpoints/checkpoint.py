"""Checkpoints: self-contained, verified bit for bit, and restored in one of two ways.

`restore_state` resumes a run exactly, or raises. `restore_groups` transfers named parameter groups,
also exactly, without optimizer state and step.

    CHECKPOINTS/STEP/params/     one array for each parameter
    CHECKPOINTS/STEP/opt_state/  the optimizer state; an imported checkpoint has none
    CHECKPOINTS/STEP/average/    the moving average of the parameters, of a run that keeps one
    CHECKPOINTS/STEP/metadata/   JSON: config, tokenizer, data cursor, fingerprints, versions
"""

import contextlib
import functools
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    BestN,
    EveryNSteps,
    LatestN,
)

from bert_jax.checkpoints.fingerprint import fingerprints, json_digest, leaf_name
from bert_jax.checkpoints.literal_path import literal_path
from bert_jax.distributed.processes import any_process, first_alone, versions
from bert_jax.errors import UserError
from bert_jax.files import given_path
from bert_jax.objectives.losses import Params
from bert_jax.text.tokenizer import tokenizer_from_dict
from bert_jax.training.state import TrainState

Content = TypeVar("Content")

FOLDER = "checkpoints"  # in the directory of a run
AVERAGE = "average"  # the item of the moving average
_SCORE_ITEM = "metrics"  # as Orbax calls it
DAMAGED = "damaged"  # in the directory of a run: checkpoints that were set aside
CHECKPOINT_FORMAT = 2  # written into the metadata; a later one is refused


class DamagedCheckpoint(UserError):
    """A checkpoint whose content differs from what was saved."""


class Checkpoints:
    """Saves the checkpoints of one run, in the background."""

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        keep: int,
        keep_best: bool = False,
        keep_every_steps: int = 0,
    ) -> None:
        """Opens WORKDIR/checkpoints, which is made with the first checkpoint.

        Args:
          workdir: directory of the run.
          keep: number of newest checkpoints to keep.
          keep_best: also keep the checkpoint with the highest score.
          keep_every_steps: also keep every checkpoint whose step is a multiple of this; 0: none.

        Raises:
          DamagedCheckpoint: with `keep_best`, if the score of a checkpoint cannot be read.
        """
        policies: list[Any] = [LatestN(keep)]
        if keep_every_steps:
            policies.append(EveryNSteps(keep_every_steps))
        if keep_best:
            policies.append(
                BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False)
            )
            for step in steps_in(workdir):  # the manager would end in any exception
                _read_score(pathlib.Path(workdir) / FOLDER / str(step))
        self._manager = ocp.CheckpointManager(
            literal_path(workdir) / FOLDER,
            handler_registry=_writers(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=AnyPreservationPolicy(policies),
                best_fn=_score if keep_best else None,  # without it, scores are not written
            ),
        )

    def save(self, state: TrainState, metadata: dict[str, Any], score: float | None = None) -> None:
        """Saves a state; returns as soon as its arrays are copied and may be donated.

        Args:
          state: its `step` names the checkpoint. Without `opt_state` (None) the checkpoint can be
            transferred from, but not resumed.
          metadata: JSON-ready; everything besides arrays that a reader needs.
          score: for `keep_best`; higher is better.

        Raises:
          UserError: if this checkpoint or the previous one cannot be written.
        """
        step = int(jax.device_get(state.step))
        arrays = {"params": state.params}
        if state.opt_state is not None:
            arrays["opt_state"] = state.opt_state
        if state.average is not None:
            arrays[AVERAGE] = state.average
        metadata = metadata | {
            "format": CHECKPOINT_FORMAT,
            "step": step,
            "fingerprints": {item: fingerprints(tree) for item, tree in arrays.items()},
            "versions": versions(),
        }
        metadata["digest"] = json_digest(metadata)
        with self._failures_as_user_errors():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    **{item: ocp.args.PyTreeSave(tree) for item, tree in arrays.items()},
                    metadata=ocp.args.JsonSave(metadata),
                ),
                metrics=None if score is None else {"score": score},
            )

    def close(self) -> None:
        """Waits until everything is written."""
        with self._failures_as_user_errors():
            self._manager.close()

    @contextlib.contextmanager
    def _failures_as_user_errors(self) -> Iterator[None]:
        """Raises UserError where this checkpoint or the previous one could not be written."""
        try:
            yield
        except Exception as error:  # the writers have no exception type for a full disk
            full = "No space left" in str(error)
            raise UserError(
                f"cannot save a checkpoint in {self._manager.directory}"
                f" ({'no space left' if full else _reason(error)}): free some space or repair the"
                " disk, then run the same command again"
            ) from error


def _writers() -> ocp.CheckpointHandlerRegistry:
    """Returns the writers of a checkpoint's items.

    Arrays are not compressed: of trained weights and moments zstd saves a twelfth of the bytes, and
    makes saving and restoring take at least twice as long.
    """
    writers = ocp.DefaultCheckpointHandlerRegistry()
    for item in ("params", "opt_state", AVERAGE):
        arrays = ocp.PyTreeCheckpointHandler(use_compression=False)
        writers.add(item, ocp.args.PyTreeSave, arrays)
    writers.add("metadata", ocp.args.JsonSave)
    return writers


def write_parameters(workdir: pathlib.Path, params: Params, metadata: dict[str, Any]) -> None:
    """Writes step 0 of a run: parameters and metadata, no optimizer state; and the tokenizer.

    Args:
      workdir: of the run; has no checkpoint.
      params: arrays of this host.
      metadata: as for `Checkpoints.save`.
    """
    checkpoints = Checkpoints(workdir, keep=1)
    checkpoints.save(TrainState(np.int32(0), jax.device_put(params), None), metadata)
    checkpoints.close()
    tokenizer_from_dict(metadata["tokenizer"]).save(workdir / "tokenizer")


def _score(metrics: Any) -> float:
    return metrics["score"]


def steps_in(directory: str | os.PathLike) -> list[int]:
    """Returns the steps of a run's finished checkpoints, ascending."""
    folder = pathlib.Path(directory) / FOLDER
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def find_checkpoint(directory: str | os.PathLike) -> pathlib.Path:
    """Returns the CHECKPOINTS/STEP that a user means by a directory.

    Args:
      directory: of a run, which stands for its best checkpoint (the newest, if none has a score);
        or one CHECKPOINTS/STEP.

    Raises:
      UserError: if there is no checkpoint, or one of them has a damaged score.
    """
    given = given_path(directory).absolute()
    if (given / "metadata").is_dir():
        return given
    is_folder = given.name == FOLDER and not (given / FOLDER).is_dir()
    run = given.parent if is_folder else given
    steps = steps_in(run)
    if not steps:
        if seeds := sorted(each.parent.name for each in run.glob(f"seed-*/{FOLDER}")):
            raise UserError(f"{directory} has several runs: name one, such as {run / seeds[0]}")
        raise UserError(
            f"{directory} has no checkpoint: name the directory of a run (its --workdir)"
            " or one of its checkpoints/STEP"
        )
    scores = {step: _read_score(run / FOLDER / str(step)) for step in steps}
    found = {step: score for step, score in scores.items() if score is not None}
    best = max(found, key=lambda step: found[step]) if found else steps[-1]
    return run / FOLDER / str(best)


def _read_score(checkpoint: pathlib.Path) -> float | None:
    """Returns the score of a checkpoint, None if it was saved without one.

    Raises:
      DamagedCheckpoint: if it cannot be read.
    """
    if not (checkpoint / _SCORE_ITEM).is_dir():
        return None
    score = _read_json_item(checkpoint, _SCORE_ITEM).get("score")
    if not isinstance(score, int | float):
        raise _damaged(checkpoint / _SCORE_ITEM, "it has no score")
    return score


def _read_json_item(checkpoint: pathlib.Path, item: str) -> dict[str, Any]:
    """Returns the object in an item of a checkpoint.

    Raises:
      DamagedCheckpoint: if it cannot be read.
    """
    jax.process_index()  # starts the backend, so that what is wrong there is not taken for damage
    try:
        # Not a Checkpointer, which would wait for processes that have found damage.
        with contextlib.closing(ocp.JsonCheckpointHandler(filename=item)) as reader:
            values = reader.restore(literal_path(checkpoint) / item)
    except Exception as error:  # on damaged files Orbax raises exceptions of any type
        raise _damaged(checkpoint / item, _reason(error)) from error
    if not isinstance(values, dict):
        raise _damaged(checkpoint / item, "it is no JSON object")
    return values


def read_metadata(checkpoint: pathlib.Path) -> dict[str, Any]:
    """Reads the metadata given to `Checkpoints.save`, and what `save` added to it.

    Raises:
      DamagedCheckpoint: if it cannot be read, or differs from what was saved.
      UserError: if a later version of this package wrote it.
    """
    metadata = _read_json_item(checkpoint, "metadata")
    digest = metadata.pop("digest", None)
    if digest != json_digest(metadata):  # all formats have this digest
        raise _damaged(checkpoint / "metadata", "its content differs from what was saved")
    if (version := metadata["format"]) > CHECKPOINT_FORMAT:
        raise UserError(
            f"{checkpoint} has format {version}, and this version of bert_jax reads formats up to"
            f" {CHECKPOINT_FORMAT}: use version {metadata['versions']['bert_jax']}, which wrote it,"
            " or a later one"
        )
    return metadata


def newest_metadata(workdir: str | os.PathLike) -> dict[str, Any]:
    """Returns the metadata of a run's newest sound checkpoint, or {} if there is none."""
    for step in reversed(steps_in(workdir)):
        with contextlib.suppress(DamagedCheckpoint):
            return read_metadata(pathlib.Path(workdir) / FOLDER / str(step))
    return {}


def restore_newest(
    workdir: str | os.PathLike, abstract: TrainState
) -> tuple[TrainState, dict[str, Any], list[str]]:
    """Restores the newest sound checkpoint of a run, exactly, and sets damaged ones aside.

    The run must have a checkpoint, and the caller must have claimed its directory.

    Args:
      workdir: directory of the run.
      abstract: shapes, dtypes and shardings of the run's state.

    Returns:
      The state, the metadata of its checkpoint, and a warning for each damaged checkpoint.

    Raises:
      UserError: if every checkpoint is damaged, or one does not fit the state.
    """
    workdir, damaged = pathlib.Path(workdir), []
    for step in reversed(steps_in(workdir)):
        checkpoint = workdir / FOLDER / str(step)
        try:
            state, metadata = restore_state(checkpoint, abstract)
        except DamagedCheckpoint as error:
            damaged.append((step, str(error).partition(": remove this")[0]))
            continue
        for lost, _ in damaged:
            first_alone(functools.partial(_set_aside, workdir, lost))
        warnings = [
            f"warning: {reason}; moved to {workdir / DAMAGED}; steps {step + 1:,} to {lost:,} are"
            " trained again"
            for lost, reason in damaged
        ]
        return state, metadata, warnings
    raise UserError(
        f"every checkpoint of {workdir} is damaged ({damaged[0][1]}): bring one back from a copy,"
        " or start again in another --workdir"
    )


def _set_aside(workdir: pathlib.Path, step: int) -> None:
    """Moves a checkpoint to WORKDIR/damaged, under a name that is free."""
    (workdir / DAMAGED).mkdir(exist_ok=True)
    names = (str(step) if n == 0 else f"{step}-{n}" for n in itertools.count())
    free = next(name for name in names if not (workdir / DAMAGED / name).exists())
    os.rename(workdir / FOLDER / str(step), workdir / DAMAGED / free)


def _damaged(path: pathlib.Path, reason: str) -> DamagedCheckpoint:
    return DamagedCheckpoint(
        f"{path} is damaged ({reason}): remove this checkpoint to use an earlier one"
    )


def _reason(error: Exception) -> str:
    """Shortens the message of a library's exception, which can fill pages."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"


def restore_state(
    checkpoint: pathlib.Path, abstract: TrainState
) -> tuple[TrainState, dict[str, Any]]:
    """Restores parameters, optimizer state, step and, where there is one, average, exactly.

    Args:
      checkpoint: CHECKPOINTS/STEP.
      abstract: shapes, dtypes and shardings of the run's state.

    Returns:
      The state, and the metadata.

    Raises:
      UserError: if a name, a shape or a dtype differs, or any bit of an array; in every process, if
        one of them cannot read its part.
    """
    metadata = _together(checkpoint / "metadata", lambda: read_metadata(checkpoint))
    params = _restore(checkpoint, "params", abstract.params, metadata)
    opt_state = _restore(checkpoint, "opt_state", abstract.opt_state, metadata)
    step = jax.device_put(jnp.asarray(metadata["step"], jnp.int32), abstract.step.sharding)
    average = None
    if abstract.average is not None:
        average = _restore(checkpoint, AVERAGE, abstract.average, metadata)
    return TrainState(step, params, opt_state, average), metadata


def restore_groups(
    checkpoint: pathlib.Path, abstract_params: Params, groups: Iterable[str]
) -> Params:
    """Restores named top-level parameter groups, exactly, and nothing else.

    Args:
      checkpoint: CHECKPOINTS/STEP.
      abstract_params: shapes, dtypes and shardings of the receiving model's parameters.
      groups: such as ('encoder', 'pooler').

    Raises:
      UserError: if a name, a shape or a dtype in these groups differs, or any bit of an array.
    """
    wanted = {group: abstract_params[group] for group in groups}
    if not wanted:
        return {}  # Orbax refuses an empty tree
    return _restore(checkpoint, "params", wanted, read_metadata(checkpoint), partial=True)


def groups_in(checkpoint: pathlib.Path) -> tuple[str, ...]:
    """Returns the names of a checkpoint's top-level parameter groups."""
    return tuple(_stored(checkpoint, "params"))


def _restore(
    checkpoint: pathlib.Path,
    item: str,
    abstract: Any,
    metadata: dict[str, Any],
    *,
    partial: bool = False,
) -> Any:
    path = checkpoint / item
    stored = _together(path, lambda: _stored(checkpoint, item))
    if partial:
        stored = {group: stored[group] for group in abstract if group in stored}
    problems = array_differences(_leaves(stored), _leaves(abstract))
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise UserError(
            f"{path} does not fit the model: {'; '.join(problems[:3])}{more}: use the config that"
            " it was saved with"
        )
    arrays = ocp.args.PyTreeRestore(
        item=abstract,
        restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
        partial_restore=partial,
    )
    restored = _together(path, lambda: _read_arrays(path, arrays))
    found = fingerprints(restored)  # of arrays over several hosts these compute together
    _together(path, lambda: _check_bits(path, found, metadata["fingerprints"][item]))
    return restored


def _together(path: pathlib.Path, read: Callable[[], Content]) -> Content:
    """Returns what a function reads of a path; raises in every process if it fails in one.

    Otherwise that process would go on with an earlier checkpoint, alone.

    Raises:
      DamagedCheckpoint: if it fails.
      UserError: as the function does.
    """
    found, failure = None, None
    try:
        found = read()
    except Exception as error:  # on damaged files Orbax raises exceptions of any type
        failure = error
    if any_process(failure is not None):
        if isinstance(failure, UserError):
            raise failure
        reason = _reason(failure) if failure else "another process cannot read its part"
        raise _damaged(path, reason) from failure
    return cast(Content, found)


def _read_arrays(path: pathlib.Path, arrays: ocp.args.PyTreeRestore) -> Any:
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:  # as above
        return reader.restore(literal_path(path), args=arrays)  # pyright: ignore[reportArgumentType]


def _check_bits(path: pathlib.Path, found: dict[str, int], saved: dict[str, int]) -> None:
    for name, fingerprint in found.items():
        if fingerprint != saved.get(name):
            raise _damaged(path, f"the bits of {name} differ from those saved")


def _stored(checkpoint: pathlib.Path, item: str) -> Any:
    """Returns an item's tree, whose leaves are Orbax's metadata of the arrays."""
    try:
        with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
            path = literal_path(checkpoint) / item
            metadata = reader.metadata(path)  # pyright: ignore[reportArgumentType]
        if metadata is None:
            raise ValueError("its list of arrays cannot be read")
        return metadata.tree
    except Exception as error:  # as above
        raise _damaged(checkpoint / item, _reason(error)) from error


def _leaves(tree: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    return {
        leaf_name(path): (tuple(leaf.shape), str(jnp.dtype(leaf.dtype)))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def array_differences(stored: dict[str, tuple], wanted: dict[str, tuple]) -> list[str]:
    """Describes every array that is missing, unexpected, or of another shape or dtype."""
    problems = [f"{name} is missing" for name in wanted.keys() - stored.keys()]
    problems += [f"{name} is unexpected" for name in stored.keys() - wanted.keys()]
    problems += [
        f"{name} is {_dtype_and_shape(stored[name])}, not {_dtype_and_shape(wanted[name])}"
        for name in wanted.keys() & stored.keys()
        if stored[name] != wanted[name]
    ]
    return sorted(problems)


def _dtype_and_shape(leaf: tuple[tuple[int, ...], str]) -> str:
    return f"{leaf[1]}[{','.join(map(str, leaf[0]))}]"


def arrays_in(checkpoint: pathlib.Path, item: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Returns shape and dtype of each array of an item, by name, without reading the arrays.

    Args:
      checkpoint: CHECKPOINTS/STEP.
      item: 'params' or 'opt_state'.

    Raises:
      UserError: if the list of arrays is damaged.
    """
    return _leaves(_stored(checkpoint, item))


def read_array(
    checkpoint: pathlib.Path, item: str, name: str, metadata: dict[str, Any]
) -> np.ndarray:
    """Reads one array, and no other, into this host's memory, whichever mesh wrote it.

    Args:
      checkpoint: CHECKPOINTS/STEP.
      item: 'params' or 'opt_state'.
      name: one of `arrays_in`.
      metadata: from `read_metadata`.

    Raises:
      UserError: if it cannot be read, or differs from what was saved.
    """
    wanted = ocp.RestoreArgs(restore_type=np.ndarray)
    target = jax.tree_util.tree_map_with_path(
        lambda path, _: wanted if leaf_name(path) == name else ocp.PLACEHOLDER,
        _stored(checkpoint, item),
    )
    try:
        with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
            restored = reader.restore(
                literal_path(checkpoint) / item,  # pyright: ignore[reportArgumentType]
                args=ocp.args.PyTreeRestore(item=target, restore_args=target),
            )
    except Exception as error:  # as above
        raise _damaged(checkpoint / item, f"{name}: {_reason(error)}") from error
    array = next(leaf for leaf in jax.tree.leaves(restored) if leaf is not ocp.PLACEHOLDER)
    if fingerprints({name: array})[name] != metadata["fingerprints"][item].get(name):
        raise _damaged(checkpoint / item, f"the bits of {name} differ from those saved")
    return array

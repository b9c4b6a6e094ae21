"""Checkpoints: self-contained, checked bit for bit, and restored by one of two verbs.

`restore_state` resumes exactly or raises. `restore_groups` transfers named parameter groups
exactly, and takes no optimizer and no step.

    CHECKPOINTS/STEP/params/     one array for each parameter
    CHECKPOINTS/STEP/opt_state/  the optimizer's; an imported checkpoint has none
    CHECKPOINTS/STEP/metadata/   JSON: config, tokenizer, data cursor, fingerprints, versions
"""

import contextlib
import functools
import itertools
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

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
from bert_jax.distributed.processes import any_process, first_alone, versions
from bert_jax.errors import UserError
from bert_jax.objectives.losses import Params
from bert_jax.training.state import TrainState

FOLDER = "checkpoints"  # of a run's directory
DAMAGED = "damaged"  # of a run's directory, for checkpoints that are set aside
CHECKPOINT_FORMAT = 2  # of what is written here; readers refuse a later one


class DamagedCheckpoint(UserError):
    """A checkpoint is not what was saved."""


class Checkpoints:
    """The checkpoints of one run; saving goes on in the background."""

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        keep: int,
        keep_best: bool = False,
        keep_every_steps: int = 0,
    ) -> None:
        """Opens WORKDIR/checkpoints, making it when the first is saved.

        Args:
          workdir: of the run.
          keep: how many of the newest are kept.
          keep_best: keep the one with the highest score too, of those that have one.
          keep_every_steps: keep those of its multiples too; 0: none of them.
        """
        policies: list[Any] = [LatestN(keep)]
        if keep_every_steps:
            policies.append(EveryNSteps(keep_every_steps))
        if keep_best:
            policies.append(
                BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False)
            )
        self._manager = ocp.CheckpointManager(
            (pathlib.Path(workdir) / FOLDER).absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=AnyPreservationPolicy(policies),
                best_fn=_score if keep_best else None,  # without it, scores are not written
            ),
        )

    def save(self, state: TrainState, metadata: dict[str, Any], score: float | None = None) -> None:
        """Saves a step; returns when the arrays are copied, and the step may go on.

        Args:
          state: its `step` names the checkpoint; its `opt_state` may be None, so that it can be
            started from, and not resumed.
          metadata: JSON-ready; what a user of the checkpoint needs besides its arrays.
          score: for `keep_best`, higher is better.

        Raises:
          UserError: if this one, or the one before, cannot be written.
        """
        step = int(jax.device_get(state.step))
        arrays = {"params": state.params}
        if state.opt_state is not None:
            arrays["opt_state"] = state.opt_state
        metadata = metadata | {
            "format": CHECKPOINT_FORMAT,
            "step": step,
            "fingerprints": {item: fingerprints(tree) for item, tree in arrays.items()},
            "versions": versions(),
        }
        metadata["digest"] = json_digest(metadata)
        with self._told():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    **{item: ocp.args.StandardSave(tree) for item, tree in arrays.items()},
                    metadata=ocp.args.JsonSave(metadata),
                ),
                metrics=None if score is None else {"score": score},
            )

    def close(self) -> None:
        """Finishes saving and lets go of the directory."""
        with self._told():
            self._manager.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turns a failure to save, this time or the time before, into UserError."""
        try:
            yield
        except Exception as error:  # the writers have no type of their own for a full disk
            full = "No space left" in str(error)
            raise UserError(
                f"cannot save a checkpoint in {self._manager.directory}"
                f" ({'no space left' if full else _reason(error)}): free some space or mend the"
                " disk, and give the same command again"
            ) from error


def _score(metrics: Any) -> float:
    return metrics["score"]


def steps_in(directory: str | os.PathLike) -> list[int]:
    """Returns the finished checkpoints of a run or a folder of checkpoints, ascending."""
    folder = pathlib.Path(directory) / FOLDER
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def find_checkpoint(directory: str | os.PathLike) -> pathlib.Path:
    """Finds what a user means by a checkpoint: a run (its best or newest step), or one step.

    Raises:
      UserError: if there is none.
    """
    given = pathlib.Path(directory).expanduser().absolute()
    if (given / "metadata").is_dir():
        return given
    run = given.parent if given.name == FOLDER else given
    steps = steps_in(run)
    if not steps:
        raise UserError(
            f"{directory} holds no checkpoint: name the directory of a run (its --workdir)"
            " or one of its checkpoints/STEP"
        )
    manager = ocp.CheckpointManager(
        run / FOLDER, options=ocp.CheckpointManagerOptions(read_only=True, best_fn=_score)
    )
    scores = {step: _score(each) for step in steps if (each := manager.metrics(step))}
    manager.close()
    best = max(scores, key=lambda step: scores[step]) if scores else steps[-1]
    return run / FOLDER / str(best)


def read_metadata(checkpoint: pathlib.Path) -> dict[str, Any]:
    """Reads what `Checkpoints.save` was told, and what it added.

    Raises:
      UserError: if it cannot be read, or is not what was saved.
    """
    try:
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            metadata = reader.restore(checkpoint / "metadata")
        digest = metadata.pop("digest", None)
    except Exception as error:  # a damaged file makes the readers below raise anything
        raise _damaged(checkpoint / "metadata", _reason(error)) from error
    if (version := metadata.get("format", 0)) > CHECKPOINT_FORMAT:
        raise UserError(
            f"{checkpoint} has format {version}, and this version of bert_jax reads formats up to"
            f" {CHECKPOINT_FORMAT}: use version {metadata['versions']['bert_jax']}, which wrote it,"
            " or a later one"
        )
    if digest != json_digest(metadata):
        raise _damaged(checkpoint / "metadata", "its content is not what was saved")
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

    The caller must hold the directory. At least one checkpoint must be there.

    Args:
      workdir: of the run.
      abstract: the state that the run would have, with shardings.

    Returns:
      The state, the metadata of its checkpoint, and a warning for each that was damaged.

    Raises:
      UserError: if none is sound, or one does not fit the run.
    """
    workdir, damaged = pathlib.Path(workdir), []
    for step in reversed(steps_in(workdir)):
        checkpoint = workdir / FOLDER / str(step)
        try:
            metadata = read_metadata(checkpoint)
            state = restore_state(checkpoint, abstract)
        except DamagedCheckpoint as error:
            damaged.append((step, str(error).partition(": remove this")[0]))
            continue
        for lost, _ in damaged:
            first_alone(functools.partial(_set_aside, workdir, lost))
        warnings = [
            f"warning: {reason}; it is set aside in {workdir / DAMAGED}, and steps {step + 1:,} to"
            f" {lost:,} are done again"
            for lost, reason in damaged
        ]
        return state, metadata, warnings
    raise UserError(
        f"no checkpoint of {workdir} is sound ({damaged[0][1]}): bring one back from a copy, or"
        " name another --workdir to begin anew"
    )


def _set_aside(workdir: pathlib.Path, step: int) -> None:
    """Moves a checkpoint where no run looks for one, and keeps what is there already."""
    (workdir / DAMAGED).mkdir(exist_ok=True)
    names = (str(step) if n == 0 else f"{step}-{n}" for n in itertools.count())
    free = next(name for name in names if not (workdir / DAMAGED / name).exists())
    os.rename(workdir / FOLDER / str(step), workdir / DAMAGED / free)


def _damaged(path: pathlib.Path, reason: str) -> DamagedCheckpoint:
    said = f"{path} is damaged ({reason}): remove this checkpoint to use an earlier one"
    return DamagedCheckpoint(said)


def _reason(error: Exception) -> str:
    """Says what a library found, in a few words: its messages can be pages."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"


def restore_state(checkpoint: pathlib.Path, abstract: TrainState) -> TrainState:
    """Restores everything, exactly.

    Args:
      checkpoint: CHECKPOINTS/STEP.
      abstract: the state that the run would have, with shardings.

    Raises:
      UserError: if a name, shape or dtype differs, or a bit of any array.
    """
    metadata = read_metadata(checkpoint)
    params = _restore(checkpoint, "params", abstract.params, metadata)
    opt_state = _restore(checkpoint, "opt_state", abstract.opt_state, metadata)
    step = jax.device_put(jnp.asarray(metadata["step"], jnp.int32), abstract.step.sharding)
    return TrainState(step, params, opt_state)


def restore_groups(
    checkpoint: pathlib.Path, abstract_params: Params, groups: Iterable[str]
) -> Params:
    """Restores named top-level parameter groups, exactly, and nothing else.

    Args:
      checkpoint: CHECKPOINTS/STEP.
      abstract_params: of the model that receives them, with shardings.
      groups: such as ('encoder', 'pooler').

    Raises:
      UserError: if a name, shape or dtype in these groups differs, or a bit of any array.
    """
    wanted = {group: abstract_params[group] for group in groups}
    if not wanted:
        return {}  # Orbax would take an empty tree for a mistake
    return _restore(checkpoint, "params", wanted, read_metadata(checkpoint), partial=True)


def groups_in(checkpoint: pathlib.Path) -> tuple[str, ...]:
    """Names the top-level parameter groups of a checkpoint."""
    return tuple(_stored(checkpoint, "params"))


def _restore(
    checkpoint: pathlib.Path,
    item: str,
    abstract: Any,
    metadata: dict[str, Any],
    *,
    partial: bool = False,
) -> Any:
    stored = _stored(checkpoint, item)
    if partial:
        stored = {group: stored[group] for group in abstract if group in stored}
    problems = differences(_leaves(stored), _leaves(abstract))
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise UserError(f"{checkpoint}/{item} does not fit: {'; '.join(problems[:3])}{more}")
    restored, failure = None, None
    try:
        # The handler alone: a checkpointer would wait for processes that found damage.
        with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
            restored = reader.restore(
                (checkpoint / item).absolute(),  # pyright: ignore[reportArgumentType]
                args=ocp.args.PyTreeRestore(
                    item=abstract,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
                    partial_restore=partial,
                ),
            )
    except Exception as error:  # as above
        failure = error
    if any_process(failure is not None):
        reason = _reason(failure) if failure else "another process cannot read its part"
        raise _damaged(checkpoint / item, reason) from failure
    for name, found in fingerprints(restored).items():
        if found != metadata["fingerprints"][item].get(name):
            raise _damaged(checkpoint / item, f"the bits of {name} are not those that were saved")
    return restored


def _stored(checkpoint: pathlib.Path, item: str) -> Any:
    """Returns the tree of an item with the metadata of its arrays for leaves."""
    try:
        with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
            path = (checkpoint / item).absolute()  # Orbax reads no other
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


def differences(stored: dict[str, tuple], wanted: dict[str, tuple]) -> list[str]:
    """Lists every missing, unexpected, misshapen or differently typed array, in words."""
    problems = [f"{name} is missing" for name in wanted.keys() - stored.keys()]
    problems += [f"{name} is unexpected" for name in stored.keys() - wanted.keys()]
    problems += [
        f"{name} is {_words(stored[name])}, not {_words(wanted[name])}"
        for name in wanted.keys() & stored.keys()
        if stored[name] != wanted[name]
    ]
    return sorted(problems)


def _words(leaf: tuple[tuple[int, ...], str]) -> str:
    return f"{leaf[1]}[{','.join(map(str, leaf[0]))}]"


def arrays_in(checkpoint: pathlib.Path, item: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Returns shape and dtype of each array of an item by its name, and reads none of them.

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
    """Reads one array onto this host, whatever mesh wrote it, and nothing of the others.

    Args:
      checkpoint: CHECKPOINTS/STEP.
      item: 'params' or 'opt_state'.
      name: of the array, one of `arrays_in`.
      metadata: of the checkpoint.

    Raises:
      UserError: if it cannot be read, or is not what was saved.
    """
    wanted = ocp.RestoreArgs(restore_type=np.ndarray)
    target = jax.tree_util.tree_map_with_path(
        lambda path, _: wanted if leaf_name(path) == name else ocp.PLACEHOLDER,
        _stored(checkpoint, item),
    )
    try:
        with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
            restored = reader.restore(
                (checkpoint / item).absolute(),  # pyright: ignore[reportArgumentType]
                args=ocp.args.PyTreeRestore(item=target, restore_args=target),
            )
    except Exception as error:  # as above
        raise _damaged(checkpoint / item, f"{name}: {_reason(error)}") from error
    array = next(leaf for leaf in jax.tree.leaves(restored) if leaf is not ocp.PLACEHOLDER)
    if fingerprints({name: array})[name] != metadata["fingerprints"][item].get(name):
        raise _damaged(checkpoint / item, f"the bits of {name} are not those that were saved")
    return array

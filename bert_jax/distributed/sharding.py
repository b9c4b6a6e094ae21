"""The mesh, the table of logical axes, and host rows made into global arrays."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.linen.spmd import logical_to_mesh_sharding
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bert_jax.config import EncoderConfig, MeshConfig
from bert_jax.data.packing.batches import split_rows
from bert_jax.errors import UserError

MESH_AXES = ("data", "fsdp", "tensor")
RUNS_AXIS = "runs"  # of the mesh of several runs at once

# Logical axis -> mesh axes. An axis that is not named here is whole on every device.
LOGICAL_AXIS_RULES = (
    ("batch", ("data", "fsdp")),
    ("embed", "fsdp"),
    ("heads", "tensor"),
    ("mlp", "tensor"),
)
BATCH_SPEC = PartitionSpec(dict(LOGICAL_AXIS_RULES)["batch"])


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Arranges devices, all of them by default, as (data, fsdp, tensor).

    Raises:
      UserError: if the sizes do not multiply to the number of devices, or do not suit the torus
        that their links make.
    """
    devices = jax.devices() if devices is None else devices
    inner = config.fsdp * config.tensor
    data = config.data or len(devices) // inner
    if data * inner != len(devices):
        raise UserError(
            f"--config.mesh: data={config.data} x fsdp={config.fsdp} x tensor={config.tensor}"
            f" does not make {len(devices)} devices: choose sizes whose product is {len(devices)}"
        )
    shape = (data, config.fsdp, config.tensor)
    axis_types = (AxisType.Auto,) * len(shape)  # make_mesh's own default has no use here: Explicit
    try:
        return jax.make_mesh(shape, MESH_AXES, axis_types=axis_types, devices=devices)
    except NotImplementedError:
        sides = np.max([device.coords for device in devices], axis=0) + 1
        raise UserError(
            f"--config.mesh: data={data} x fsdp={config.fsdp} x tensor={config.tensor} cannot be"
            f" laid over chips linked as {' x '.join(map(str, sides))}: choose sizes that are"
            " products of those"
        ) from None


def make_runs_mesh(config: MeshConfig) -> Mesh:
    """Arranges all devices along an axis of their own, `runs`, before those of `make_mesh`.

    Each device has whole runs: to rows and to parameters the mesh is that of a single device.

    Raises:
      UserError: if the config splits a model, or does not make the number of devices.
    """
    for axis in ("fsdp", "tensor"):
        if (size := getattr(config, axis)) != 1:
            raise UserError(
                f"--config.mesh.{axis}={size} splits a run over devices, and here each device has"
                f" whole runs: set it to 1"
            )
    devices = make_mesh(config).devices.reshape(-1, 1, 1, 1)
    return Mesh(devices, (RUNS_AXIS, *MESH_AXES), axis_types=(AxisType.Auto,) * devices.ndim)


def row_groups(mesh: Mesh) -> int:
    """Counts the groups of devices that a batch's rows are split over."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def check_batch_size(batch_size: int, mesh: Mesh, parts: int = 1) -> None:
    """Raises UserError unless the rows divide among the data axes of the mesh, and then parts."""
    groups = row_groups(mesh)
    if batch_size % (groups * parts):
        into = f" and {parts} micro_batches in each" if parts > 1 else ""
        raise UserError(
            f"--config.batch_size={batch_size} cannot be split over {groups} groups of devices"
            f"{into}: choose a multiple of {groups * parts}"
        )


def check_encoder(config: EncoderConfig, mesh: Mesh) -> None:
    """Raises UserError unless what the mesh splits of the encoder divides."""
    for field, axis in (("width", "fsdp"), ("heads", "tensor"), ("mlp_width", "tensor")):
        size, parts = getattr(config, field), mesh.shape[axis]
        if size % parts:
            raise UserError(
                f"--config.mesh.{axis}={parts} does not divide encoder.{field}={size}:"
                " choose a divisor of it"
            )


def split_micro_batches(
    batch: dict[str, jax.Array], parts: int, mesh: Mesh
) -> dict[str, jax.Array]:
    """Cuts a batch inside each device's rows, so that no row moves to another device.

    Args:
      batch: field -> [B, ...], split over the data axes; B divides among parts and groups.
      parts: A.
      mesh: from `make_mesh`.

    Returns:
      field -> [A, B / A, ...], the second axis split over the data axes.
    """
    groups = row_groups(mesh)
    sharding = NamedSharding(mesh, PartitionSpec(None, *BATCH_SPEC))

    def cut(field: jax.Array) -> jax.Array:
        own = field.reshape(groups, parts, -1, *field.shape[1:])
        field = own.swapaxes(0, 1).reshape(parts, -1, *field.shape[1:])
        return jax.lax.with_sharding_constraint(field, sharding)

    return jax.tree.map(cut, batch)


def parameter_shardings(abstract_variables: dict, mesh: Mesh) -> dict:
    """Returns the sharding of each parameter, from the logical axes that the modules declared.

    Args:
      abstract_variables: `jax.eval_shape` of a module's `init`, boxed.
      mesh: from `make_mesh`.
    """
    specs = nn.get_partition_spec(abstract_variables)
    return logical_to_mesh_sharding(specs, mesh, LOGICAL_AXIS_RULES)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def host_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
    """Names the rows of the global batch that this host's devices hold.

    Where a model is split across hosts, several hosts hold the same rows; so rows are asked of the
    devices' index map, never computed from the process index.

    Returns:
      [rows] int64, ascending.
    """
    index_map = NamedSharding(mesh, BATCH_SPEC).addressable_devices_indices_map((batch_size,))
    parts = [np.arange(batch_size)[index] for index in index_map.values()]
    return np.unique(np.concatenate(parts))


def global_batch(
    local: dict[str, np.ndarray], rows: np.ndarray, batch_size: int, mesh: Mesh
) -> dict[str, jax.Array]:
    """Makes global arrays of this host's rows.

    Args:
      local: field -> [len(rows), ...], the rows that `host_rows` named, in that order.
      rows: what `host_rows` returned.
      batch_size: B.
      mesh: from `make_mesh`.

    Returns:
      field -> [B, ...], split over the data axes.
    """
    sharding = NamedSharding(mesh, BATCH_SPEC)

    def make(field: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            begin, end, _ = index[0].indices(batch_size)
            at = np.searchsorted(rows, begin)
            return field[at : at + end - begin]

        return jax.make_array_from_callback((batch_size, *field.shape[1:]), sharding, part)

    with jax.transfer_guard_host_to_device("allow"):  # here and below a run's data crosses
        return {name: make(field) for name, field in local.items()}


def runs_batch(
    batches: dict[str, np.ndarray], batch_of: np.ndarray, mesh: Mesh
) -> dict[str, jax.Array]:
    """Gives each run its batch; every device gets those of its own runs.

    Args:
      batches: field -> [S, ...], different batches.
      batch_of: [runs] int64 in [0, S), whose each run takes; runs divide among the devices.
      mesh: from `make_runs_mesh`.

    Returns:
      field -> [runs, ...], split over the runs.
    """
    sharding = NamedSharding(mesh, PartitionSpec(RUNS_AXIS))

    def make(field: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            return field[batch_of[index[0]]]

        shape = (len(batch_of), *field.shape[1:])
        return jax.make_array_from_callback(shape, sharding, part)

    with jax.transfer_guard_host_to_device("allow"):
        return {name: make(field) for name, field in batches.items()}


def global_batches(
    rows: dict[str, np.ndarray], batch_size: int, mesh: Mesh
) -> Iterator[dict[str, jax.Array]]:
    """Splits rows that every host holds into global batches; the last is filled with empty rows.

    Args:
      rows: field -> [R, ...], at least one row.
      batch_size: B.
      mesh: from `make_mesh`.
    """
    local = host_rows(batch_size, mesh)
    for batch in split_rows(rows, batch_size):
        mine = {name: field[local] for name, field in batch.items()}
        yield global_batch(mine, local, batch_size, mesh)


def describe(mesh: Mesh) -> str:
    """Says the mesh in a few words: '8 cpu devices: data=8 fsdp=1 tensor=1'."""
    sizes = " ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    kind = mesh.devices.flat[0].device_kind
    return f"{math.prod(mesh.shape.values())} x {kind}: {sizes}"

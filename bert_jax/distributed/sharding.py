"""The mesh, the sharding rules of logical axes, and global arrays made of each host's rows."""

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
RUNS_AXIS = "runs"  # first axis of the mesh of several runs at once

# Logical axis -> mesh axes. An axis that is not in the table is not split.
LOGICAL_AXIS_RULES = (
    ("batch", ("data", "fsdp")),
    ("embed", "fsdp"),
    ("heads", "tensor"),
    ("mlp", "tensor"),
)
BATCH_SPEC = PartitionSpec(dict(LOGICAL_AXIS_RULES)["batch"])


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns the mesh (data, fsdp, tensor) of some devices, by default of all.

    Raises:
      UserError: if the product of the sizes is not the number of devices, or the sizes do not fit
        the torus in which the chips are linked.
    """
    devices = jax.devices() if devices is None else devices
    inner = config.fsdp * config.tensor
    data = config.data or len(devices) // inner
    if data * inner != len(devices):
        raise UserError(
            f"--config.mesh: data={config.data} x fsdp={config.fsdp} x tensor={config.tensor}"
            f" does not match {len(devices)} devices: choose sizes whose product is {len(devices)}"
        )
    shape = (data, config.fsdp, config.tensor)
    axis_types = (AxisType.Auto,) * len(shape)  # Linen's logical axes need Auto, not the default
    try:
        return jax.make_mesh(shape, MESH_AXES, axis_types=axis_types, devices=devices)
    except NotImplementedError:
        sides = np.max([device.coords for device in devices], axis=0) + 1
        raise UserError(
            f"--config.mesh: data={data} x fsdp={config.fsdp} x tensor={config.tensor} does not"
            f" fit chips linked as {' x '.join(map(str, sides))}: choose sizes that are products of"
            " these"
        ) from None


def make_runs_mesh(config: MeshConfig) -> Mesh:
    """Returns the mesh (runs, data, fsdp, tensor) with all devices along `runs`.

    Each device trains whole runs: the axes for rows and parameters have size 1.

    Raises:
      UserError: if the config splits a model, or its product is not the number of devices.
    """
    for axis in ("fsdp", "tensor"):
        if (size := getattr(config, axis)) != 1:
            raise UserError(
                f"--config.mesh.{axis}={size} splits a run over devices, but a sweep trains whole"
                " runs on each: set it to 1"
            )
    devices = make_mesh(config).devices.reshape(-1, 1, 1, 1)
    return Mesh(devices, (RUNS_AXIS, *MESH_AXES), axis_types=(AxisType.Auto,) * devices.ndim)


def row_groups(mesh: Mesh) -> int:
    """Returns the number of groups of devices that a batch's rows are split over."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def check_batch_size(
    batch_size: int, mesh: Mesh, count: int = 1, field: str = "batch_size"
) -> None:
    """Raises UserError unless a batch divides among groups of devices, then micro-batches.

    Args:
      batch_size: rows of a global batch.
      mesh: from `make_mesh`.
      count: micro-batches in a batch.
      field: of the config that has the size, for messages.
    """
    groups = row_groups(mesh)
    if batch_size % (groups * count):
        into = f" and {count} micro_batches in each" if count > 1 else ""
        raise UserError(
            f"--config.{field}={batch_size} cannot be split over {groups} groups of devices"
            f"{into}: choose a multiple of {groups * count}"
        )


def check_encoder(config: EncoderConfig, mesh: Mesh) -> None:
    """Raises UserError unless the mesh divides the encoder's sizes that it splits."""
    split = {
        "width": "fsdp",
        "embedding_width": "fsdp",
        "heads": "tensor",
        "kv_heads": "tensor",
        "mlp_width": "tensor",
    }
    for field, axis in split.items():
        size, shards = getattr(config, field), mesh.shape[axis]  # a size of 0 is another's
        if size % shards:
            raise UserError(
                f"--config.mesh.{axis}={shards} does not divide encoder.{field}={size}:"
                " choose a divisor of it"
            )


def split_micro_batches(
    batch: dict[str, jax.Array], count: int, mesh: Mesh
) -> dict[str, jax.Array]:
    """Splits a batch into micro-batches without moving a row to another device.

    Args:
      batch: field -> [B, ...], split over the data axes; B is a multiple of A times the groups.
      count: A.
      mesh: from `make_mesh`.

    Returns:
      field -> [A, B / A, ...], the second axis split over the data axes.
    """
    groups = row_groups(mesh)
    sharding = NamedSharding(mesh, PartitionSpec(None, *BATCH_SPEC))

    def split(field: jax.Array) -> jax.Array:
        by_group = field.reshape(groups, count, -1, *field.shape[1:])
        field = by_group.swapaxes(0, 1).reshape(count, -1, *field.shape[1:])
        return jax.lax.with_sharding_constraint(field, sharding)

    return jax.tree.map(split, batch)


def parameter_shardings(abstract_variables: dict, mesh: Mesh) -> dict:
    """Returns the sharding of each parameter, by the logical axes that its module declares.

    Args:
      abstract_variables: `jax.eval_shape` of a module's `init`, with Flax's metadata boxes.
      mesh: from `make_mesh`.
    """
    specs = nn.get_partition_spec(abstract_variables)
    return logical_to_mesh_sharding(specs, mesh, LOGICAL_AXIS_RULES)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that every device has whole."""
    return NamedSharding(mesh, PartitionSpec())


def host_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
    """Returns the rows of the global batch that this host's devices have.

    If a model is split across hosts, several hosts have the same rows: so the rows come from the
    devices' index map, not from the process index.

    Returns:
      [rows] int64, ascending.
    """
    index_map = NamedSharding(mesh, BATCH_SPEC).addressable_devices_indices_map((batch_size,))
    rows = [np.arange(batch_size)[index] for index in index_map.values()]
    return np.unique(np.concatenate(rows))


def global_batch(
    local: dict[str, np.ndarray], rows: np.ndarray, batch_size: int, mesh: Mesh
) -> dict[str, jax.Array]:
    """Makes global arrays of this host's rows.

    Args:
      local: field -> [len(rows), ...], these rows in this order.
      rows: from `host_rows`.
      batch_size: B.
      mesh: from `make_mesh`.

    Returns:
      field -> [B, ...], split over the data axes.
    """
    sharding = NamedSharding(mesh, BATCH_SPEC)

    def make(field: np.ndarray) -> jax.Array:
        def shard(index: Any) -> np.ndarray:
            begin, end, _ = index[0].indices(batch_size)
            at = np.searchsorted(rows, begin)
            return field[at : at + end - begin]

        return jax.make_array_from_callback((batch_size, *field.shape[1:]), sharding, shard)

    # The only transfers of a training loop are here and in `runs_batch`.
    with jax.transfer_guard_host_to_device("allow"):
        return {name: make(field) for name, field in local.items()}


def runs_batch(
    batches: dict[str, np.ndarray], batch_of: np.ndarray, mesh: Mesh
) -> dict[str, jax.Array]:
    """Makes global arrays of the batches of several runs, each on the device of its run.

    Args:
      batches: field -> [S, ...], S different batches.
      batch_of: [runs] int64 in [0, S), the batch of each run; a multiple of the devices.
      mesh: from `make_runs_mesh`.

    Returns:
      field -> [runs, ...], split over the runs.
    """
    sharding = NamedSharding(mesh, PartitionSpec(RUNS_AXIS))

    def make(field: np.ndarray) -> jax.Array:
        def shard(index: Any) -> np.ndarray:
            return field[batch_of[index[0]]]

        shape = (len(batch_of), *field.shape[1:])
        return jax.make_array_from_callback(shape, sharding, shard)

    with jax.transfer_guard_host_to_device("allow"):
        return {name: make(field) for name, field in batches.items()}


def global_batches(
    rows: dict[str, np.ndarray], batch_size: int, mesh: Mesh
) -> Iterator[dict[str, jax.Array]]:
    """Yields global batches of rows that every host has, the last filled with empty rows.

    Args:
      rows: field -> [R, ...], at least one row.
      batch_size: B.
      mesh: from `make_mesh`.
    """
    local = host_rows(batch_size, mesh)
    for batch in split_rows(rows, batch_size):
        own = {name: field[local] for name, field in batch.items()}
        yield global_batch(own, local, batch_size, mesh)


def describe(mesh: Mesh) -> str:
    """Describes the mesh: '8 x TPU v5e: data=8 fsdp=1 tensor=1'."""
    sizes = " ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    kind = mesh.devices.flat[0].device_kind
    return f"{math.prod(mesh.shape.values())} x {kind}: {sizes}"

"""What compiled programs cost, against hand counts and XLA's own analysis."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bert_jax.config import MeshConfig
from bert_jax.distributed import sharding
from bert_jax.planning.hlo import parse_arrays, parse_groups, parse_program
from bert_jax.planning.hlo_costs import Costs, axes_of_groups, program_costs


def compiled_costs(function: Callable, *arguments: Any, devices: int = 1) -> tuple[Costs, Any]:
    """Returns our costs of a compiled function, and XLA's."""
    compiled = jax.jit(function).lower(*arguments).compile()
    return program_costs(parse_program(compiled.as_text()), devices), compiled.cost_analysis()


def moved_by(costs: Costs, **mesh: int) -> dict[tuple[str, str], tuple[int, float, float]]:
    """Returns runs, payload and sent bytes by (operation, axes)."""
    found: dict[tuple[str, str], tuple[int, float, float]] = {}
    for collective, moved in costs.collectives.items():
        key = collective.operation, axes_of_groups(collective.groups, mesh)
        before = found.get(key, (0, 0.0, 0.0))
        now = moved.runs, moved.payload_bytes, moved.sent_bytes
        found[key] = tuple(map(sum, zip(before, now, strict=True)))  # pyright: ignore
    return found


# --- reading


@pytest.mark.parametrize(
    ("written", "groups"),
    [
        ("replica_groups={{0,2},{1,3}}, x", [[0, 2], [1, 3]]),
        ("replica_groups={}, x", []),
        ("replica_groups=[2,3]<=[6], x", [[0, 1, 2], [3, 4, 5]]),
        ("replica_groups=[3,2]<=[2,3]T(1,0), x", [[0, 3], [1, 4], [2, 5]]),
        ("replica_groups=mesh['a'=2,'b'=3] {'b'}, x", [[0, 1, 2], [3, 4, 5]]),
        ("replica_groups=mesh['a'=2,'b'=3] {'a'}, x", [[0, 3], [1, 4], [2, 5]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}, x", [[0, 1, 2, 3]]),
        (
            "replica_groups=mesh['a'=3,'b'=2], device_ids=([2,3]T(1,0)) {'b'}",
            [[0, 3], [1, 4], [2, 5]],
        ),
        ("replica_groups=mesh['a'=6,'b'=1] {'a':(1)2}, x", [[0, 3], [1, 4], [2, 5]]),
        ("replica_groups=mesh['a'=6,'b'=1] {'a':(2)3}, x", [[0, 1, 2], [3, 4, 5]]),
        ("source_target_pairs={{0,1},{1,0}}, x", [[0, 1], [1, 0]]),
    ],
)
def test_groups_of_devices_are_read_in_every_form(written: str, groups: list[list[int]]) -> None:
    assert parse_groups(f"channel_id=1, {written}") == groups


def test_unreadable_groups_are_an_error() -> None:
    with pytest.raises(ValueError, match="no groups of devices"):
        parse_groups("replica_groups=elsewhere")


def test_axes_of_groups() -> None:
    mesh = {"data": 2, "fsdp": 3, "tensor": 4}
    assert axes_of_groups([(0, 12)], mesh) == "data"
    assert axes_of_groups([(1, 5, 9), (2, 6, 10)], mesh) == "fsdp"
    assert axes_of_groups([(0, 3)], mesh) == "tensor"
    assert axes_of_groups([(0, 4, 12, 16)], mesh) == "data fsdp"
    assert axes_of_groups([(2, 3), (3, 4)], mesh) == "fsdp tensor"  # pairs of a ring
    assert axes_of_groups((), mesh) == "data fsdp tensor"


def test_shapes_are_read_with_their_memory() -> None:
    array, other = parse_arrays("(bf16[3,5]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/pred[7]{0})")
    assert (array.dimensions, array.bytes, array.in_main_memory) == ((3, 5), 30, False)
    assert (other.bytes, other.in_main_memory) == (7, True)
    assert parse_arrays("f32[]")[0].bytes == 4


# --- collective operations, counted by hand


def placed(shape: tuple[int, ...], mesh: Any, *axes: Any) -> jax.ShapeDtypeStruct:
    where = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=where)


def test_data_parallel_gradients_are_all_reduced_once() -> None:
    mesh = sharding.make_mesh(MeshConfig())
    whole = NamedSharding(mesh, PartitionSpec())

    @functools.partial(jax.grad, argnums=(0, 1))
    def gradient(kernel: jax.Array, bias: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(x @ kernel + bias[None, :]))

    step = jax.jit(gradient, out_shardings=whole)
    arguments = placed((12, 20), mesh), placed((20,), mesh), placed((16, 12), mesh, "data")
    program = parse_program(step.lower(*arguments).compile().as_text())
    moved = moved_by(program_costs(program, 8), **mesh.shape)
    payload = 4 * (12 * 20 + 20)  # exactly the parameters
    assert list(moved) == [("all-reduce", "data")]
    assert moved["all-reduce", "data"][1:] == (payload, 2 * payload * 7 / 8)


def test_parameters_that_are_split_are_gathered() -> None:
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=4))
    gather = jax.jit(lambda kernel: kernel + 1, out_shardings=NamedSharding(mesh, PartitionSpec()))
    text = gather.lower(placed((12, 20), mesh, "fsdp")).compile().as_text()
    moved = moved_by(program_costs(parse_program(text), 8), **mesh.shape)
    gathered = 4 * 12 * 20
    assert moved == {("all-gather", "fsdp"): (1, gathered, gathered * 3 / 4)}


def test_split_features_are_summed_as_often_as_the_loop_runs() -> None:
    mesh = sharding.make_mesh(MeshConfig(data=4, tensor=2))
    arguments = (
        placed((5, 12, 20), mesh, None, None, "tensor"),
        placed((5, 20, 12), mesh, None, "tensor"),
        placed((16, 12), mesh, "data"),
    )

    def layers(up: jax.Array, down: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, w: (jnp.sin(x @ w[0]) @ w[1], None), x, (up, down))[0]

    costs, _ = compiled_costs(layers, *arguments, devices=8)
    payload = 5 * 4 * (16 // 4) * 12  # the rows of a device, a layer at a time
    assert moved_by(costs, **mesh.shape) == {("all-reduce", "tensor"): (5, payload, payload)}
    assert costs.flops == 5 * 2 * 2 * (16 // 4) * 12 * (20 // 2)


# --- products and traffic, against XLA where there is no loop


def chain(x: jax.Array, stack: jax.Array, unroll: int) -> jax.Array:
    """Applies [L, D, D] maps one after another."""

    def layer(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, None]:
        return jnp.tanh(x @ kernel), None

    return jax.lax.scan(layer, x, stack, unroll=unroll)[0]


def test_a_loop_costs_what_its_layers_cost_apart() -> None:
    x, stack = jnp.zeros((24, 160)), jnp.zeros((6, 160, 160))
    scanned, once = compiled_costs(functools.partial(chain, unroll=1), x, stack)
    unrolled, xla = compiled_costs(functools.partial(chain, unroll=6), x, stack)
    assert scanned.flops == unrolled.flops == 6 * 2 * 24 * 160 * 160
    assert unrolled.flops == pytest.approx(xla["flops"], rel=0.01)
    assert unrolled.memory_bytes == pytest.approx(xla["bytes accessed"], rel=0.1)
    # Each layer reads its slice of the stack, not the stack.
    assert scanned.memory_bytes == pytest.approx(unrolled.memory_bytes, rel=0.35)
    assert once["flops"] < 0.5 * xla["flops"]  # witness: XLA counts the loop's body once


def test_batched_products() -> None:
    x, y = jnp.zeros((3, 5, 7)), jnp.zeros((3, 7, 11))
    costs, _ = compiled_costs(lambda x, y: jnp.einsum("bij,bjk->bik", x, y), x, y)
    assert costs.flops == 2 * 3 * 5 * 7 * 11


# --- what only TPU programs have

TPU_PROGRAM = """
HloModule step, is_scheduled=true

%piece (p.0: f32[4,6], p.1: f32[4,6]) -> f32[4,6] {
  %p.0 = f32[4,6]{1,0:T(8,128)} parameter(0)
  %p.1 = f32[4,6]{1,0:T(8,128)S(1)} parameter(1)
  %all-reduce.1 = f32[4,6]{1,0:T(8,128)} all-reduce(%p.0), channel_id=7, replica_groups=[1,2]<=[2], to_apply=%sum
  ROOT %add.1 = f32[4,6]{1,0:T(8,128)} add(%all-reduce.1, %p.1)
}

%other_piece (p.2: f32[4,6]) -> f32[4,6] {
  %p.2 = f32[4,6]{1,0:T(8,128)} parameter(0)
  ROOT %all-reduce.2 = f32[4,6]{1,0:T(8,128)} all-reduce(%p.2), channel_id=7, replica_groups=[1,2]<=[2], to_apply=%sum
}

%all-reduce-scatter.1 (p.3: f32[4,6]) -> f32[2,6] {
  %p.3 = f32[4,6]{1,0:T(8,128)} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %all-reduce.3 = f32[4,6]{1,0:T(8,128)} all-reduce(%p.3), channel_id=8, replica_groups=[1,2]<=[2], to_apply=%sum
  ROOT %dynamic-slice.1 = f32[2,6]{1,0:T(8,128)} dynamic-slice(%all-reduce.3, %zero, %zero), dynamic_slice_sizes={2,6}
}

%condition (c.0: (s32[], f32[4,6])) -> pred[] {
  %c.0 = (s32[]{:T(128)}, f32[4,6]{1,0:T(8,128)}) parameter(0)
  %limit = s32[]{:T(128)S(6)} constant(5)
  %i.0 = s32[]{:T(128)S(6)} get-tuple-element(%c.0), index=0
  ROOT %lt.0 = pred[]{:T(512)S(6)} compare(%i.0, %limit), direction=LT
}

%body (b.0: (s32[], f32[4,6])) -> (s32[], f32[4,6]) {
  %b.0 = (s32[]{:T(128)}, f32[4,6]{1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:T(128)S(6)} get-tuple-element(%b.0), index=0
  %x.1 = f32[4,6]{1,0:T(8,128)} get-tuple-element(%b.0), index=1
  %x.2 = f32[4,6]{1,0:T(8,128)S(1)} fusion(%x.1, %x.1), kind=kCustom, calls=%piece
  %x.3 = f32[4,6]{1,0:T(8,128)} fusion(%x.1), kind=kCustom, calls=%other_piece
  ROOT %next = (s32[]{:T(128)}, f32[4,6]{1,0:T(8,128)}) tuple(%i.1, %x.3)
}

ENTRY %main (a.0: f32[4,6], a.1: bf16[3,5,2,7], a.2: bf16[3,5,2,9]) -> f32[2,6] {
  %a.0 = f32[4,6]{1,0:T(8,128)} parameter(0)
  %a.1 = bf16[3,5,2,7]{3,2,1,0:T(8,128)(2,1)S(1)} parameter(1)
  %a.2 = bf16[3,5,2,9]{3,2,1,0:T(8,128)(2,1)S(1)} parameter(2)
  %start = s32[]{:T(128)S(6)} constant(0)
  %convolution.1 = bf16[3,5,7,9]{3,2,1,0:T(8,128)(2,1)S(1)} convolution(%a.1, %a.2), window={size=3x5 stride=2x4 lhs_dilate=3x5}, dim_labels=01fb_01io->01bf
  %state = (s32[]{:T(128)}, f32[4,6]{1,0:T(8,128)}) tuple(%start, %a.0)
  %loop = (s32[]{:T(128)}, f32[4,6]{1,0:T(8,128)}) while(%state), condition=%condition, body=%body
  %copy-start.1 = (f32[4,6]{1,0:T(8,128)S(1)}, f32[4,6]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%a.0)
  %copy-done.1 = f32[4,6]{1,0:T(8,128)S(1)} copy-done(%copy-start.1)
  %x.4 = f32[4,6]{1,0:T(8,128)} get-tuple-element(%loop), index=1
  ROOT %x.5 = f32[2,6]{1,0:T(8,128)} fusion(%x.4), kind=kCustom, calls=%all-reduce-scatter.1
}
"""  # noqa: E501


def test_what_only_tpu_programs_have() -> None:
    costs = program_costs(parse_program(TPU_PROGRAM), 2)
    whole = 4 * 4 * 6
    # A collective that two fusions share runs once; a loop says how often in its condition.
    assert moved_by(costs, data=2) == {
        ("all-reduce", "data"): (5, 5 * whole, 5 * whole),
        ("reduce-scatter", "data"): (1, whole, whole / 2),
    }
    # Batched products are convolutions in which most factors stand between dilated ones.
    assert costs.flops == 2 * (3 * 5) * 7 * 2 * 9
    # x.2 is in the chip, x.3 is not; the copy leaves the main memory; the last one writes a half.
    in_loop = 2 * whole + 2 * whole
    assert costs.memory_bytes == 5 * in_loop + whole + (whole + whole // 2)


def test_a_collective_with_pieces_in_a_loop_counts_where_it_begins() -> None:
    piece = "  %x.6 = f32[4,6]{1,0:T(8,128)S(1)} fusion(%a.0, %a.0), kind=kCustom, calls=%piece\n"
    text = TPU_PROGRAM.replace("  %x.4 =", f"{piece}  %x.4 =")
    moved = moved_by(program_costs(parse_program(text), 2), data=2)
    assert moved["all-reduce", "data"] == (1, 4 * 4 * 6, 4 * 4 * 6)


@pytest.mark.parametrize(("step", "runs"), [(1, 5), (2, 3), (4, 2)])
def test_a_loop_may_count_in_steps(step: int, runs: int) -> None:
    last = "  ROOT %next = (s32[]{:T(128)}, f32[4,6]{1,0:T(8,128)}) tuple(%i.1, %x.3)"
    counting = f"""  %step = s32[]{{:T(128)}} constant({step})
  %i.2 = s32[]{{:T(128)}} add(%i.1, %step)
"""
    text = TPU_PROGRAM.replace(last, counting + last.replace("%i.1", "%i.2"))
    moved = moved_by(program_costs(parse_program(text), 2), data=2)
    assert moved["all-reduce", "data"][0] == runs


GPU_PROGRAM = """
HloModule libraries

ENTRY %main (a: bf16[2,5,3], b: bf16[2,7,3], q: bf16[4,6,2,8]) -> bf16[4,6,2,8] {
  %a = bf16[2,5,3]{2,1,0} parameter(0)
  %b = bf16[2,7,3]{2,1,0} parameter(1)
  %q = bf16[4,6,2,8]{3,2,1,0} parameter(2)
  %product = (f32[2,5,7]{2,1,0}, s8[4194304]{0}) custom-call(%a, %b), custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"alpha_real":1,"dot_dimension_numbers":{"lhs_contracting_dimensions":["2"],"rhs_contracting_dimensions":["2"],"lhs_batch_dimensions":["0"],"rhs_batch_dimensions":["0"]}}}
  ROOT %attention = (bf16[4,6,2,8]{3,2,1,0}, u8[0]{0}) custom-call(%q, %q, %q), custom_call_target="__cudnn$fmhaSoftmax"
}
"""  # noqa: E501


def test_calls_of_libraries_count_without_their_workspace() -> None:
    costs = program_costs(parse_program(GPU_PROGRAM), 1)
    # Attention: two products of [4 x 2 heads, 6, 8] with [4 x 2 heads, 8, 6].
    assert costs.flops == 2 * (2 * 5 * 7) * 3 + 2 * 2 * (4 * 6 * 2 * 8) * 6
    product = 2 * (2 * 5 * 3) + 2 * (2 * 7 * 3) + 4 * (2 * 5 * 7)
    assert costs.memory_bytes == product + 4 * 2 * (4 * 6 * 2 * 8)


@pytest.mark.parametrize(
    ("name", "target", "products"),
    [
        ("jvp_jit_flash_attention__.1", "tpu_custom_call", 2),
        ("flash_mha_bwd_dkv_block_q_major_128.1", "tpu_custom_call", 4),
        ("flash_mha_bwd_dq_block_q_major_128.1", "tpu_custom_call", 3),
        ("sort.1", "tpu_custom_call", 0),
        ("flash_attention.2", "AllocateBuffer", 0),
    ],
)
def test_kernels_of_attention_count(name: str, target: str, products: int) -> None:
    text = f"""
HloModule kernels

ENTRY %main (q: bf16[4,2,6,8], k: bf16[4,2,5,8]) -> bf16[4,2,6,8] {{
  %q = bf16[4,2,6,8]{{3,2,1,0}} parameter(0)
  %k = bf16[4,2,5,8]{{3,2,1,0}} parameter(1)
  ROOT %{name} = bf16[4,2,6,8]{{3,2,1,0}} custom-call(%q, %k, %k), custom_call_target="{target}"
}}
"""
    costs = program_costs(parse_program(text), 1)
    assert costs.flops == products * 2 * (4 * 2) * (6 * 5 * 8)


def test_a_product_without_contracted_axes_is_an_error() -> None:
    program = parse_program(GPU_PROGRAM.replace("lhs_contracting", "lhs_other"))
    with pytest.raises(ValueError, match="product does not tell its contracted axes"):
        program_costs(program, 1)


IN_PLACE = """
HloModule traffic

%update (p.0: f32[8,6], p.1: f32[2,6], p.2: f32[4,6], i: s32[]) -> (f32[8,6], f32[4,6]) {
  %p.0 = f32[8,6]{1,0} parameter(0)
  %p.1 = f32[2,6]{1,0} parameter(1)
  %p.2 = f32[4,6]{1,0} parameter(2)
  %i = s32[]{:S(6)} parameter(3)
  %new = f32[8,6]{1,0} dynamic-update-slice(%p.0, %p.1, %i, %i)
  ROOT %both = (f32[8,6]{1,0}, f32[4,6]{1,0}) tuple(%new, %p.2)
}

ENTRY %main (a: f32[8,6], b: f32[2,6], c: f32[4,6], i: s32[], r: s32[3]) -> f32[8,6] {
  %a = f32[8,6]{1,0} parameter(0)
  %b = f32[2,6]{1,0:S(1)} parameter(1)
  %c = f32[4,6]{1,0} parameter(2)
  %i = s32[]{:S(6)} parameter(3)
  %buffer = f32[8,6]{1,0} custom-call(), custom_call_target="AllocateBuffer"
  %fusion.1 = (f32[8,6]{1,0}, f32[4,6]{1,0}) fusion(%a, %b, %c, %i), kind=kLoop, calls=%update
  %x = f32[8,6]{1,0} get-tuple-element(%fusion.1), index=0
  ROOT %y = f32[8,6]{1,0} dynamic-update-slice(%x, %c, %i, %i)
}
"""


def test_updates_in_place_cost_what_they_change() -> None:
    costs = program_costs(parse_program(IN_PLACE), 1)
    # The fusion writes two rows, out of the chip, and hands c through; y reads and writes four.
    assert costs.memory_bytes == 4 * 6 * (2 + 2 * 4)


def test_a_loop_without_a_count_is_an_error() -> None:
    text = TPU_PROGRAM.replace("constant(5)", "copy(%c.0)")
    with pytest.raises(ValueError, match="no trip count for loop"):
        program_costs(parse_program(text), 2)


def test_numpy_agrees_on_the_dilated_convolution() -> None:
    """The same convolution, run: it is the batched product that it is counted as."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, 2, 7)), rng.normal(size=(3, 2, 9))
    result = jax.lax.conv_general_dilated(
        jnp.asarray(x),
        jnp.asarray(y),
        window_strides=(2,),
        padding=((0, 0),),
        lhs_dilation=(3,),
        dimension_numbers=jax.lax.ConvDimensionNumbers((2, 1, 0), (2, 1, 0), (1, 2, 0)),
    )
    np.testing.assert_allclose(result, np.einsum("nfb,nfo->nbo", x, y), rtol=1e-5)

"""Counting what an executable does, on programs whose cost is known by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from unireason_jax.compilation import hlo
from unireason_jax.pods import sharding

# What a TPU executable looks like: a matmul as a convolution, once over a window with padding, and
# a loop whose counter grows by two.
TPU = """HloModule jit_step, is_scheduled=true

%fused.1 (p0: bf16[2,512,1024], p1: bf16[1024,8,128]) -> bf16[2,512,8,128] {
  %p0 = bf16[2,512,1024]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p1 = bf16[1024,8,128]{2,1,0:T(8,128)(2,1)} parameter(1)
  %x = bf16[2,512,1024,1]{2,1,0,3:T(8,128)(2,1)} bitcast(%p0)
  %w = bf16[8,1024,128,1]{2,1,0,3:T(8,128)(2,1)} bitcast(%p1)
  ROOT %c = bf16[2,512,8,128]{3,1,2,0:T(8,128)(2,1)} convolution(%x, %w), WINDOW
}

%all-reduce-scatter.3 (input: f32[512,8]) -> f32[64,8] {
  %input = f32[512,8]{1,0} parameter(0)
  %ar = f32[512,8]{1,0} all-reduce(%input), replica_groups=[1,8]<=[8], to_apply=%add
  ROOT %part = f32[64,8]{1,0} dynamic-slice(%ar), dynamic_slice_sizes={64,8}
}

%body.1 (carry: (s32[], bf16[2,512,1024])) -> (s32[], bf16[2,512,1024]) {
  %carry = (s32[]{:T(128)}, bf16[2,512,1024]{2,1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%carry), index=0
  %h = bf16[2,512,1024]{2,1,0} get-tuple-element(%carry), index=1
  %two = s32[]{:T(128)} constant(2)
  %send = (bf16[2,512,1024], bf16[2,512,1024], u32[], u32[]) collective-permute-start(%h)
  %w0 = bf16[1024,8,128]{2,1,0} constant(0)
  %y = bf16[2,512,8,128]{3,1,2,0} fusion(%h, %w0), kind=kOutput, calls=%fused.1
  %got = bf16[2,512,1024]{2,1,0} collective-permute-done(%send)
  %next = s32[]{:T(128)} add(%i, %two)
  ROOT %out = (s32[]{:T(128)}, bf16[2,512,1024]{2,1,0}) tuple(%next, %got)
}

%cond.1 (carry.1: (s32[], bf16[2,512,1024])) -> pred[] {
  %carry.1 = (s32[]{:T(128)}, bf16[2,512,1024]{2,1,0}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%carry.1), index=0
  %bound = s32[]{:T(128)} constant(7)
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %bound), direction=LT
}

ENTRY %main (arg: bf16[2,512,1024], g: f32[512,8]) -> f32[64,8] {
  %arg = bf16[2,512,1024]{2,1,0} parameter(0)
  %g = f32[512,8]{1,0} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %start = (s32[]{:T(128)}, bf16[2,512,1024]{2,1,0}) tuple(%zero, %arg)
  %loop = (s32[]{:T(128)}, bf16[2,512,1024]{2,1,0}) while(%start), condition=%cond.1, body=%body.1
  ROOT %reduced = f32[64,8]{1,0} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.3
}
""".replace("WINDOW", "window={size=1x8 pad=0_0x7_7 rhs_reversal=0x1}, dim_labels=0bf1_1io0->0b1f")


def test_a_tpu_program():
    program = hlo.parse(TPU)
    matmul = 2 * (2 * 512) * 1024 * (8 * 128)
    assert program.runs["body.1"] == program.runs["fused.1"] == 4  # 0, 2, 4, 6
    assert program.matmul_flops() == 4 * matmul
    moved = {c.kind: c for c in program.collectives()}
    permute, scatter = moved["collective-permute"], moved["reduce-scatter"]
    assert permute == ("collective-permute", 2 * 512 * 1024 * 2, 4, True)
    assert scatter == ("reduce-scatter", 512 * 8 * 4 * 7 / 8, 1, False)
    assert program.square_buffers({512, 1024}) == ["bf16[2, 512, 1024, 1]", "bf16[2, 512, 1024]"]


def test_what_ends_before_any_work_began_is_synchronous():
    lines = TPU.splitlines()
    (work,) = (line for line in lines if "fusion(%h" in line)
    lines.remove(work)
    lines.insert(next(i for i, line in enumerate(lines) if "permute-done" in line) + 1, work)
    program = hlo.parse("\n".join(lines))
    (permute,) = (c for c in program.collectives() if c.kind == "collective-permute")
    assert permute.runs == 4 and not permute.overlapped


def test_a_communication_that_is_split_over_fusions_counts_once():
    gather = "all-gather(%p), channel_id=2, replica_groups=[1,8]<=[8], dimensions={0}"
    given = "  %p = f32[8]{0} parameter(0)\n"
    part = f"(p: f32[8]) -> f32[64] {{\n{given}  ROOT %g = f32[64]{{0}} {gather}\n}}\n"
    names = ["fused_computation.1", "async_collective_fusion.2", "fused_computation.3"]
    calls = [
        f"  %f{n} = f32[64]{{0}} fusion(%x), kind=kCustom, calls=%{name}\n"
        for n, name in enumerate(names)
    ]
    text = "HloModule m\n\n" + "".join(f"%{name} {part}\n" for name in names)
    text += (
        "ENTRY %main (x: f32[8]) -> f32[64] {\n  %x = f32[8]{0} parameter(0)\n"
        + "".join(calls)
        + "}\n"
    )
    assert hlo.parse(text).collectives() == [("all-gather", 64 * 4 * 7 / 8, 1, True)]


def test_loops_are_multiplied_out():
    def scanned(x, w):
        return jax.lax.scan(lambda h, k: (jnp.tanh(h @ k), None), x, w)[0]

    x, w = (
        jax.ShapeDtypeStruct((32, 64), jnp.float32),
        jax.ShapeDtypeStruct((6, 64, 64), jnp.float32),
    )
    program = hlo.parse(jax.jit(scanned).lower(x, w).compile().as_text())
    assert program.matmul_flops() == 6 * 2 * 32 * 64 * 64 and not program.unknown_loops


def test_a_loop_of_unknown_length_is_named():
    def halved(x):
        return jax.lax.while_loop(lambda h: jnp.sum(h) > 1, lambda h: h @ h, x)

    shape = jax.ShapeDtypeStruct((16, 16), jnp.float32)
    program = hlo.parse(jax.jit(halved).lower(shape).compile().as_text())
    assert program.matmul_flops() == 2 * 16**3 and len(program.unknown_loops) == 1


def test_collectives_of_a_sharded_product():
    mesh = sharding.make_mesh({"fsdp": 8})
    place = NamedSharding(mesh, PartitionSpec("fsdp"))
    x = jax.ShapeDtypeStruct((64, 128), jnp.float32, sharding=place)
    w = jax.ShapeDtypeStruct((128, 256), jnp.float32, sharding=place)
    with jax.set_mesh(mesh):
        product = jax.jit(lambda x, w: x @ sharding.constrain(w, None, None))
        program = hlo.parse(product.lower(x, w).compile().as_text())
    assert program.matmul_flops() == 2 * 8 * 128 * 256
    (gather,) = program.collectives()
    assert gather == ("all-gather", 128 * 256 * 4 * 7 / 8, 1, False)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", 4),
        ("replica_groups=[2,16]<=[32]", 16),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", 2),
        ("replica_groups=mesh['a'=2,'b'=1,'c'=4] {'c','b'}", 4),
        ("replica_groups=mesh['a'=32,'b'=1,'c'=2], device_ids=([2,32]T(1,0)) {'a'}, use=true", 32),
        ("replica_groups=mesh['a'=4,'b'=2,'c'=2], device_ids=([2,8]T(1,0)) {'a','c'}", 8),
    ],
)
def test_sizes_of_groups(text, size):
    assert hlo.group_size(text) == size


def test_groups_that_are_not_understood_are_not_guessed():
    with pytest.raises(ValueError, match="groups are not understood: all-gather"):
        hlo.group_size("all-gather(%x), replica_groups=new[form], dimensions={0}")

"""What a program moves to and from memory, counted by hand."""

from unireason_jax.compilation import hlo, traffic

# A loop over 8 layers: saves a layer's input in a stack, reads another stack's layer, and works on
# a copy of a weight beside the cores.
LAYERS = """HloModule jit_step, is_scheduled=true

%save (p0.1: f32[8,16,32], p1.1: f32[16,32], p2.1: s32[]) -> f32[8,16,32] {
  %p0.1 = f32[8,16,32]{2,1,0:T(8,128)} parameter(0)
  %p1.1 = f32[16,32]{1,0:T(8,128)} parameter(1)
  %p2.1 = s32[]{:T(128)} parameter(2)
  %one = f32[1,16,32]{2,1,0:T(8,128)} bitcast(%p1.1)
  ROOT %stack = f32[8,16,32]{2,1,0:T(8,128)} dynamic-update-slice(%p0.1, %one, %p2.1)
}

%read (p0.2: f32[8,16,32], p1.2: s32[], p2.2: bf16[32,64]) -> (f32[16], bf16[16,64]) {
  %p0.2 = f32[8,16,32]{2,1,0:T(8,128)} parameter(0)
  %p1.2 = s32[]{:T(128)} parameter(1)
  %p2.2 = bf16[32,64]{1,0:T(8,128)(2,1)S(1)} parameter(2)
  %layer = f32[1,16,32]{2,1,0:T(8,128)} dynamic-slice(%p0.2, %p1.2), dynamic_slice_sizes={1,16,32}
  %sum = f32[16]{0:T(128)} reduce(%layer)
  %made = bf16[16,64]{1,0:T(8,128)(2,1)} convolution(%layer, %p2.2)
  ROOT %both = (f32[16]{0:T(128)}, bf16[16,64]{1,0:T(8,128)(2,1)}) tuple(%sum, %made)
}

%part (whole: bf16[320,64]) -> bf16[32,64] {
  %whole = bf16[320,64]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %cut = bf16[32,64]{1,0:T(8,128)(2,1)S(1)} slice(%whole), slice={[0:32], [0:64]}
}

%body (carry: (s32[], f32[8,16,32], f32[16,32])) -> (s32[], f32[8,16,32], f32[16,32]) {
  %carry = (s32[], f32[8,16,32]{2,1,0}, f32[16,32]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%carry), index=0
  %saved = f32[8,16,32]{2,1,0} get-tuple-element(%carry), index=1
  %x = f32[16,32]{1,0} get-tuple-element(%carry), index=2
  %weights = bf16[320,64]{1,0} constant(0)
  %near = (ALL, bf16[32,64]{1,0:T(8,128)(2,1)S(1)}, s32[]{:S(2)}) async-start(%weights), calls=%part
  %stored = f32[8,16,32]{2,1,0} fusion(%saved, %x, %i), kind=kLoop, calls=%save
  %w = bf16[32,64]{1,0:T(8,128)(2,1)S(1)} async-done(%near)
  %used = (f32[16]{0}, bf16[16,64]{1,0}) fusion(%stored, %i, %w), kind=kOutput, calls=%read
  %next = s32[]{:S(2)} add(%i, %i)
  ROOT %out = (s32[], f32[8,16,32]{2,1,0}, f32[16,32]{1,0}) tuple(%next, %stored, %x)
}

%cond (carry.1: (s32[], f32[8,16,32], f32[16,32])) -> pred[] {
  %carry.1 = (s32[], f32[8,16,32]{2,1,0}, f32[16,32]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%carry.1), index=0
  %bound = s32[] constant(8)
  ROOT %lt = pred[]{:S(2)} compare(%i.1, %bound), direction=LT
}

ENTRY %main (s: f32[8,16,32], x: f32[16,32]) -> f32[8,16,32] {
  %s = f32[8,16,32]{2,1,0} parameter(0)
  %x.1 = f32[16,32]{1,0} parameter(1)
  %zero = s32[] constant(0)
  %start = (s32[], f32[8,16,32]{2,1,0}, f32[16,32]{1,0}) tuple(%zero, %s, %x.1)
  %loop = (s32[], f32[8,16,32]{2,1,0}, f32[16,32]{1,0}) while(%start), condition=%cond, body=%body
  ROOT %got = f32[8,16,32]{2,1,0} get-tuple-element(%loop), index=1
}
""".replace("ALL", "(bf16[320,64]{1,0})")


def test_layers_of_a_stack_count_and_not_the_stack():
    layer, weights, index = 16 * 32 * 4, 32 * 64 * 2, 4
    prefetch = weights  # read once; written beside the cores, and read there
    saved = 2 * layer + index
    used = layer + index + 16 * 4 + 16 * 64 * 2
    counters = 4 * index  # two operands each of the sum and of the comparison
    assert traffic.memory_bytes(hlo.parse(LAYERS)) == 8 * (prefetch + saved + used + counters)

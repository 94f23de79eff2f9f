"""Ends: what a product of few rows does with its sums before they are written, so that it needs no kernel of its own.

Owns the last lines of the kernels that do so (Gluon): a bias; the gate of layers in pairs (pairs.py); a half of an RMSNorm. The layer
before a norm begins it: it adds to the residual stream, writes bf16(stream * weight), and of each row the sum of squares of those outputs
that a program has. The layer behind ends it: it multiplies that as it is, and its sums by the norm's factor, which is one number for a
row. So nobody has to see a whole row of the stream. Must not know how a product sums, nor who asks for what (fused.py).
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from slipstream.ops.triton.elementary import activated, inverse_root
from slipstream.ops.triton.pairs import sides


@gluon.jit
def norm_factor(
    squares, first_row, m, parts, share, eps, size: gl.constexpr, rows: gl.constexpr, layout: gl.constexpr, norm: gl.constexpr
):  # fmt: skip
    """1 / sqrt(mean square + eps) of each row [1, rows], in the layout of sums [size, rows]. Nothing but where a norm "ends"."""
    if norm == "ends":
        part = gl.expand_dims(gl.arange(0, size, layout=gl.SliceLayout(1, layout)), 1)
        row = gl.expand_dims(first_row + gl.arange(0, rows, layout=gl.SliceLayout(0, layout)), 0)
        found = gl.zeros([size, rows], gl.float32, layout)
        for at in range(0, parts, size):
            found += gl.load(squares + (at + part) * m + row, mask=(at + part < parts) & (row < m), other=0.0)
        return gl.expand_dims(inverse_root(gl.sum(found, axis=0) * share + eps), 0)
    else:
        return eps


@gluon.jit
def store(
    whole, normed, bias, out, row, column, part, m, stride, outputs, has_bias: gl.constexpr, gate: gl.constexpr, norm: gl.constexpr
):  # fmt: skip
    """Writes sums [outputs of a program, rows] to rows `row` [1, rows] and outputs `column` [.., 1] of `out`.

    normed: what `norm_factor` gave, and of Norming (ops/types.py) squares, weight and scaled. part: which program of those that share rows.
    gate: the activation of a layer in pairs, "" of others. norm: "ends" or "begins" one, "" does neither.
    """
    factor, squares, weight, scaled = normed
    here = row < m
    there = column < outputs
    inside = here & there
    place = row * stride + column
    if norm == "ends":
        whole = whole * factor
    if has_bias:
        whole += gl.load(bias + column, mask=there, other=0.0)
    if norm == "begins":
        whole += gl.load(out + place, mask=inside, other=0.0)
        value = whole * gl.load(weight + column, mask=there, other=0.0)
        gl.store(scaled + row * outputs + column, value.to(gl.bfloat16), mask=inside)
        sums = gl.expand_dims(gl.sum(whole * whole, axis=0), 0)  # past the layer's outputs are zeros
        gl.store(squares + part * m + row, sums, mask=here)
    if gate == "":
        gl.store(out + place, whole, mask=inside)
    else:
        place, _ = sides(row * stride + column // 16 * 8 + column % 8)
        inside, _ = sides(inside)
        gated, up = sides(whole)
        gl.store(out + place, (activated(gated, gate) * up).to(out.dtype.element_ty), mask=inside)

"""In the interpreter: attention against the reference in every branch, and that a row depends on itself only, bit by bit."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from candidate import KERNELS
from scenes import attend, build_scene, equal_bits

from slipstream.base.errors import InputError
from slipstream.ops import Kernels
from slipstream.ops.triton import attention
from slipstream.ops.types import Few
from slipstream.worker import company

REFERENCE = Kernels(only="reference")
RAGGED = [(0, p, 0) for p in (0, 1, 5, 14, 15, 16, 40)] + [(1, 700, 0), (1, 511, 3), (2, 1030, 9), (2, 1025, 4), (3, 33, 33), (3, 63, 0)]
PREFILL = [(0, p, 0) for p in range(506, 518)] + [(1, p, 0) for p in range(3)]
TREE = [(0, 20, 1), (0, 21, 2), (0, 25, 6), (1, 511, 2), (1, 512, 3), (1, 513, 4), (2, 1100, 40)]


SMALL = attention.Form(16, 32, 4, 3, fill=1, segment=64)  # two blocks in a segment: few keys show what many would
CROSSING = [(0, p, 0) for p in (0, 1, 5, 14, 15, 16, 40)] + [(1, 90, 0), (1, 63, 3)] + [(0, p, 0) for p in range(60, 65)]
SMALL_TREE = [(0, 20, 1), (0, 21, 2), (0, 25, 6), (1, 63, 2), (1, 64, 3), (1, 65, 4), (2, 140, 40)]
ONE_PER_ROW, ONE_PER_SEGMENT = (lambda *shape: 1), (lambda *shape: shape[-1])  # in the place of attention.splits


def serving(form: attention.Form) -> SimpleNamespace:
    """Kernels whose attention has one form for all."""
    return SimpleNamespace(attention=partial(attention.attention, forms=((1 << 31, form, form),)))


SCENES = {
    "ragged": (RAGGED, 0, 16, 2, 2, 16),
    "window": (RAGGED, 37, 8, 2, 2, 16),
    "prefill": (PREFILL, 0, 16, 1, 4, 64),
    "prefill-window-group3": (PREFILL, 500, 64, 1, 3, 24),
    "tree-mha-page1": (TREE, 0, 1, 2, 1, 16),
    "tree-window": (TREE, 4, 5, 1, 8, 32),
    "segments-window": ([(0, 1600, 0), (0, 2000, 513)], 600, 16, 1, 1, 80),
    "group70": ([(0, 130, 2)], 0, 16, 1, 70, 16),
}
FP8 = torch.float8_e4m3fn
WAYS = {"fp32-split": (torch.float32, ONE_PER_SEGMENT), "bf16": (torch.bfloat16, ONE_PER_ROW), "fp8-split": (FP8, ONE_PER_SEGMENT)}


def by_turns():
    """Every scene in one of the ways; in the others under `slow`, the interpreter taking seconds for each."""
    for number, (scene, facts) in enumerate(SCENES.items()):
        for turn, (way, how) in enumerate(WAYS.items()):
            yield pytest.param(*facts, *how, id=f"{scene}-{way}", marks=[pytest.mark.slow] if (number + turn) % len(WAYS) else [])


@pytest.mark.parametrize("rows, window, page_size, kv_heads, group, head_dim, dtype, fill", by_turns())
def test_against_the_reference(monkeypatch, rows, window, page_size, kv_heads, group, head_dim, dtype, fill):
    monkeypatch.setattr(attention, "splits", fill)
    scene = build_scene(rows, page_size=page_size, kv_heads=kv_heads, group=group, head_dim=head_dim, dtype=dtype)
    got = attend(KERNELS, scene, window)
    rounded = {FP8: torch.float16}.get(dtype, dtype)  # what queries and weights are rounded to
    scene.qkv = scene.qkv.to(rounded).float()
    tolerance = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}[rounded]
    torch.testing.assert_close(got, attend(REFERENCE, scene, window), atol=tolerance, rtol=tolerance)


SLOW_FP8 = pytest.param(37, FP8, marks=pytest.mark.slow)


@pytest.mark.parametrize("window, dtype", [pytest.param(0, torch.bfloat16, marks=pytest.mark.slow), (37, torch.float32), SLOW_FP8])
def test_programs_do_not_change_bits(monkeypatch, window, dtype):
    monkeypatch.setattr(attention, "IN_FP32", SMALL)
    scene = build_scene([*CROSSING, (2, 150, 9), (2, 131, 4)], dtype=dtype)
    results = []
    for fill in (ONE_PER_ROW, ONE_PER_SEGMENT):
        monkeypatch.setattr(attention, "splits", fill)
        results.append(attend(serving(SMALL), scene, window))
    assert equal_bits(*results)


@pytest.mark.parametrize("window, dtype", [(0, torch.bfloat16), pytest.param(37, torch.float32, marks=pytest.mark.slow), SLOW_FP8])
def test_a_row_has_the_same_bits_in_every_batch_and_layout(monkeypatch, window, dtype):
    monkeypatch.setattr(attention, "IN_FP32", SMALL)
    rows, chosen, one = CROSSING, [0, 7, 8, 9, 13], serving(SMALL)
    alone = {place: attend(one, build_scene([rows[place]], dtype=dtype), window) for place in chosen}
    backwards = list(range(len(rows)))[::-1]
    for trial, index in enumerate([list(range(len(rows))), backwards, [7, 7, 9, 8, 7, 0, 12, 0]]):
        got = attend(one, build_scene([rows[i] for i in index], page_size=(1, 8, 64)[trial], layout=trial, dtype=dtype), window)
        for place, row in enumerate(index):
            assert row not in alone or equal_bits(got[place], alone[row][0]), f"row {rows[row]} at place {place} of trial {trial}"


@pytest.mark.parametrize("window, dtype", [(0, torch.float32), (4, FP8), (50, torch.bfloat16)])
def test_tree_rows_equal_the_same_tokens_laid_out_linearly(monkeypatch, window, dtype):
    monkeypatch.setattr(attention, "IN_FP32", SMALL)
    linear, one = [(request, position, 0) for request, position, _ in SMALL_TREE], serving(SMALL)
    got = attend(one, build_scene(SMALL_TREE, dtype=dtype), window)
    assert equal_bits(got, attend(one, build_scene(linear, dtype=dtype, layout=7), window))


def test_drafts_and_short_segments_are_right(monkeypatch):
    """The forms of other situations, by tiles and by rows: the reference's numbers, and whether programs share a row shows nowhere."""
    scene = build_scene(TREE[:6], dtype=torch.bfloat16)
    results = {form: attend(serving(form), scene) for form in (attention.BY_ROWS.now[0][1], attention.BY_ROWS.now[2][2])}
    monkeypatch.setattr(attention, "BY_TILE", 1)
    monkeypatch.setattr(attention, "splits", ONE_PER_ROW)
    for form, parts in results.items():
        assert equal_bits(parts, attend(serving(form), scene)), form
    scene.qkv = scene.qkv.bfloat16().float()
    wanted = attend(REFERENCE, scene)
    for parts in results.values():
        torch.testing.assert_close(parts, wanted, atol=2**-7, rtol=2**-7)


def test_segments_of_long_rows_are_doubled(monkeypatch):
    """With few segments: rows on both sides of a doubling, in one tile or not, in one program or several; and the reference's numbers."""
    rows = [(0, 63, 0), (0, 64, 0), (0, 65, 0), (1, 130, 3), (1, 131, 4)]
    scene, one = build_scene(rows, dtype=torch.bfloat16), serving(replace(SMALL, most=1))
    results = []
    for fill in (ONE_PER_ROW, lambda *shape: 2):
        monkeypatch.setattr(attention, "splits", fill)
        results.append(attend(one, scene))
    assert equal_bits(*results)
    assert equal_bits(results[0][4:], attend(one, build_scene(rows[4:], dtype=torch.bfloat16)))
    scene.qkv = scene.qkv.bfloat16().float()
    torch.testing.assert_close(results[0], attend(REFERENCE, scene), atol=2**-7, rtol=2**-7)


@pytest.mark.parametrize("fill", [ONE_PER_ROW, ONE_PER_SEGMENT])
def test_a_result_in_bf16_is_the_other_rounded(monkeypatch, fill):
    monkeypatch.setattr(attention, "splits", fill)
    scene = build_scene(TREE[:3], dtype=torch.bfloat16)
    whole, narrow = (torch.empty(3, scene.heads * 16, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    for out in (whole, narrow):
        KERNELS.attention(scene.qkv, scene.kv, scene.rows, scene.heads, 0.25, 0, out)
    assert equal_bits(narrow, whole.bfloat16())


def spied(monkeypatch, name: str) -> list:
    """Which variants of this name are asked for from here on."""
    made, make = [], getattr(attention, name)
    monkeypatch.setattr(attention, name, lambda *of, **special: made.append(make(*of, **special)) or made[-1])
    return made


ALIKE = {0: [(110, 0)], 1: [(70, 0)], 2: [(90, 1), (91, 2)], 3: [(66, 0)], 4: [(80, 0)], 5: [(130, 0)], 6: [(129, 0)] * 3}
BEGINS = {1: (0, 4), 2: (0, 4), 3: (0, 6), 6: (5, 7)}  # request -> whose first pages it has, and how many: 3 has no use for all


def alike(monkeypatch, dtype):
    """A scene of ALIKE's rows, whose requests begin as BEGINS says, its groups as the worker finds them, and a page of NaN."""
    monkeypatch.setattr(company, "LEAST_KEYS", 32)
    rows = [(request, *fact) for request in ALIKE for fact in ALIKE[request]]
    scene = build_scene(rows, dtype=dtype, kv_heads=1)
    table, counts = scene.rows.page_table, [len(ALIKE[request]) for request in ALIKE]
    nowhere = int(table[1, 0])
    for cached in (scene.kv.keys, scene.kv.values):
        cached.view(torch.uint8)[nowhere] = 255
    for request, (other, pages) in BEGINS.items():
        table[request, :pages] = table[other, :pages]
    starts = [ALIKE[request][0][0] - ALIKE[request][0][1] for request in ALIKE]
    return scene, company.Companies(len(rows), 16, "cpu").find(table.numpy(), list(ALIKE), starts, counts, len(rows)), nowhere


@pytest.mark.parametrize(
    "dtype, window, most",
    [(torch.bfloat16, 0, 64), pytest.param(FP8, 50, 64, marks=pytest.mark.slow), (torch.bfloat16, 50, 3)],
)
def test_keys_that_requests_share_are_read_once(monkeypatch, dtype, window, most):
    """The reference's numbers and the bits of reading them for each row: windows that begin within what is shared, rows of a draft,
    segments that are doubled for some of a group. And that they are read once: if only one table says where they lie, all is as before."""
    form = attention.Form(16, 32, 2, 3, fill=4, segment=32, group_rows=32, most=most, merging=1 if most == 64 else 2)
    scene, found, nowhere = alike(monkeypatch, dtype)
    together = {frozenset(found.members[found.groups == group].tolist()) for group in (0, 1)}
    assert together == {frozenset(range(5)), frozenset(range(6, 10))} and found.groups.tolist()[9:] == [-1]
    assert found.shared.tolist() == [64] * 5 + [0] + [112] * 4
    plain = attend(serving(form), scene, window)
    scene.rows.company, table, made = found, scene.rows.page_table.clone(), spied(monkeypatch, "together_variant")
    assert equal_bits(plain, attend(serving(form), scene, window)) and made
    if most == 64:  # one tile for each group, which looks at the table of its first row
        scene.rows.page_table[1:4, :4] = scene.rows.page_table[6, :6] = nowhere
        assert equal_bits(plain, attend(serving(form), scene, window))
        scene.rows.page_table[:] = table
    rounded = {FP8: torch.float16}.get(dtype, dtype)
    tolerance = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}[rounded]
    scene.qkv = scene.qkv.to(rounded).float()
    torch.testing.assert_close(plain, attend(REFERENCE, scene, window), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("few_rows, window", [(64, 0), (16, 30)])
def test_rows_of_few_among_rows_of_many(monkeypatch, few_rows, window):
    """The reference's numbers, in whole tiles and in parts; with tiles of one size the bits of a step that is cut by tiles."""
    monkeypatch.setattr(attention, "BY_TILE", 8)
    alone = [[(1, 70, 1), (1, 71, 2)], [(2, 66, 0)], [(3, 8, 0)]]  # with tail slots, of several segments, of one
    rows = [*alone[0], *((0, p, 0) for p in range(30, 39)), *alone[1], *((4, p, 0) for p in range(9)), *alone[2]]
    scene = build_scene(rows, dtype=torch.bfloat16, kv_heads=1)
    form = attention.Form(64, 32, 4, 3, segment=32, fill=1)
    plain = attend(serving(form), scene, window)
    marks = torch.tensor([int(request in (1, 2, 3)) for request, *_ in rows], dtype=torch.int32)
    scene.rows.few = Few(torch.tensor([*marks.nonzero().flatten(), -1, -1], dtype=torch.int32), marks)
    made = spied(monkeypatch, "mixed_variant")
    got = attend(serving(replace(form, few_rows=few_rows)), scene, window)
    assert made and (few_rows < 64 or equal_bits(plain, got))
    scene.qkv = scene.qkv.bfloat16().float()
    torch.testing.assert_close(got, attend(REFERENCE, scene, window), atol=2**-7, rtol=2**-7)


def test_splits_follow_from_shapes():
    form = attention.Form(16, 64, 4, 3, fill=528)
    assert [attention.splits(form, rows, 8, 256) for rows in (1, 8, 33, 34, 4096)] == [66, 8, 2, 1, 1]
    assert attention.segments_of(replace(form, segment=128), 1024) == 8
    assert attention.splits(form, 1, 8, 3) == 3 and attention.splits(form, 1, 1, 1) == 1
    assert [attention.segments_of(form, keys) for keys in (1, 512, 513, 32768, 131072, 1 << 21, 1 << 22)] == [1, 1, 2, 64, 64, 64, 128]
    assert attention.workspace_bytes(form, 32, 32, 8, 128, 131072) == 32 * 32 * 64 * 130 * 4
    assert attention.workspace_bytes(form, 34, 32, 8, 128, 131072) == 0


def test_what_does_not_fit_is_refused():
    scene = build_scene([(0, 3, 0)])
    with pytest.raises(InputError, match="scale"):
        attend(KERNELS, scene, scale=0.0)
    scene.rows.positions = scene.rows.positions.long()
    with pytest.raises(InputError, match="positions"):
        attend(KERNELS, scene)

"""The numbers of rounds: guesses are kept as `match` keeps them, and rows lie where the page table says; what nobody asked for, nowhere."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slipstream.base import native
from slipstream.ops import Kernels
from slipstream.speculate.verify.match import match
from slipstream.step import DraftTree

KERNELS = {name: Kernels(only=name) for name in ("cpu", "reference") if name == "reference" or native.module is not None}


def ints(*rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int32)


def walked(kernels, said: torch.Tensor, guesses: torch.Tensor, starts: list[int], most: int = 9) -> dict[str, torch.Tensor]:
    """All that `walk` changes, in the third turn of every request; said [requests, each], guesses [requests, each - 1]."""
    requests, each = said.shape
    tokens = torch.full((each + 2, most), 99, dtype=torch.int32)
    tokens[1:each, :requests] = guesses.T
    at, read, turns = ints(*starts), ints(*(start // 2 for start in starts)), torch.full((requests,), 2, dtype=torch.int32)
    picked, history = torch.full((requests,), -7, dtype=torch.int32), torch.full((4, most * (each + 1)), -7, dtype=torch.int32)
    kernels.walk(said.contiguous().flatten(), tokens, at, read, turns, picked, history, each)
    return {"tokens": tokens, "starts": at, "read": read, "turns": turns, "picked": picked, "history": history}


@given(st.data())
def test_a_walk_keeps_what_match_keeps(data):
    each, requests = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    line = st.lists(st.integers(0, 1), min_size=each, max_size=each)  # few tokens: many are right
    said = data.draw(st.lists(line, min_size=requests, max_size=requests))
    guesses = [[*data.draw(line)][: each - 1] for _ in said]
    starts = data.draw(st.lists(st.sampled_from((-1, 0, 6, 40)), min_size=requests, max_size=requests))
    for kernels in KERNELS.values():
        found = walked(kernels, ints(*said), ints(*guesses).view(requests, each - 1), starts)
        for number, (own, guessed, start) in enumerate(zip(said, guesses, starts, strict=True)):
            _, kept = match(DraftTree.chain(guessed, "test"), own)
            line = found["history"][2, number * (each + 1) :][: each + 1].tolist()
            assert found["picked"][number] == number * each + len(kept) - 1
            if start < 0:
                assert found["starts"][number] == start and found["turns"][number] == 2 and set(line) == {-7}
                continue
            assert line[0] == len(kept) and line[1 : 1 + len(kept)] == list(kept)
            assert found["tokens"][0, number] == kept[-1] and found["turns"][number] == 3
            assert found["starts"][number] == start + len(kept) and found["read"][number] == start // 2 + len(kept)


PAGE, SPARE = 4, 777
TABLE = ints([5, 9, 2], [1, 7, 3])


def laid_out(kernels, places: list[int], seats: list[int], each: int, passes: int = 1, offset: int = 0, tokens=None) -> torch.Tensor:
    out = torch.full((passes, 6, 20), -7, dtype=torch.int32)
    noises = ints(*(place + 100 for place in places))
    kernels.lay_out(ints(*places), noises, ints(*seats), TABLE, PAGE, SPARE, each, out, offset, tokens)
    return out


@given(st.data())
def test_rows_lie_where_the_table_says(data):
    requests, each, passes = (data.draw(st.integers(1, most)) for most in (4, 4, 3))
    places = data.draw(st.lists(st.integers(-1, 13), min_size=requests, max_size=requests))
    seats = data.draw(st.lists(st.integers(0, 1), min_size=requests, max_size=requests))
    offset, tokens = data.draw(st.sampled_from((0, -1))), data.draw(st.sampled_from((None, torch.arange(40, dtype=torch.int32).view(5, 8))))
    for kernels in KERNELS.values():
        out = laid_out(kernels, places, seats, each, passes, offset, tokens)
        assert out[:, :, requests * each :].unique().tolist() == [-7]
        for turn, request, depth in ((p, r, d) for p in range(passes) for r in range(requests) for d in range(each)):
            found, place = out[turn, :, request * each + depth].tolist(), places[request] + offset + turn + depth
            assert found[0] == (-7 if tokens is None else tokens[depth, request])
            if places[request] < 0 or not 0 <= place < TABLE.shape[1] * PAGE:
                assert found[1:] == [0, SPARE, 0, 1, 0]
                continue
            slot = int(TABLE[seats[request], place // PAGE]) * PAGE + place % PAGE
            assert found[1:] == [place, slot, seats[request], place + 1, places[request] + 101 + turn + depth]


@pytest.mark.skipif(native.module is None, reason=f"no native module: {native.reason}")
def test_what_would_be_written_out_of_range_is_refused():
    with pytest.raises(IndexError, match=r"lay_out: seats\[1\] = 2 is none of 2"):
        laid_out(KERNELS["cpu"], [0, 1], [0, 2], 1)
    with pytest.raises(IndexError, match=r"walk: turns\[0\] = 2 is none of 2"):
        state = [ints(0) for _ in range(2)]
        KERNELS["cpu"].walk(
            ints(1, 1), torch.zeros(2, 1, dtype=torch.int32), *state, ints(2), ints(0), torch.zeros(2, 9, dtype=torch.int32), 2
        )

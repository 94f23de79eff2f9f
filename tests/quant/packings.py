"""Hand-made packings of every stored format: weights in, stored tensors and the weights that they mean out. Written in numpy from
the formats' descriptions (neuralmagic/compressed-tensors, AutoGPTQ, AutoAWQ, DeepSeek-V3, OCP MX), not from the code under test."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Case:
    """One way to store linear layers.

    Attributes:
        format: name of the reader.
        config: `quantization_config`.
        pack: fp32 [n, k] -> (ending -> tensor, the weights they mean in fp32).
        files: further JSON files of the folder.
    """

    format: str
    config: dict[str, Any] | None
    pack: Callable[[torch.Tensor], tuple[dict[str, torch.Tensor], torch.Tensor]]
    files: dict[str, Any] = field(default_factory=dict)


def words(codes: np.ndarray, bits: int, axis: int, order=None) -> torch.Tensor:
    """Codes 0 .. 2^bits - 1 packed along an axis, 32 / bits to a word; place i of a word holds code order[i] of its stretch."""
    codes = np.moveaxis(codes.astype(np.uint64), axis, 0)
    per = 32 // bits
    out = np.zeros((len(codes) // per, codes.shape[1]), np.uint64)
    for place in range(per):
        out |= codes[(order or range(per))[place] :: per] << np.uint64(bits * place)
    return torch.from_numpy(np.moveaxis(out.astype(np.uint32).view(np.int32), 0, axis).copy())


def quantised(weight: np.ndarray, bits: int, index: np.ndarray, sym: bool):
    """(codes [n, k], zeros [n, groups], scales fp16 [n, groups], meant [n, k]); `index` gives the group of each input."""
    n, count, top = len(weight), index.max() + 1, 2**bits - 1
    zeros, scales = np.zeros((n, count), np.int64), np.zeros((n, count), np.float16)
    codes, meant = np.zeros(weight.shape, np.int64), np.zeros(weight.shape, np.float32)
    for group in range(count):
        mine = index == group
        part = weight[:, mine]
        low, high = part.min(1), part.max(1)
        scale = (2 * np.maximum(-low, high) / top if sym else (high - low) / top).astype(np.float16)
        zero = np.full(n, 2 ** (bits - 1)) if sym else np.clip(np.rint(-low / scale.astype(np.float32)), 1, top).astype(np.int64)
        code = np.clip(np.rint(part / scale.astype(np.float32)[:, None]) + zero[:, None], 0, top).astype(np.int64)
        zeros[:, group], scales[:, group], codes[:, mine] = zero, scale, code
        meant[:, mine] = (code - zero[:, None]).astype(np.float32) * scale.astype(np.float32)[:, None]
    return codes, zeros, scales, torch.from_numpy(meant)


def plain_groups(k: int, size: int) -> np.ndarray:
    return np.arange(k) // (k if size == -1 else size)


def gptq(bits=4, size=32, version=1, sym=False, shuffled=False):
    def pack(weight):
        index = plain_groups(weight.shape[1], size)
        if shuffled:
            index = np.random.default_rng(1).permutation(index)
        codes, zeros, scales, meant = quantised(weight.numpy(), bits, index, sym)
        stored = {"qweight": words(codes.T, bits, 0), "scales": torch.from_numpy(scales.T.copy())}
        stored["qzeros"] = words(zeros.T - (1 if version == 1 else 0), bits, 1)
        return stored | {"g_idx": torch.from_numpy(index.astype(np.int32))}, meant

    return pack


def awq(size=32):
    def pack(weight):
        codes, zeros, scales, meant = quantised(weight.numpy(), 4, plain_groups(weight.shape[1], size), False)
        order = (0, 2, 4, 6, 1, 3, 5, 7)
        stored = {"qweight": words(codes.T, 4, 1, order), "qzeros": words(zeros.T, 4, 1, order)}
        return stored | {"scales": torch.from_numpy(scales.T.copy())}, meant

    return pack


def packed(bits=4, size=32, sym=True, shuffled=False):
    def pack(weight):
        index = plain_groups(weight.shape[1], size)
        if shuffled:
            index = np.random.default_rng(1).permutation(index)
        codes, zeros, scales, meant = quantised(weight.numpy(), bits, index, sym)
        stored = {"weight_packed": words(codes, bits, 1), "weight_scale": torch.from_numpy(scales)}
        stored["weight_shape"] = torch.tensor(weight.shape)
        if shuffled:
            stored["weight_g_idx"] = torch.from_numpy(index.astype(np.int32))
        if not sym:
            stored["weight_zero_point"] = words(zeros, bits, 0)
        return stored, meant

    return pack


def int8(shape, sym=True):
    def pack(weight):
        size = weight.shape[1] if shape != "group" else 64
        codes, zeros, scales, meant = quantised(weight.numpy(), 8, plain_groups(weight.shape[1], size), sym)
        if shape == "tensor":
            scales[:] = scales.max()
            codes = np.clip(np.rint(weight.numpy() / scales[:1, :1].astype(np.float32)), -128, 127) + 128
            meant = torch.from_numpy((codes - 128).astype(np.float32) * scales[:1, :1].astype(np.float32))
            scales = scales[0]
        stored = {"weight": torch.from_numpy((codes - 128).astype(np.int8)), "weight_scale": torch.from_numpy(scales)}
        if not sym:
            stored["weight_zero_point"] = torch.from_numpy((zeros - 128).astype(np.int8))
        return stored, meant

    return pack


def e4m3(code: int) -> float:
    """The value of a byte, from the format's definition."""
    sign, exponent, mantissa = -1.0 if code & 128 else 1.0, code >> 3 & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return float("nan")
    return sign * (mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))


E4M3 = np.array([e4m3(code) for code in range(256)], np.float32)


def fp8(kind, name="weight_scale", exact=False, activations=False):
    def pack(weight):
        weight = weight.numpy()
        n, k = weight.shape
        rows = {"tensor": n, "channel": 1, "block": 128}[kind]
        columns = 128 if kind == "block" else k
        scale = np.zeros((-(-n // rows), -(-k // columns)), np.float32)
        codes, meant = np.zeros((n, k), np.uint8), np.zeros((n, k), np.float32)
        positive = E4M3[:127]
        for a in range(scale.shape[0]):
            for b in range(scale.shape[1]):
                at = np.s_[a * rows : (a + 1) * rows, b * columns : (b + 1) * columns]
                step = np.float32(np.abs(weight[at]).max() / 448)
                step = np.float32(2.0 ** np.ceil(np.log2(step))) if exact else step
                near = np.searchsorted((positive[1:] + positive[:-1]) / 2, np.abs(weight[at]) / step)
                codes[at] = near + 128 * (weight[at] < 0)
                scale[a, b], meant[at] = step, E4M3[codes[at]] * step
        scale = scale[0, 0] if kind == "tensor" else scale
        stored = {"weight": torch.from_numpy(codes).view(torch.float8_e4m3fn), name: torch.from_numpy(np.array(scale))}
        return stored | ({"input_scale": torch.tensor(0.1)} if activations else {}), torch.from_numpy(meant)

    return pack


def mxfp4(weight):
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    n, k = weight.shape
    parts = weight.numpy().reshape(n, k // 32, 32)
    exponents = np.floor(np.log2(np.abs(parts).max(2))).astype(np.int64) - 2  # [n, k / 32]
    scale = (2.0 ** exponents.astype(np.float64)).astype(np.float32)[:, :, None]
    near = np.abs(np.abs(parts)[..., None] / scale[..., None] - values).argmin(-1)
    codes = near + 8 * (parts < 0)
    meant = np.where(parts < 0, -values[near], values[near]) * scale
    blocks = (codes[:, :, 0::2] | codes[:, :, 1::2] << 4).astype(np.uint8)
    stored = {"blocks": torch.from_numpy(blocks), "scales": torch.from_numpy((exponents + 127).astype(np.uint8))}
    return stored, torch.from_numpy(meant.reshape(n, k).astype(np.float32))


def ct(format, type_="int", **weights):
    group = {"targets": ["Linear"], "weights": {"type": type_, "symmetric": True, **weights}, "input_activations": None}
    return {"quant_method": "compressed-tensors", "format": format, "config_groups": {"group_0": group}, "ignore": ["lm_head"]}


def _gptq(**more):
    return {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False, **more}


CASES = {
    "gptq": Case("gptq", _gptq(), gptq()),
    "gptq sym": Case("gptq", _gptq(sym=True, group_size=-1), gptq(size=-1, sym=True)),
    "gptq desc_act": Case("gptq", _gptq(desc_act=True), gptq(shuffled=True)),
    "gptq v2": Case("gptq", _gptq(checkpoint_format="gptq_v2"), gptq(version=2)),
    "gptq v2 zeros named v1": Case("gptq", _gptq(sym=True), gptq(version=2, sym=True)),
    "gptq 8 bit": Case("gptq", _gptq(bits=8), gptq(bits=8)),
    "gptq 2 bit": Case("gptq", _gptq(bits=2), gptq(bits=2)),
    "awq": Case("awq", {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}, awq()),
    "awq rows": Case("awq", {"quant_method": "awq", "bits": 4, "group_size": -1, "version": "GEMM", "zero_point": True}, awq(-1)),
    "packed": Case("pack_quantized", ct("pack-quantized", num_bits=4, strategy="group", group_size=32), packed()),
    "packed channel": Case("pack_quantized", ct("pack-quantized", num_bits=4, strategy="channel"), packed(size=-1)),
    "packed asym": Case("pack_quantized", ct("pack-quantized", num_bits=4, strategy="group", symmetric=False), packed(sym=False)),
    "packed actorder": Case("pack_quantized", ct("pack-quantized", num_bits=4, actorder="group"), packed(shuffled=True)),
    "packed 8 bit": Case("pack_quantized", ct("pack-quantized", num_bits=8, strategy="channel"), packed(bits=8, size=-1)),
    "int8 channel": Case("int_quantized", ct("int-quantized", num_bits=8, strategy="channel"), int8("channel")),
    "int8 tensor": Case("int_quantized", ct("int-quantized", num_bits=8, strategy="tensor"), int8("tensor")),
    "int8 group": Case("int_quantized", ct("naive-quantized", num_bits=8, strategy="group", group_size=64), int8("group")),
    "int8 asym": Case("int_quantized", ct("int-quantized", num_bits=8, symmetric=False), int8("channel", sym=False)),
    "fp8 block": Case("fp8", {"quant_method": "fp8", "weight_block_size": [128, 128]}, fp8("block", "weight_scale_inv")),
    "fp8 tensor": Case("fp8", {"quant_method": "fp8", "activation_scheme": "static"}, fp8("tensor", activations=True)),
    "fp8 fbgemm": Case("fp8", {"quant_method": "fbgemm_fp8"}, fp8("channel")),
    "fp8 ct": Case("fp8", ct("float-quantized", "float", num_bits=8, strategy="channel"), fp8("channel")),
    "fp8 ct naive": Case("fp8", ct("naive-quantized", "float", num_bits=8, strategy="tensor"), fp8("tensor", activations=True)),
    "fp8 ct block": Case("fp8", ct("float-quantized", "float", num_bits=8, block_structure=[128, 128]), fp8("block")),
    "fp8 modelopt": Case(
        "fp8", None, fp8("tensor", activations=True), {"hf_quant_config.json": {"quantization": {"quant_algo": "FP8"}}}
    ),
    "mxfp4": Case("mxfp4", None, mxfp4),
}  # fmt: skip

"""Random weights of a named shape as files that other engines read too: one GGUF file, or a folder in the Hugging Face layout.

Owns the files, what is in them, and the folder where they are kept for the next run. The numbers are those of `weights/dummy.py`:
the folder holds them in bf16, the file quantises them with the `gguf` package, so that neither side of a comparison made them.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from slipstream.arch import SHAPES, ModelSpec, TensorSpec, shape, tensors
from slipstream.arch.detect import FAMILIES
from slipstream.arch.names import Place, place_of
from slipstream.arch.rope import Llama3Scaling
from slipstream.base import registry
from slipstream.base.errors import InputError
from slipstream.weights.dummy import Dummy
from slipstream.weights.gguf.config import KINDS
from slipstream.weights.gguf.rope import FACTORS

# how the matrices of a file are stored -> the weight format that its limit is reckoned with (cost/)
STORED = {"Q4_0": "int4", "Q8_0": "q8_0", "BF16": "bf16"}
VERSION = 1  # of what is written; another one is another file
_BLOCK = 32  # numbers of one block of Q4_0 and Q8_0
_ARCHITECTURES = ("llama", "qwen2", "qwen3")  # those whose metadata `_metadata` writes in full


def folder() -> Path:
    """Where files are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slipstream" / "bench"


def gguf_file(name: str, stored: str, where: Path, say: Callable[[str], None] = lambda line: None) -> Path:
    """The GGUF file of a shape, written if it is not there yet.

    Args:
        name: a named shape.
        stored: a key of STORED, for all matrices, embedding and head included; norms are F32.
        where: folder to keep it in.
        say: is told what is written, its size, and that it stays.

    Raises:
        InputError: the shape or type is unknown, cannot be written as GGUF, the disk is too small, or `gguf` is not installed.
    """
    spec = shape(name)
    if stored not in STORED:
        raise registry.unknown("weights", stored, STORED)
    architecture = _architecture(name, spec, stored)
    path = where / f"{name}-{stored}-v{VERSION}.gguf"
    if not path.is_file():
        gguf = gguf_package()
        infos = [_info(gguf, parameter, stored) for parameter in tensors(spec)]
        _announce(path, sum(size for _, _, size in infos), say)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            _write(gguf, part, name, spec, architecture, infos)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    return path


def bf16_folder(name: str, where: Path, say: Callable[[str], None] = lambda line: None) -> Path:
    """The folder of a shape with config.json and model.safetensors in bf16, written if it is not there yet. See `gguf_file`."""
    import torch
    from safetensors.torch import save_file

    spec = shape(name)
    path = where / f"{name}-BF16-v{VERSION}"
    if not path.is_dir():
        _announce(path, 2 * sum(parameter.size for parameter in tensors(spec)), say)
        family, dummy = registry.load(FAMILIES, spec.family), Dummy(spec)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        part.mkdir()
        try:
            names = {place_of(family, spec, parameter).name: parameter.name for parameter in tensors(spec)}
            save_file({stored: dummy.get(own).to(torch.bfloat16) for stored, own in names.items()}, part / "model.safetensors")
            config = {**SHAPES[name], "model_type": spec.family, "torch_dtype": "bfloat16", "hidden_act": "silu"}
            (part / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
            part.replace(path)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return path


def _architecture(name: str, spec: ModelSpec, stored: str) -> str:
    """The architecture's name in GGUF."""
    written = SHAPES[name]["architectures"][0]
    rope = spec.ropes[0]
    plain = len(spec.ropes) == 1 and rope.rotated is None and isinstance(rope.scaling, Llama3Scaling | None) and not any(spec.windows)
    architecture = next((name for name in _ARCHITECTURES if written == registry.load(KINDS, name).ARCHITECTURE), None)
    if architecture is None or not plain:
        known = ", ".join(_ARCHITECTURES)
        raise InputError(f"shape={name!r}: {written} cannot be written as GGUF here; take a shape of {known} without windows")
    odd = [parameter for parameter in tensors(spec) if len(parameter.shape) > 1 and parameter.shape[1] % _BLOCK]
    if stored != "BF16" and odd:
        raise InputError(f"weights={stored!r}: {odd[0].name} of {name} has {odd[0].shape[1]} columns, no multiple of {_BLOCK}; take BF16")
    return architecture


def gguf_package() -> Any:
    """The package that writes GGUF files, not made by us; InputError where it is missing."""
    try:
        import gguf
    except ImportError as error:
        raise InputError(f"the package gguf rounds and writes weights and is missing ({error}); pip install gguf") from None
    return gguf


def _announce(path: Path, size: int, say: Callable[[str], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if free < size * 1.05:
        raise InputError(f"{path}: needs {size / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; set XDG_CACHE_HOME to a larger disk")
    say(f"writing random weights, {size / 1e9:.2f} GB, kept for the next run: {path}")


def _info(gguf: Any, parameter: TensorSpec, stored: str) -> tuple[TensorSpec, Any, int]:
    """(parameter, ggml type, bytes)."""
    kind = gguf.GGMLQuantizationType[stored if len(parameter.shape) > 1 else "F32"]
    block, width = gguf.GGML_QUANT_SIZES[kind]
    return parameter, kind, parameter.size // block * width


def _write(gguf: Any, path: Path, name: str, spec: ModelSpec, architecture: str, infos: list) -> None:
    """Header first, then one tensor at a time, so that no more than one lies in memory."""
    layout, dummy = registry.load(KINDS, architecture), Dummy(spec)
    places = [place_of(layout, spec, parameter) for parameter, _, _ in infos]
    writer = gguf.GGUFWriter(path, architecture)
    _metadata(gguf, writer, name, spec, infos)
    factors = _rope_factors(spec)
    if factors is not None:
        writer.add_tensor_info(FACTORS, factors.shape, factors.dtype, factors.nbytes)
    for place, (parameter, stored, size) in zip(places, infos, strict=True):
        writer.add_tensor_info(place.name, parameter.shape, np.dtype(np.float32), size, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    for place, (parameter, stored, _) in zip(places, infos, strict=True):
        writer.write_tensor_data(gguf.quants.quantize(_as_placed(dummy.get(parameter.name).float().numpy(), place), stored))
    writer.close()


def _metadata(gguf: Any, writer: Any, name: str, spec: ModelSpec, infos: list) -> None:
    mixer, ffn = spec.layers[0].mixer, spec.layers[0].ffn
    largest = max(infos, key=lambda info: info[2])[1].name
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType["MOSTLY_" + largest])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(spec.max_len)
    writer.add_embedding_length(spec.hidden)
    writer.add_block_count(len(spec.layers))
    writer.add_feed_forward_length(ffn.width)
    writer.add_head_count(mixer.heads)
    writer.add_head_count_kv(mixer.kv_heads)
    writer.add_layer_norm_rms_eps(spec.norm_eps)
    writer.add_rope_freq_base(spec.ropes[0].theta)
    for add in (writer.add_rope_dimension_count, writer.add_key_length, writer.add_value_length):
        add(mixer.head_dim)
    writer.add_vocab_size(spec.vocab)
    tokens = list(_vocabulary(spec.vocab))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * (spec.vocab - 2) + [gguf.TokenType.CONTROL] * 2)
    writer.add_token_merges([f"{tokens[0]} {tokens[1]}"])
    writer.add_bos_token_id(spec.vocab - 2)
    writer.add_eos_token_id(spec.vocab - 1)


def _vocabulary(size: int) -> Iterator[str]:
    """Made-up tokens, since engines refuse a file without: the letters of byte-level BPE, one pair of them, then numbers. The last
    two begin and end a text."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    yield from letters
    yield letters[0] + letters[1]
    yield from (f"<{number}>" for number in range(len(letters) + 1, size))


def _rope_factors(spec: ModelSpec) -> np.ndarray | None:
    """Divisors of the frequencies, as llama.cpp's converter stores the scaling of Llama 3.1. [head_dim / 2]"""
    rope = spec.ropes[0]
    if rope.scaling is None:
        return None
    plain = [rope.theta ** (-pair / (spec.head_dim // 2)) for pair in range(spec.head_dim // 2)]
    return np.array(plain, np.float32) / np.array(rope.scaling.stretch(plain, rope.theta, spec.max_len), np.float32)


def _as_placed(values: np.ndarray, place: Place) -> np.ndarray:
    """The tensor of a file from which `place` takes these values."""
    if place.rows is None:
        return values
    stored = np.empty_like(values)
    stored[list(place.rows)] = values
    return stored

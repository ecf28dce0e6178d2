"""Laws of the block codecs, and gguf as the judge of values."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.core.errors import InputError, UnsupportedError
from bitwright.core.schemes import GGML_BLOCKS, GgmlScheme
from bitwright.formats.ggml.blocks import pack, unpack
from bitwright.formats.ggml.codec import BlockCodec
from bitwright.tensors.qtensor import QTensor

TYPES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"]
HALVES = {
    "Q4_0": [0],
    "Q5_0": [0],
    "Q8_0": [0],
    "Q6_K": [208],
    "Q3_K": [108],
    "Q2_K": [80, 82],
    "IQ4_NL": [0],
    "IQ4_XS": [0],
    "MXFP4": [],
}
# above: byte offsets of half-precision scales; else 0 and 2
SCALE_RANGES = {"Q2_K": (0, 16), "Q3_K": (-32, 32), "IQ4_XS": (-32, 32), "Q6_K": (-128, 128)}  # else 6 bits


def random_bytes(kind: str, rows: int, columns: int, seed: int) -> np.ndarray:
    """Bytes [rows, bytes per row], uniform but for finite scales of any magnitude and sign."""
    elements, size = GGML_BLOCKS[kind]
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (rows * columns // elements, size), dtype=np.uint8)
    for offset in HALVES.get(kind, [0, 2]):
        halves = rng.integers(0, 1 << 16, len(blocks), dtype=np.uint16)
        finite = np.where((halves & 0x7C00) == 0x7C00, halves & 0x83FF, halves)
        blocks[:, offset : offset + 2] = finite.astype("<u2").view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, -1)


def random_codes(kind: str, rows: int, columns: int, seed: int) -> QTensor:
    codec = BlockCodec.known[kind]
    rng = np.random.default_rng(seed)
    elements = GGML_BLOCKS[kind][0]
    low = -128 if codec.codes_dtype == "i1" else 0
    codes = rng.integers(low, low + (1 << codec.bits), (rows, columns)).astype(codec.codes_dtype)
    fields = {}
    for name, count, dtype in codec.fields:
        shape = (rows, columns // elements * count)
        if dtype == "<f2":
            fields[name] = rng.standard_normal(shape).astype("<f2")
        else:
            low, high = (0, 256) if name == "e" else SCALE_RANGES.get(kind, (0, 64))
            fields[name] = rng.integers(low, high, shape).astype(dtype)
    return QTensor(scheme=GgmlScheme(type=kind), codes=codes, fields=fields)


def test_every_block_type_of_the_schemes_has_a_codec() -> None:
    assert sorted(BlockCodec.known) == sorted(set(GGML_BLOCKS) - {"F32", "F16", "BF16"}) == sorted(TYPES)


@pytest.mark.parametrize("kind", TYPES)
@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 5), blocks=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
def test_packed_codes_come_back(kind: str, rows: int, blocks: int, seed: int) -> None:
    q = random_codes(kind, rows, blocks * 256, seed)
    back = unpack(pack(q), kind, rows, blocks * 256)
    assert np.array_equal(back.codes, q.codes)
    assert back.codes.dtype == q.codes.dtype
    assert back.fields.keys() == q.fields.keys()
    for name, field in q.fields.items():
        assert np.array_equal(back.fields[name], field)
        assert back.fields[name].dtype == field.dtype


@pytest.mark.parametrize("kind", TYPES)
@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 4), data=st.data())
def test_all_bytes_come_back(kind: str, rows: int, data: st.DataObject) -> None:
    elements, size = GGML_BLOCKS[kind]
    raw = data.draw(st.binary(min_size=rows * size, max_size=rows * size))
    assert pack(unpack(raw, kind, rows, elements)) == raw


@pytest.mark.parametrize("kind", TYPES)
@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 6), blocks=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
def test_values_equal_those_of_gguf_bit_for_bit(kind: str, rows: int, blocks: int, seed: int) -> None:
    raw = random_bytes(kind, rows, blocks * 256, seed)
    ours = unpack(raw.tobytes(), kind, rows, blocks * 256).decode()
    with np.errstate(over="ignore"):
        theirs = gguf.dequantize(raw, gguf.GGMLQuantizationType[kind])
    assert ours.dtype == theirs.dtype == np.float32
    assert np.array_equal(ours.view(np.uint32), theirs.view(np.uint32))


@pytest.mark.parametrize("kind", TYPES[:5])
def test_upstream_quantized_bytes_unpack_to_codes_near_the_values(kind: str) -> None:
    values = np.random.default_rng(3).standard_normal((7, 96)).astype(np.float32)
    with np.errstate(all="ignore"):
        raw = gguf.quantize(values, gguf.GGMLQuantizationType[kind])
    q = unpack(raw.tobytes(), kind, 7, 96)
    assert pack(q) == raw.tobytes()
    step = np.repeat(np.abs(q.fields["d"].astype(np.float32)), 32, axis=1)
    assert np.all(np.abs(q.decode() - values) <= 1.01 * step + 1e-3)


def test_upstream_quantized_mxfp4_unpacks_to_the_same_bytes() -> None:
    values = np.random.default_rng(3).standard_normal((7, 96)).astype(np.float32)
    raw = gguf.quantize(values, gguf.GGMLQuantizationType.MXFP4)
    q = unpack(raw.tobytes(), "MXFP4", 7, 96)
    assert pack(q) == raw.tobytes()
    assert np.square(q.decode() - values).mean() < 0.02


@pytest.mark.parametrize(
    ("kind", "name", "value"), [("Q2_K", "mins", 16), ("Q3_K", "scales", 32), ("Q4_K", "mins", 64)]
)
def test_scales_out_of_range_never_reach_a_file(kind: str, name: str, value: int) -> None:
    q = random_codes(kind, 1, 256, 0)
    np.asarray(q.fields[name])[0, 3] = value
    with pytest.raises(AssertionError, match="bits"):
        pack(q)


@pytest.mark.parametrize("size", [143, 145, 0, 288])
def test_bytes_that_do_not_fit_the_shape_are_refused(size: int) -> None:
    with pytest.raises(InputError, match="cannot be a 1 x 256 tensor of Q4_K"):
        unpack(bytes(size), "Q4_K", 1, 256)


def test_a_type_without_codec_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="TQ1_0"):
        unpack(bytes(54), "TQ1_0", 1, 256)


def test_codes_out_of_range_never_reach_a_file() -> None:
    q = random_codes("Q4_K", 1, 256, 0)
    q.codes[0, 0] = 16
    with pytest.raises(AssertionError, match="4 bits"):
        pack(q)

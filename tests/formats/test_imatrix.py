"""Importance matrices: read what the format says, whoever wrote it, and believe no size."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitwright.core.errors import BitwrightError, InputError, MismatchError
from bitwright.core.plan import TensorPlan
from bitwright.core.schemes import GgmlScheme
from bitwright.formats.ggml.imatrix import Entry, ImportanceMatrix, importances, read_imatrix, write_imatrix

NAME = "blk.0.attn_q.weight"


def binary(entries: dict[str, tuple[int, list[float]]], tail: bytes = b"") -> bytes:
    """The earlier form, by the letter of its writer in llama.cpp."""
    parts = [struct.pack("<i", len(entries))]
    for name, (calls, values) in entries.items():
        parts += [struct.pack("<i", len(name)), name.encode(), struct.pack("<ii", calls, len(values))]
        parts.append(struct.pack(f"<{len(values)}f", *values))
    return b"".join(parts) + tail


def foreign(path: Path, sums: dict[str, np.ndarray], counts: dict[str, np.ndarray], kind: str = "imatrix") -> Path:
    """The GGUF form, written by the gguf library with what llama-imatrix adds beside it."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(kind)
    writer.add_array("imatrix.datasets", ["text.txt"])
    writer.add_uint32("imatrix.chunk_count", 3)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, values in sums.items():
        writer.add_tensor(f"{name}.in_sum2", values)
        writer.add_tensor(f"{name}.in_sum", values)
    for name, values in counts.items():
        writer.add_tensor(f"{name}.counts", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def planned(name: str, shape: tuple[int, int]) -> TensorPlan:
    return TensorPlan(
        name=name, stored_name="", shape=shape, scheme=GgmlScheme(type="Q8_0"), bytes=0, reason=""
    )  # fmt: skip


def test_sums_over_counts_are_mean_squares(tmp_path: Path) -> None:
    sums = np.array([[2.0, 8.0, 0.0], [9.0, 9.0, 9.0]], dtype=np.float32)
    counts = np.array([[4.0], [0.0]], dtype=np.float32)
    found = read_imatrix(foreign(tmp_path / "m.gguf", {NAME: sums}, {NAME: counts}))
    assert (found.datasets, found.chunks, found.chunk_size) == (("text.txt",), 3, 512)
    np.testing.assert_array_equal(found.entries[NAME].mean_squares(), [[0.5, 2.0, 0.0], [1.0, 1.0, 1.0]])


def test_the_binary_form_holds_means_times_calls(tmp_path: Path) -> None:
    path = tmp_path / "m.dat"
    path.write_bytes(binary({NAME: (4, [2.0, 8.0])}, struct.pack("<ii", 7, 4) + b"text"))
    found = read_imatrix(path)
    assert (found.datasets, found.chunks) == (("text",), 7)
    np.testing.assert_array_equal(found.entries[NAME].mean_squares(), [[0.5, 2.0]])


@given(st.integers(1, 3), st.integers(1, 40), st.integers(0, 2**31))
def test_what_is_written_is_read_back(experts: int, inputs: int, seed: int) -> None:
    import tempfile

    rng = np.random.default_rng(seed)
    entry = Entry(
        sums_EI=rng.random((experts, inputs), dtype=np.float32),
        counts_E=rng.integers(0, 9, experts).astype(np.float32),
    )
    matrix = ImportanceMatrix(entries={NAME: entry, "b": entry}, datasets=("x",), chunks=2, chunk_size=8)
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder) / "a.gguf", Path(folder) / "b.gguf"
        write_imatrix(matrix, first)
        found = read_imatrix(first)
        write_imatrix(found, second)
        assert first.read_bytes() == second.read_bytes()
    np.testing.assert_array_equal(found.entries[NAME].sums_EI, entry.sums_EI)
    np.testing.assert_array_equal(found.entries[NAME].counts_E, entry.counts_E)
    assert (found.datasets, found.chunks, found.chunk_size) == (("x",), 2, 8)


@given(st.data())
def test_a_damaged_binary_file_is_refused_and_never_believed(data: st.DataObject) -> None:
    import tempfile

    whole = bytearray(binary({NAME: (4, [2.0, 8.0]), "other": (1, [1.0])}))
    if data.draw(st.booleans()):
        whole = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        at = data.draw(st.sampled_from([0, 4, 4 + 4 + len(NAME) + 4]))
        whole[at : at + 4] = struct.pack("<i", data.draw(st.sampled_from([-1, 2**31 - 1, 10**6, -(2**31)])))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.dat"
        path.write_bytes(whole)
        with pytest.raises(BitwrightError):
            read_imatrix(path)


@pytest.mark.parametrize(
    ("sums", "counts", "word"),
    [
        (np.array([1.0, -1.0]), np.array([1.0]), "negative"),
        (np.array([1.0, np.nan]), np.array([1.0]), "not finite"),
        (np.array([1.0, 1.0, 1.0]), np.array([1.0, 1.0]), "3 sums"),
    ],
)
def test_values_that_make_no_sense_are_refused(sums: np.ndarray, counts: np.ndarray, word: str, tmp_path: Path) -> None:
    path = foreign(tmp_path / "m.gguf", {NAME: sums.astype(np.float32)}, {NAME: counts.astype(np.float32)})
    with pytest.raises(InputError, match=word):
        read_imatrix(path)


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    ones = np.ones(2, dtype=np.float32)
    with pytest.raises(InputError, match="no importance matrix"):
        read_imatrix(foreign(tmp_path / "model.gguf", {NAME: ones}, {NAME: ones[:1]}, kind="model"))
    with pytest.raises(InputError, match="lacks its counts"):
        read_imatrix(foreign(tmp_path / "half.gguf", {NAME: ones}, {}))
    with pytest.raises(InputError, match="does not exist"):
        read_imatrix(tmp_path / "none.gguf")
    (tmp_path / "text.txt").write_text("some words that are no matrix at all")
    with pytest.raises(InputError, match="claims"):
        read_imatrix(tmp_path / "text.txt")


def test_names_are_mapped_and_another_model_is_told(tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    entry = Entry(sums_EI=np.array([[2.0, 4.0]], dtype=np.float32), counts_E=np.array([2.0], dtype=np.float32))
    matrix = ImportanceMatrix(entries={NAME: entry})
    found = importances(matrix, tmp_path, [planned(name, (8, 2)), planned("lm_head.weight", (8, 2))])
    assert list(found) == [name]
    np.testing.assert_array_equal(found[name], [1.0, 2.0])
    with pytest.raises(MismatchError, match="the model has 3"):
        importances(matrix, tmp_path, [planned(name, (8, 3))])
    with pytest.raises(MismatchError, match="no tensor of this model"):
        importances(matrix, tmp_path, [planned("lm_head.weight", (8, 2))])

"""Which kernel of which engine runs a matrix, or why none does: the rows of engine_kernels.toml, looked up.

That an engine loads a file and that it computes in the file's type are told apart.

Not here: what of it is shown (planner/engine_fit.py), notes on single types (compressed_types.py).
Sources: each row names its own; most were read in vLLM 0.32's and SGLang 0.5.23's sources, none was measured.
"""

from __future__ import annotations

import functools

from bitwright.core.documents import Record
from bitwright.core.plan import ArtifactFormat
from bitwright.core.preflight import How
from bitwright.core.schemes import CodebookScheme, GgmlScheme, Int8RowScheme, IntScheme, QuantScheme
from bitwright.facts.rows import read_rows

Capability = tuple[int, int]
FILE = "engine_kernels.toml"


class Kernel(Record, frozen=True, kw_only=True):
    """A row; the head of the file says what each field means."""

    engine: str
    formats: tuple[str, ...]
    kernel: str
    how: How
    source: str
    kind: str = ""
    bits: tuple[int, ...] = ()
    symmetric: bool | None = None
    groups: tuple[int, ...] = ()
    inputs: str = ""
    least: str = ""
    last: str = ""
    cpu: bool = False
    multiple: int = 1
    because: str = ""


class Otherwise(Record, frozen=True, kw_only=True):
    """What becomes of a file of these formats that no row matches."""

    engine: str
    formats: tuple[str, ...]
    because: str
    source: str
    cpu: How = "fails"  # on processors


@functools.cache
def kernels() -> tuple[Kernel, ...]:
    """All rows, in the engines' order."""
    return read_rows(FILE, "kernel", Kernel)


@functools.cache
def otherwise() -> tuple[Otherwise, ...]:
    """What holds where no row does."""
    return read_rows(FILE, "otherwise", Otherwise)


def engines_of(format: ArtifactFormat) -> list[str]:
    """Engines of which something is known for a format, in the order of the file."""
    rows: list[Kernel | Otherwise] = [*kernels(), *otherwise()]
    return list(dict.fromkeys(row.engine for row in rows if format in row.formats))


def find_kernel(
    engine: str,
    format: ArtifactFormat,
    scheme: QuantScheme,
    capability: Capability | None,
    shapes: tuple[tuple[int, int], ...] = (),
) -> Kernel:
    """The row that runs matrices of these shapes (outputs, inputs) on a GPU, or on a processor (`None`).

    Where there is none, a row without a kernel that says why.
    """
    for row in kernels():
        if row.engine == engine and format in row.formats and _runs(row, scheme, capability, shapes):
            return row
    last = next((row for row in otherwise() if row.engine == engine and format in row.formats), None)
    because = last.because if last is not None else "no kernel on this device"
    how: How = "fails" if capability is not None or last is None else last.cpu
    return Kernel(
        engine=engine,
        formats=(format,),
        kernel="",
        how=how,
        because="not looked up on processors" if how == "unknown" else because,
        source=last.source if last is not None else f"rows of {FILE}",
    )


def _runs(row: Kernel, scheme: QuantScheme, capability: Capability | None, shapes: tuple[tuple[int, int], ...]) -> bool:
    return _on_device(row, capability) and _holds(row, scheme) and _fills(row, shapes)


def _on_device(row: Kernel, capability: Capability | None) -> bool:
    if not row.least and not row.last and not row.cpu:
        return True
    if capability is None or row.cpu:
        return capability is None and row.cpu
    return version(row.least or "0.0") <= capability <= version(row.last or "99.9")


def _holds(row: Kernel, scheme: QuantScheme) -> bool:
    if row.kind not in ("", kind_of(scheme)) or (row.inputs and not inputs_of(scheme).startswith(row.inputs)):
        return False
    if not isinstance(scheme, IntScheme):
        return True
    return (
        (not row.bits or scheme.bits in row.bits)
        and row.symmetric in (None, scheme.symmetric)
        and (not row.groups or (scheme.group_size or 0) in row.groups)
    )


def _fills(row: Kernel, shapes: tuple[tuple[int, int], ...]) -> bool:
    return all(size % row.multiple == 0 for shape in shapes for size in shape)


def kind_of(scheme: QuantScheme) -> str:
    """The word that rows use for a scheme."""
    match scheme:
        case IntScheme():
            return "int"
        case CodebookScheme():
            return scheme.codebook
        case Int8RowScheme():
            return "int8-row"
        case GgmlScheme():
            return "ggml"
    if scheme.scaling == "nv":
        return "nvfp4"
    if scheme.scaling == "mx":
        return "mxfp4" if scheme.element == "e2m1" else "mxfp8"
    return "fp8" if scheme.element == "e4m3" else "fp8-e5m2"


def inputs_of(scheme: QuantScheme) -> str:
    """The word that rows use for how inputs are rounded."""
    activations = getattr(scheme, "activations", None)
    return "16-bit" if activations is None else f"{activations.element} {activations.scaling}"


def version(text: str) -> Capability:
    """`8.9` as two numbers, which compare as capabilities do."""
    major, _, minor = text.partition(".")
    return int(major), int(minor)

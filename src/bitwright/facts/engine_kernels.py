"""Which kernel of which engine runs a matrix, or why none does: the rows of engine_kernels.toml, looked up.

That an engine loads a file and that it computes in the file's type are told apart. A device is known by NVIDIA's
compute capability, by the name that AMD and Intel give its architecture (gfx942, gaudi3), or is a processor.

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
Place = Capability | str | None  # a compute capability, another architecture's name, a processor
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
    architectures: tuple[str, ...] = ()
    multiple: int = 1
    because: str = ""


class Otherwise(Record, frozen=True, kw_only=True):
    """What becomes of a file of these formats that no row matches."""

    engine: str
    formats: tuple[str, ...]
    because: str
    source: str
    cpu: How = "fails"  # on processors
    architectures: tuple[str, ...] = ()  # these alone; none: NVIDIA and processors


class Platform(Record, frozen=True, kw_only=True):
    """Devices other than NVIDIA's and processors, as an engine runs on them."""

    engine: str
    architectures: tuple[str, ...]
    name: str
    source: str
    fp8_cache: bool = False  # keys and values in FP8 are known to work
    note: str = ""  # what a plan warns of
    advice: str = ""  # what may serve faster, and does not stand on the launch line


@functools.cache
def kernels() -> tuple[Kernel, ...]:
    """All rows, in the engines' order."""
    return read_rows(FILE, "kernel", Kernel)


@functools.cache
def otherwise() -> tuple[Otherwise, ...]:
    """What holds where no row does."""
    return read_rows(FILE, "otherwise", Otherwise)


@functools.cache
def platforms() -> tuple[Platform, ...]:
    """What engines run on beside NVIDIA's devices and processors."""
    return read_rows(FILE, "platform", Platform)


def platform_of(engine: str, place: Place) -> Platform | None:
    """The row of an engine on an architecture; `None` for NVIDIA's, for processors and where nobody looked."""
    if not isinstance(place, str):
        return None
    return next((row for row in platforms() if row.engine == engine and is_named(row.architectures, place)), None)


def engines_of(format: ArtifactFormat) -> list[str]:
    """Engines of which something is known for a format, in the order of the file."""
    rows: list[Kernel | Otherwise] = [*kernels(), *otherwise()]
    return list(dict.fromkeys(row.engine for row in rows if format in row.formats))


def find_kernel(
    engine: str,
    format: ArtifactFormat,
    scheme: QuantScheme,
    place: Place,
    shapes: tuple[tuple[int, int], ...] = (),
) -> Kernel:
    """The row that runs matrices of these shapes (outputs, inputs) on a device.

    Where there is none, a row without a kernel that says why.
    """
    for row in kernels():
        if row.engine == engine and format in row.formats and _runs(row, scheme, place, shapes):
            return row
    rest = (row for row in otherwise() if row.engine == engine and format in row.formats)
    last = next((row for row in rest if _is_told(row, place)), None)
    how = _without(last, place)
    because = last.because if last is not None else "no kernel on this device"
    return Kernel(
        engine=engine,
        formats=(format,),
        kernel="",
        how=how,
        because=f"not looked up on {_called(place)}" if how == "unknown" else because,
        source=last.source if last is not None else f"rows of {FILE}",
    )


def is_named(architectures: tuple[str, ...], place: str) -> bool:
    """Whether an architecture is among these, or of a family whose names begin like one (gfx11: gfx1100, gfx1151)."""
    return bool(place) and place.startswith(architectures)


def _without(row: Otherwise | None, place: Place) -> How:
    """What happens where no kernel is: who has not looked at an architecture cannot say that it fails."""
    if isinstance(place, str):
        return "unknown" if row is None else "fails"
    return "fails" if place is not None or row is None else row.cpu


def _called(place: Place) -> str:
    if place is None:
        return "processors"
    return place if isinstance(place, str) and place else "this device"


def _is_told(row: Otherwise, place: Place) -> bool:
    return is_named(row.architectures, place) if isinstance(place, str) else not row.architectures


def _runs(row: Kernel, scheme: QuantScheme, place: Place, shapes: tuple[tuple[int, int], ...]) -> bool:
    return _on_device(row, place) and _holds(row, scheme) and _fills(row, shapes)


def _on_device(row: Kernel, place: Place) -> bool:
    if row.architectures:
        return isinstance(place, str) and is_named(row.architectures, place)
    if not row.least and not row.last and not row.cpu:
        return True
    if place is None or row.cpu:
        return place is None and row.cpu
    return not isinstance(place, str) and version(row.least or "0.0") <= place <= version(row.last or "99.9")


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

"""What a long step will take, said before it begins: time, memory, disk, and who will run what comes out of it."""

from __future__ import annotations

from typing import Literal

from bitwright.core.documents import Document, Record
from bitwright.core.intervals import Interval

Step = Literal["quantize", "ship", "convert", "imatrix"]
How = Literal["computes", "widens", "emulates", "expands", "fails", "unknown"]


class Share(Record, frozen=True, kw_only=True):
    """A part of a sum, in the unit of the sum."""

    what: str
    amount: float


class TimeNeed(Record, frozen=True, kw_only=True):
    """Seconds of the whole step with `threads` threads, and what they go to."""

    total: Interval
    parts: tuple[Share, ...]
    threads: int


class MemoryNeed(Record, frozen=True, kw_only=True):
    """Peak bytes of the step's process, and what this machine has for it."""

    total: Interval
    available: int


class DeviceNeed(Record, frozen=True, kw_only=True):
    """Peak bytes on each device that blocks run on. `available` is what one has, 0 where no driver's tool says it."""

    name: str  # as asked for
    total: Interval
    available: int


class DiskNeed(Record, frozen=True, kw_only=True):
    """Bytes that the step will still take on the disk of `where`, work folder included, and bytes free there."""

    where: str
    parts: tuple[Share, ...]
    needed: int
    free: int


class EngineFit(Record, frozen=True, kw_only=True):
    """What one engine makes of the artifact's matrices of one scheme on one kind of device.

    how        computes   products run in the stored type
               widens     weights are widened to 16 bits inside the kernel: memory is saved, time less so
               emulates   values are rounded as stored and multiplied in 16 bits: memory is saved, not time
               expands    weights become floats as the file is loaded: disk is saved, neither memory nor time
    fails      the engine refuses the file, or has no kernel
               unknown    nobody has looked
    """

    engine: str
    scheme: str
    devices: str  # a compute capability, a range of them, another architecture, or `CPU`
    here: bool  # whether the plan's device is among them
    kernel: str
    how: How
    because: str
    source: str


class Ragged(Record, frozen=True, kw_only=True):
    """Matrices whose rows hold no whole number of groups or blocks, and what is done with them."""

    tensors: tuple[str, ...]
    inputs: int
    done: str


class Kept(Record, frozen=True, kw_only=True):
    """Tensors that stay in floating point, and why."""

    tensors: tuple[str, ...]
    type: str
    bytes: int
    because: str


class Preflight(Document, frozen=True, kw_only=True):
    """What `--dry-run` prints. A step that makes no artifact leaves out what only artifacts have."""

    schema: str = "bitwright.preflight/1"
    step: Step
    model: str
    architecture: str
    parameters: int
    makes: str  # format and type, or `importance matrix`
    time: TimeNeed
    memory: MemoryNeed
    disk: DiskNeed
    warnings: tuple[str, ...]
    device: DeviceNeed | None = None  # where that is not the processor
    method: str = ""
    file_bytes: int = 0
    bits_per_weight: float = 0.0
    engines: tuple[EngineFit, ...] = ()
    ragged: tuple[Ragged, ...] = ()
    kept: tuple[Kept, ...] = ()

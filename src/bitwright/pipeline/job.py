"""The work directory of one quantization: what was asked, what is done, and the state to go on from.

`OUT/.work` holds `job.json`, the calibration tokens, the hidden states behind the last finished unit, and the growing
artifact. A unit is the embedding, one decoder block, or the head. It counts as done only after its bytes and the hidden
states behind it are on disk and `job.json` has been replaced; a kill at any moment loses at most the unit in progress
(a second of work where units take milliseconds), and the same inputs give the same bytes again. Another plan, other
text or another version is refused, never mixed.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bitwright.calibration.identity import tokens_sha256
from bitwright.core.atomic import atomic_file, sha256_file
from bitwright.core.device_request import CPU
from bitwright.core.documents import Document, Record, read_document, to_json, write_document
from bitwright.core.errors import BitwrightError, EnvironmentFault, InputError, MismatchError, from_os_error
from bitwright.core.plan import DeviceFacts, Memory, Plan
from bitwright.core.provenance import version
from bitwright.core.records import TensorRecord

WORK = ".work"
PREPARED = ".prepared"  # what was taken before the run (preparation.py)
JOB, TOKENS = "job.json", "tokens.npy"
NOWHERE = DeviceFacts(name="", kind="cpu", memory_bytes=0)
NOTHING = Memory(weights=0, kv_cache=0, overhead=0, total=0, available=0, context=0)


class UnitRecord(Record, frozen=True, kw_only=True):
    """One finished unit."""

    name: str
    tensors: tuple[TensorRecord, ...]
    regions: dict[str, str]  # stored name → SHA-256 of bytes that were on disk with this unit, not before


class HiddenFile(Record, frozen=True, kw_only=True):
    """Hidden states behind unit `unit`, units counted from 1; what is in the file: hidden.py."""

    unit: int
    sha256: str

    def path(self, folder: Path) -> Path:
        """Where they lie in the work directory."""
        return folder / f"hidden-{self.unit:04d}.npy"


class JobState(Document, frozen=True, kw_only=True):
    """`job.json`."""

    schema: str = "bitwright.job/1"
    identity: str
    tokens_sha256: str
    layout_sha256: str  # of all headers: they hold names and the tokenizer, and fix every offset
    threads: int  # sums are taken in an order that depends on it, so a resumed run keeps it
    device: str = CPU  # another one rounds sums otherwise, and may not be there to keep
    done: tuple[UnitRecord, ...] = ()
    hidden: HiddenFile | None = None
    seconds: float = 0.0


class Job:
    """The work directory, locked against a second process for as long as it is open."""

    def __init__(self, out: Path, plan: Plan, device: str = CPU) -> None:
        """Open or create. Raises `MismatchError` when another plan was begun, or on another device, `EnvironmentFault`
        when it is busy."""
        self.folder = out / WORK
        self._identity, self._device = identity(plan), device
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.folder / "lock", "w")  # noqa: SIM115 - held until close
        except OSError as error:
            raise from_os_error(error, self.folder) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise EnvironmentFault(
                f"another run is at work in `{out}`", hint="wait for it, or choose another --out"
            ) from error
        self.state: JobState | None = None
        if (self.folder / JOB).exists():
            try:
                state = read_document(JobState, self.folder / JOB)
            except BitwrightError:
                self.close()
                raise
            if state.identity != self._identity:
                self.close()
                raise MismatchError(
                    f"`{out}` holds an unfinished run with another model, plan, text or version of bitwright",
                    hint=f"choose another --out, or remove `{self.folder}` to start anew",
                )
            if state.device != device:
                self.close()
                raise MismatchError(
                    f"`{out}` holds an unfinished run on {state.device}, this one is on {device}: sums differ",
                    hint=f"go on with the --device it began with, or remove `{self.folder}` to start anew",
                )
            self.state = state

    def close(self) -> None:
        """Let go of the lock."""
        self._lock.close()

    def tokens(self) -> NDArray[np.int64] | None:
        """The calibration tokens [W, T] of the run in progress, checked against `job.json`."""
        path = self.folder / TOKENS
        if self.state is None or not path.exists():
            return None
        tokens_WT = _load(path)
        if tokens_sha256(tokens_WT) != self.state.tokens_sha256:
            raise MismatchError(
                f"`{path}` is not the text that the run began with", hint=f"remove `{self.folder}` to start anew"
            )
        return tokens_WT

    def check_complete(self, layout_sha256: str, partials: list[Path], units: int) -> None:
        """Refuse a folder that lost what `job.json` says is there, or whose files would be laid out otherwise now."""
        assert self.state is not None
        if self.state.layout_sha256 != layout_sha256:
            raise MismatchError(
                f"the files begun in `{self.folder}` would be laid out differently now: "
                "the model's name, its tokenizer or a library has changed",
                hint=f"remove `{self.folder}` to start anew",
            )
        done = len(self.state.done)
        # only the very last step moves files to their final names
        needed = [] if done == 0 or done == units else partials
        if self.state.tokens_sha256:
            behind = [self.state.hidden.path(self.folder)] if self.state.hidden else []
            needed = [*needed, self.folder / TOKENS, *behind]
        lost = [path for path in needed if not path.exists()]
        if lost:
            raise MismatchError(
                f"`{lost[0]}` is missing from an unfinished run", hint=f"remove `{self.folder}` to start anew"
            )

    def begin(self, tokens_WT: NDArray[np.int64] | None, layout_sha256: str, threads: int) -> JobState:
        """Write tokens and an empty state."""
        if tokens_WT is not None:
            _save(self.folder / TOKENS, tokens_WT)
        self.state = JobState(
            identity=self._identity,
            tokens_sha256="" if tokens_WT is None else tokens_sha256(tokens_WT),
            layout_sha256=layout_sha256,
            threads=threads,
            device=self._device,
        )
        write_document(self.state, self.folder / JOB)
        return self.state

    def hidden(self) -> HiddenFile | None:
        """Hidden states behind the last finished unit. Raises `MismatchError` when the file holds others."""
        assert self.state is not None
        file = self.state.hidden
        if file is not None and sha256_file(file.path(self.folder)) != file.sha256:
            raise MismatchError(
                f"`{file.path(self.folder)}` is not what the unfinished run wrote",
                hint=f"remove `{self.folder}` to start anew",
            )
        return file

    def finish_unit(self, unit: UnitRecord, hidden: HiddenFile | None, seconds: float) -> None:
        """Record a unit whose bytes are synced."""
        self.finish_units([unit], hidden, seconds)

    def finish_units(self, units: Sequence[UnitRecord], hidden: HiddenFile | None, seconds: float) -> None:
        """Record units whose bytes are synced. The old hidden states go only after the new state is on disk."""
        assert self.state is not None
        before = self.state.hidden
        self.state = msgspec.structs.replace(
            self.state, done=(*self.state.done, *units), hidden=hidden, seconds=self.state.seconds + seconds
        )
        write_document(self.state, self.folder / JOB)
        if before is not None and before != hidden:
            before.path(self.folder).unlink(missing_ok=True)

    def remove(self) -> None:
        """Clean up after the artifact has its final name."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def identity(plan: Plan) -> str:
    """What makes two runs the same run: our version, and the plan, but for where model and adapter lie and how the
    artifact will be served."""
    model = msgspec.structs.replace(plan.model, path="", adapter="")
    work = msgspec.structs.replace(
        plan, model=model, device=NOWHERE, engine="", launch=(), memory=NOTHING, target=None, ranking=None, reasons=(),
        warnings=(),
    )  # fmt: skip
    return hashlib.sha256(version().encode() + to_json(work)).hexdigest()


def _save(path: Path, values: NDArray[Any]) -> None:
    with atomic_file(path) as handle:
        np.save(handle, values, allow_pickle=False)


def _load(path: Path) -> NDArray[Any]:
    try:
        loaded: NDArray[Any] = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"`{path}` is damaged: {error}", hint=f"remove `{path.parent}` to start anew") from error
    except OSError as error:
        raise from_os_error(error, path) from error
    return loaded

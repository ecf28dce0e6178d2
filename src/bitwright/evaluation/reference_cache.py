"""Reference logits on disk, so that a second artifact is judged without a pass of the reference.

Of each measured token are kept: the `TOP` largest logits, `TAIL` more drawn from the others in proportion to their
probability, the logarithm of the sum of all exponentials, and the loss of the token that follows. With p the
reference's probabilities, q the artifact's, P and Q what they leave outside the largest, and d = log(q/Q) - log(p/P)

    KL(p ‖ q) = Σ over the largest of p log(p/q) + P log(P/Q) + P · mean over the drawn of (exp(d) - 1 - d)

The first two terms are the usual cut: the others as one lump, too low by P times the KL among them. The third is that
KL, estimated without bias, every term of it positive (as exp(d) has the mean 1 there, exp(d) - 1 adds nothing but
steadiness: the estimator "k3" of Schulman, Approximating KL divergence, 2020). Its standard error, from the spread
of the drawn, taken over all tokens is the `cache_error` of the record. Losses, confidences and the five most probable
tokens are exact.

One file for each set of windows, named by a hash of the model, the tokens, the code that computes logits and the two
counts: `magic, sizes as JSON in one line, then the rows`, little-endian, mapped into memory when read.

Dimension key: N tokens, V vocabulary, K largest, M drawn, S = K + M stored. Not here: which folder (api/proof.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

import bitwright
from bitwright.core.atomic import atomic_file
from bitwright.core.errors import from_os_error
from bitwright.evaluation.divergence import Floats, Measures, exponentials, shared, top_tokens

TOP, TAIL = 256, 64
MAGIC = b"bitwright reference logits 1\n"
SEED = 20261121
TINY = 1e-9  # a rest below this is rounding
MAX_GAP = 50.0  # exp of more would drown every other token's figure
TAIL_ROWS = 32  # tokens whose running sums are held at once, in float64
CODE = ("evaluation", "formats", "modeling", "tensors")  # rooms whose code decides about logits


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceCache:
    """A folder of such files for one reference; `fingerprint` is the model's."""

    folder: Path
    fingerprint: str
    top: int = TOP
    tail: int = TAIL

    def path(self, tokens_WT: torch.Tensor) -> Path:
        """Where the logits of these windows lie, or would."""
        digest = hashlib.sha256(MAGIC)
        shape = [*tokens_WT.shape, self.top, self.tail]
        digest.update(json.dumps([self.fingerprint, code_version(), torch.__version__, shape]).encode())
        digest.update(tokens_WT.numpy().tobytes())
        return self.folder / f"{digest.hexdigest()[:32]}.logits"

    def read(self, tokens_WT: torch.Tensor) -> Stored | None:
        """What is kept of these windows; None where nothing is, or another version's file."""
        path = self.path(tokens_WT)
        try:
            with path.open("rb") as handle:
                if handle.readline() != MAGIC:
                    return None
                stored, count = json.loads(handle.readline())
                start = handle.tell()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise from_os_error(error, path) from error
        kind = row_type(stored)
        if path.stat().st_size != start + count * kind.itemsize:
            return None
        rows = np.memmap(path, dtype=kind, mode="r", offset=start, shape=(count,))
        return Stored(rows=rows, top=min(self.top, stored))

    @contextlib.contextmanager
    def writer(self, tokens_WT: torch.Tensor, count: int, vocabulary: int) -> Iterator[Writer]:
        """Takes the logits of `count` measured tokens, in order; the file appears when all have come."""
        top = min(self.top, vocabulary)
        tail = min(self.tail, vocabulary - top)
        with atomic_file(self.path(tokens_WT)) as handle:
            handle.write(MAGIC + json.dumps([top + tail, count]).encode() + b"\n")
            yield Writer(handle, top, tail)


def row_type(stored: int) -> np.dtype[Any]:
    """One token: ids, logits, log of the sum of exponentials, loss, and the five most probable."""
    fields = [("ids", "<i4", (stored,)), ("logits", "<f4", (stored,)), ("lse", "<f8"), ("nll", "<f8")]
    return np.dtype(fields)


class Writer:
    """Appends tokens to an open file."""

    def __init__(self, handle: IO[bytes], top: int, tail: int) -> None:
        self._handle, self._top, self._tail = handle, top, tail
        self._generator = torch.Generator().manual_seed(SEED)

    def add(self, logits_NV: torch.Tensor, nll_N: Floats) -> None:
        """Keep the float32 logits of tokens whose losses are `nll_N`."""
        lse_N, weights_NV, _ = exponentials(logits_NV)
        ids_NS = logits_NV.topk(self._top, dim=-1).indices
        if self._tail:
            weights_NV.scatter_(1, ids_NS, 0.0)
            parts = [draw(part, self._tail, self._generator) for part in torch.split(weights_NV, TAIL_ROWS)]
            ids_NS = torch.cat([ids_NS, torch.cat(parts)], dim=1)
        rows = np.zeros(len(logits_NV), dtype=row_type(ids_NS.shape[1]))
        rows["ids"], rows["logits"] = ids_NS.numpy(), logits_NV.gather(1, ids_NS).numpy()
        rows["lse"], rows["nll"] = lse_N.numpy(), nll_N
        self._handle.write(rows.tobytes())


def draw(weights_NV: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """`count` ids for each row, in proportion to its weights: equally spaced places on the running sum from a random
    start, which is unbiased and spreads less than drawing each by itself (Cochran, Sampling Techniques, ch. 8).
    """
    sums_NV = weights_NV.double().cumsum(dim=-1)
    start_N1 = torch.rand((len(weights_NV), 1), generator=generator, dtype=torch.float64)
    places_NM = (torch.arange(count, dtype=torch.float64) + start_N1) / count * sums_NV[:, -1:]
    return torch.searchsorted(sums_NV, places_NM, right=True).clamp_(max=weights_NV.shape[1] - 1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The kept tokens [N], mapped into memory; the first `top` columns are the largest logits, largest first."""

    rows: NDArray[Any]
    top: int

    def compare(self, start: int, artifact_NV: torch.Tensor, next_N: torch.Tensor) -> tuple[Measures, Floats]:
        """Measure the artifact's logits of the tokens from `start` on; also the variance that drawing adds to each
        KL.
        """
        rows = np.array(self.rows[start : start + len(artifact_NV)])
        ids_NS = torch.from_numpy(rows["ids"].astype(np.int64))
        lse_artifact, _, _ = exponentials(artifact_NV)
        nll_artifact = lse_artifact - artifact_NV.gather(1, next_N[:, None])[:, 0]
        log_p_NS = rows["logits"] - rows["lse"][:, None]
        log_q_NS = artifact_NV.gather(1, ids_NS).numpy() - lse_artifact[:, None].numpy()
        with np.errstate(all="ignore"):  # logits that are not finite are found later
            kl, variance = estimate(log_p_NS, log_q_NS, self.top)
        best = top_tokens(artifact_NV)
        measures = Measures(
            kl=kl,
            nll_reference=rows["nll"],
            nll_artifact=nll_artifact.numpy(),
            top_reference=ids_NS[:, 0].numpy(),
            top_artifact=best[:, 0].numpy(),
            confidence=np.exp(log_p_NS[:, 0]),
            top5_shared=shared(ids_NS[:, : best.shape[1]], best),
        )
        return measures, variance


def estimate(log_p_NS: Floats, log_q_NS: Floats, top: int) -> tuple[Floats, Floats]:
    """KL of every token and the variance that drawing adds, from the stored log-probabilities of both models."""
    largest, drawn = slice(None, top), slice(top, None)
    gaps_NK = log_p_NS[:, largest] - log_q_NS[:, largest]
    p_NK = np.exp(log_p_NS[:, largest])
    kl_N = (p_NK * gaps_NK).sum(axis=1)
    if log_p_NS.shape[1] == top:  # the whole vocabulary
        return np.maximum(kl_N, 0), np.zeros(len(kl_N))
    rest_p, rest_q = (np.maximum(1 - values.sum(axis=1), TINY) for values in (p_NK, np.exp(log_q_NS[:, largest])))
    among_NM = (log_q_NS[:, drawn] - np.log(rest_q)[:, None]) - (log_p_NS[:, drawn] - np.log(rest_p)[:, None])
    terms_NM = np.expm1(np.minimum(among_NM, MAX_GAP)) - among_NM
    kl_N += rest_p * (np.log(rest_p / rest_q) + terms_NM.mean(axis=1))
    return np.maximum(kl_N, 0), rest_p**2 * terms_NM.var(axis=1) / terms_NM.shape[1]


@functools.cache
def code_version() -> str:
    """A hash of the code that computes logits: figures of two versions must not mix. Read once a process: every look
    at more windows asks for it again.
    """
    place = Path(bitwright.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(file for room in CODE for file in (place / room).rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()

"""What is taken from the unquantized model before the plan is final or the first tensor is rounded.

`OUT/.prepared` holds the calibration tokens and the weights of tokens, rows and columns (sensitivity.py). A byte budget
needs them to make the plan, and the run that follows uses the same ones. The folder belongs to one model and one
calibration; what another one left there is removed, and a finished run removes it too.

Not here: the run's own state (job.py).
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import msgspec
import torch

from bitwright.calibration.corpora import TokenWindows, make_windows
from bitwright.core.atomic import write_bytes
from bitwright.core.errors import from_os_error
from bitwright.core.plan import Plan
from bitwright.core.protocols import Progress, WeightSource
from bitwright.core.provenance import version
from bitwright.modeling.walk import Walker
from bitwright.pipeline.job import PREPARED
from bitwright.pipeline.sealed import load_array, save_array
from bitwright.pipeline.sensitivity import Sensitivities, take_sensitivities

KEY, TOKENS = "key", "tokens.npy"
BATCH_TOKENS = 2048  # tokens per pass: gradients take several times the room of activations


class Preparation:
    """The folder of one output, opened or begun."""

    def __init__(self, out: Path, plan: Plan) -> None:
        """Raises `EnvironmentFault` when it cannot be written."""
        self.folder = out / PREPARED
        made_of = version().encode() + plan.model.fingerprint.encode() + msgspec.json.encode(plan.calibration)
        self._key = hashlib.sha256(made_of).hexdigest().encode()
        try:
            if self.folder.exists() and not self._is_ours():
                shutil.rmtree(self.folder)
        except OSError as error:
            raise from_os_error(error, self.folder) from error

    def tokens(self) -> TokenWindows | None:
        """The calibration tokens that were kept. Raises `MismatchError` when they are not what was written."""
        path = self.folder / TOKENS
        if not path.exists():
            return None
        return make_windows("calibration", torch.from_numpy(load_array(path, self.folder)))

    def sensitivities(self, source: WeightSource, windows: TokenWindows, progress: Progress) -> Sensitivities:
        """Take them, go on with them, or open them."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise from_os_error(error, self.folder) from error
        write_bytes(self.folder / KEY, self._key)
        if not (self.folder / TOKENS).exists():
            save_array(self.folder / TOKENS, windows.tokens.numpy())
        batch = max(1, BATCH_TOKENS // windows.tokens.shape[1])
        return take_sensitivities(self.folder, Walker(source), windows.tokens, batch=batch, progress=progress)

    def remove(self) -> None:
        """Clean up after the artifact has its final name."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _is_ours(self) -> bool:
        path = self.folder / KEY
        return path.exists() and path.read_bytes() == self._key

"""What every tensor would lose under every type: the table that a byte budget is shared out by (`costs.json`)."""

from __future__ import annotations

from bitwright.core.documents import Document, Record
from bitwright.core.plan import CalibrationPlan
from bitwright.core.schemes import WeightScheme


class OptionCost(Record, frozen=True, kw_only=True):
    """One scheme for one tensor. `cost` is the predicted rise of the summed cross-entropy over the calibration tokens
    in nats, to second order, which is also the predicted KL."""

    scheme: WeightScheme
    bytes: int
    cost: float


class TensorCosts(Record, frozen=True, kw_only=True):
    """All options of one tensor."""

    name: str
    options: tuple[OptionCost, ...]


class CostTable(Document, frozen=True, kw_only=True):
    """`costs.json`."""

    schema: str = "bitwright.costs/1"
    fingerprint: str  # of the model
    calibration: CalibrationPlan
    tokens: int
    tensors: tuple[TensorCosts, ...]

"""Groups formed in GPTQ's order of columns (`g_idx`): a matrix of moved columns is solved as a plain one.

So search, feedback and descent know nothing of it. Without statistics the order is that of the inputs.

Not here: the order itself (gptq.py), solving (solve.py).
Dimension key: O outputs · I inputs
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from bitwright.core.schemes import IntScheme, QuantScheme
from bitwright.quantize.gptq import Feedback
from bitwright.tensors.qtensor import Float32, QTensor


def is_ordered(scheme: QuantScheme) -> bool:
    """Whether groups are no runs of inputs."""
    return isinstance(scheme, IntScheme) and scheme.ordered


def plain_scheme(scheme: QuantScheme) -> QuantScheme:
    """The scheme of the matrix whose columns were moved."""
    return msgspec.structs.replace(scheme, ordered=False) if isinstance(scheme, IntScheme) else scheme


def order_of(diagonal_I: Float32, feedback: Feedback | None) -> NDArray[np.int64]:
    """By falling weight: the factor's order where there is a factor."""
    if feedback is not None:
        return feedback.order_I
    return np.argsort(-diagonal_I.astype(np.float64), kind="stable")


def moved_back(tensor: QTensor, order_I: NDArray[np.int64] | None, scheme: QuantScheme) -> QTensor:
    """The matrix as the file holds it: columns where they were, and the group of each."""
    assert isinstance(scheme, IntScheme), scheme
    assert scheme.group_size is not None, scheme
    columns = tensor.codes.shape[1]
    order_I = np.arange(columns) if order_I is None else order_I
    codes_OI, group_I = np.empty_like(tensor.codes), np.empty(columns, dtype=np.int32)
    codes_OI[:, order_I] = tensor.codes
    group_I[order_I] = np.arange(columns) // scheme.group_size
    return QTensor(scheme=scheme, codes=codes_OI, fields={**tensor.fields, "group_index": group_I})

"""bitwright: from a trained checkpoint to a quantized, proven, served language model.

The verbs live in `bitwright.api`; importing this package costs nothing.
"""

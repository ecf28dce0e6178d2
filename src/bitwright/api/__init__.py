"""The verbs, as functions: the same documents in and out as on the command line.

Importing this costs nothing; each verb loads what it needs when it is called. Nothing here prints or draws.
"""

from bitwright.api.budget import share_out
from bitwright.api.comparison import compare
from bitwright.api.conversion import convert
from bitwright.api.decision import make_plan as plan
from bitwright.api.examination import doctor
from bitwright.api.importance import imatrix
from bitwright.api.inspection import inspect
from bitwright.api.knowledge import facts
from bitwright.api.linting import lint
from bitwright.api.machine import calibrate
from bitwright.api.making import quantize
from bitwright.api.proof import validate, write_report
from bitwright.api.service import chat, serve
from bitwright.api.shipment import ship

__all__ = [
    "calibrate",
    "chat",
    "compare",
    "convert",
    "doctor",
    "facts",
    "imatrix",
    "inspect",
    "lint",
    "plan",
    "quantize",
    "serve",
    "share_out",
    "ship",
    "validate",
    "write_report",
]

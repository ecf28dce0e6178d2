"""A cached loop: loaded without what only compiling needs, and no hindrance to compiling later."""

import subprocess
import sys

import numpy as np

from bitwright.quantize.lane_sums import LANES, turned

CODE = """
import sys
import numba
import numpy as np
from bitwright.quantize.lane_sums import turned
matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
assert (turned(matrix)[:, :2] == matrix.T).all()
print("scipy.linalg" in sys.modules)
print(numba.njit(lambda values: np.sort(values)[0] + np.dot(values, values))(np.array([3.0, 1.0])))
"""


def test_loading_a_loop_imports_no_linear_algebra_and_compiling_does() -> None:
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert turned(matrix).shape == (3, LANES)  # compiled and kept, if it was not
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "11.0"]

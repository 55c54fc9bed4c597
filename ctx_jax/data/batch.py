"""What the data rooms hand to training: arrays and the place they leave the data in."""

from typing import NamedTuple

import numpy as np


class Batch(NamedTuple):
    """One fixed-shape batch of this host's rows, and the data's state after it."""

    arrays: dict[str, np.ndarray]
    position: dict[str, np.ndarray]

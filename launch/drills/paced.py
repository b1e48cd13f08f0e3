"""`unireason_jax.train` whose loader takes PACE seconds for every row (an environment variable).

With it a signal finds the loader at work and the loop waiting for it. The loader's processes import
this file too, so that they are slow as well.
"""

import os
import time

from absl import app

from unireason_jax import train
from unireason_jax.data.pipeline import RowMaker
from unireason_jax.run import overrides

_PACE = float(os.environ.get("PACE", "0"))
_render = RowMaker.__call__


def _slowly(self, index: int, pack: int):
    time.sleep(_PACE)
    return _render(self, index, pack)


if _PACE:
    RowMaker.__call__ = _slowly

if __name__ == "__main__":
    app.run(train.main, flags_parser=overrides.parse_flags)

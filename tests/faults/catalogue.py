"""Every drill: importing a module registers its own."""

import connector  # noqa: F401
import loader  # noqa: F401
from drill import DRILLS

__all__ = ["DRILLS"]

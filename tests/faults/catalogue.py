"""Every drill: importing a module registers its own."""

import arango_drills  # noqa: F401
import archive_drills  # noqa: F401
import artifacts  # noqa: F401
import broker  # noqa: F401
import bus_damage  # noqa: F401
import connector  # noqa: F401
import disk  # noqa: F401
import lab_damage  # noqa: F401
import live  # noqa: F401
import loader  # noqa: F401
from drill import DRILLS

__all__ = ["DRILLS"]

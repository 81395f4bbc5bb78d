"""The tour is executed, with a few pictures, and its links lead somewhere."""

import re
from pathlib import Path

from execnb.nbio import read_nb

NBS = Path(__file__).parents[2] / "nbs"
CELLS = read_nb(NBS / "index.ipynb").cells


def test_links_lead_somewhere():
    prose = "\n".join(cell.source for cell in CELLS if cell.cell_type == "markdown")
    linked = {(NBS / match).resolve() for match in re.findall(r"\]\(([^)#]+\.ipynb)", prose)}
    assert linked, "the tour links to no notebook"
    assert not (dead := [path for path in linked if not path.exists()]), f"the tour links to what is not there: {dead}"


def test_pictures_are_there():
    outputs = [output for cell in CELLS for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert 3 <= len(pictures) <= 6, "make notebooks ARGS=nbs/index.ipynb"

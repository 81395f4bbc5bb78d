"""The tour shows what it speaks of: executed, with few and small pictures, and links that lead somewhere."""

import base64
import re
from pathlib import Path

from execnb.nbio import read_nb

NBS = Path(__file__).parents[2] / "nbs"
CELLS = read_nb(NBS / "index.ipynb").cells


def test_links_lead_somewhere():
    prose = "\n".join(o.source for o in CELLS if o.cell_type == "markdown")
    linked = {(NBS / o).resolve() for o in re.findall(r"\]\(([^)#]+\.ipynb)", prose)}
    assert linked, "the tour links to no notebook"
    assert not (dead := [o for o in linked if not o.exists()]), f"the tour links to what is not there: {dead}"


def test_kept_outputs_are_there_and_small():
    kept = [o for o in CELLS if "keep" in o.metadata.get("tags", [])]
    assert kept and all(o.outputs for o in kept), (
        "run `python nbs/_tools/nb.py run nbs/index.ipynb` with PLOTLY_RENDERER=png"
    )
    pictures = [
        base64.b64decode(p.data["image/png"]) for o in kept for p in o.outputs if "image/png" in p.get("data", {})
    ]
    assert 3 <= len(pictures) <= 6 and max(map(len, pictures)) < 100_000, [len(o) for o in pictures]

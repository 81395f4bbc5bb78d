"""What `make lab` adds to a person's own settings of JupyterLab: notebooks are saved as git keeps them."""

import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from saving import after_saving, before_saving  # noqa: E402

# traitlets sets each of these options twice, and jupyter_server warns the second time
warnings.filterwarnings("ignore", "Overriding existing (pre|post)_save_hook", UserWarning, "traitlets")
c = get_config()  # noqa: F821
c.ContentsManager.pre_save_hook = before_saving
c.FileContentsManager.post_save_hook = after_saving

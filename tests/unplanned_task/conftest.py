"""Makes the task known as an installed package would be: its entry points lie on the path of every process.

Done when tests are collected, since the workers of Ray see the path as it was when Ray started.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

INSTALLED = str(Path(__file__).parent / "installed")

sys.path.append(INSTALLED)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), INSTALLED]))

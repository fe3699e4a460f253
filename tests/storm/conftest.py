"""Where the storm finds what other tests have: nodes, manifests, guests."""

from __future__ import annotations

import sys
from pathlib import Path

_HERE = Path(__file__).parent
sys.path.insert(0, str(_HERE))
sys.path.append(str(_HERE.parent / "process"))

"""Link torch and its large libraries from this environment into another: `python .ci/link_torch.py SITE_PACKAGES`.

All else of the other environment is installed in earnest, so that a dependency which is not declared is missed there.
"""

import sys
from importlib import metadata
from pathlib import Path

target = Path(sys.argv[1])
for found in metadata.distributions():
    name = found.metadata["Name"].lower()
    if name in ("torch", "triton") or name.startswith(("nvidia-", "cuda-")):
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (target / top).exists():
                (target / top).symlink_to(Path(str(found.locate_file(top))))

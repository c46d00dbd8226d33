"""Print the lowest version of each package that pyproject.toml allows, as constraints: `python .ci/lowest.py > FILE`."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"].values()
for declared in [*project["dependencies"], *(each for extra in extras for each in extra)]:
    if found := re.fullmatch(r"([\w.-]+)(?:\[.*\])?>=([\d.]+).*", declared):
        print(f"{found[1]}=={found[2]}")

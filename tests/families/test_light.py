"""What looking for the family of a table costs: every command does it."""

import subprocess
import sys


def test_looking_at_every_family_imports_nothing_that_takes_seconds() -> None:
    program = (
        "import sys\nfrom luthier.families import FAMILIES, family_of\nfor name in FAMILIES: family_of(name)\n"
        "print([name for name in ('torch', 'transformers', 'sklearn', 'scipy.stats', 'matplotlib') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"

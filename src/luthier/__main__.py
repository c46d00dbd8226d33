"""`python -m luthier` is the command."""

from luthier.app.cli import main

main()

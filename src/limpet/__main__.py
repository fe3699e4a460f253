"""`python -m limpet` is the `limpet` command."""

from limpet.cli.main import main

main()

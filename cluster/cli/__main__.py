"""`python -m bitsift.cluster.cli`."""

from bitsift.cluster.cli.main import main

main()

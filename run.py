"""The same program as the command ``fewmask``."""

from pipeline.cli import main

main()

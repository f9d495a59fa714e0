"""`python -m ommatid` is the command `ommatid`."""

from ommatid.cli import main

main()

"""`python -m dari` is the command `dari`."""

from dari.cli import main

main()

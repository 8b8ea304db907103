"""`python -m minibox` is the command line."""

from minibox.cli.main import main

main()

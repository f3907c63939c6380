"""`python -m dynatask` is `dynatask`."""

from dynatask.cli import main

main()

"""The command line: `dynatask`.

Each command imports what it needs when it runs: rich only where something is
drawn, the user's code only where it is called.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line and exits. No traceback for what a user can mend."""
    import click

    from . import failures

    try:
        from . import commands

        code = commands.cli.main(prog_name="dynatask", standalone_mode=False)
    except click.exceptions.Exit as end:
        code = end.exit_code
    except click.ClickException as error:
        code = failures.show(error)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        code = failures.INTERRUPTED
    sys.exit(code if isinstance(code, int) else failures.OK)

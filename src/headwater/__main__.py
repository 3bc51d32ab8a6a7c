"""`headwater`, and `python -m headwater`: the command line."""

import sys

from headwater.errors import INTERRUPTED


def main() -> None:
    """Run the command line; it takes a moment to import, and Ctrl-C may come in it."""
    try:
        from headwater.cli.main import main as command_line
    except KeyboardInterrupt:
        print(f"headwater: {INTERRUPTED}", file=sys.stderr)
        sys.exit(130)
    command_line()


if __name__ == "__main__":
    main()

"""`python -m pycds_auto`: see cli.py."""

import sys

if __name__ == "__main__":
    try:
        from .cli import main
    except ImportError as error:  # a part of an installation
        print(f"pycds-auto: error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(main())

"""``python -m smolvla_gym`` is the command ``smolvla-gym``."""

import sys

from smolvla_gym.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

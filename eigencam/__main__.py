"""`python -m eigencam`: the console command."""

import sys

from eigencam.commands.main import main

if __name__ == "__main__":
    sys.exit(main())

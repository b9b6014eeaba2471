"""`python -m snnrun` is `snnrun`."""

from snnrun.cli import main

if __name__ == "__main__":
    main()

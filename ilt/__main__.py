"""`python -m ilt`: the same as `ilt`."""

from ilt.cli.main import main

if __name__ == "__main__":
    main()

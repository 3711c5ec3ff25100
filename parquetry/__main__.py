"""`python -m parquetry` is the `parquetry` command."""

from parquetry.cli import main

if __name__ == "__main__":
    main()

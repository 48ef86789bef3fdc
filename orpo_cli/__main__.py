"""``python -m orpo_cli`` is the same as ``orpo``."""

from orpo_cli.cli.main import main

if __name__ == "__main__":
    main()

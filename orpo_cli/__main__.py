"""Entry point of ``orpo`` and of ``python -m orpo_cli``: handles signals from the start, also while it imports the rest."""

from orpo_cli import interruption


def main() -> None:
    """Run the command line."""
    interruption.install()
    from orpo_cli.cli.reexec import reexec_with_environment

    reexec_with_environment()  # before the rest is imported, which would be imported twice
    from orpo_cli.cli.main import main as run

    run()


if __name__ == "__main__":
    main()

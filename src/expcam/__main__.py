"""``python -m expcam`` is ``expcam-circuit``."""

from expcam.cli import main

if __name__ == "__main__":
    main()

"""``python -m wsikit`` is ``wsikit``."""

from wsikit.cli.main import main

if __name__ == "__main__":
    main()

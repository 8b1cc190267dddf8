"""``python -m tune_gan`` is ``tune-gan``."""

from tune_gan.cli import main

if __name__ == "__main__":
    main()

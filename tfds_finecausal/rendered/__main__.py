"""`python -m tfds_finecausal.rendered`."""

from tfds_finecausal.rendered.release import main

if __name__ == "__main__":
    raise SystemExit(main())

"""`python -m onestroke` is `onestroke`."""

from onestroke.cli import main

if __name__ == "__main__":
    main()

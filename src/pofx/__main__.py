"""`python -m pofx` is the command `pofx`: of this very interpreter, also where its scripts are not on the path."""

from pofx.cli import main

if __name__ == "__main__":
    main()

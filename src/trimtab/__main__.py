"""Lets `python -m trimtab` stand for the command."""

from trimtab.cli import main

raise SystemExit(main())

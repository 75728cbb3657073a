"""`python -m graphopt.cli` is `graphopt`."""

from graphopt.cli import command

command()

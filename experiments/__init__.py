"""Every long run and every stored measurement of the book: one script a table in data/results.

    python -m experiments.NAME --help

Each is run from the repository's root. What it measured goes to data/results, what it
trained to data/checkpoints, each with a card that holds the command, the seed, the
versions and the hash of the weights. The page machinery is in book/_tools.
"""

"""The machinery of the pages: run notebooks, write the look-up pages, print. Each with --help.

python -m book._tools.NAME --help
"""

"""The ddpm command, a module for each verb: add_arguments(parser), and run(options)."""

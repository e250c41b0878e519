"""What the built pages can do beyond Sphinx; _config.yml lists it."""

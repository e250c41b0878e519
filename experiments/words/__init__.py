"""Pictures from words: every long run of the book's last part, and what is measured of it."""

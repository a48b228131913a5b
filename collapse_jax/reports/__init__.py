"""Output for people: figures, tables, pages, files."""

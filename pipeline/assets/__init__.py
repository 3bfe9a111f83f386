"""Files: guarded download, and the store that keeps them by their hash."""

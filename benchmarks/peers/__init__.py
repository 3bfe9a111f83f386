"""What others would write: the same job without this package."""

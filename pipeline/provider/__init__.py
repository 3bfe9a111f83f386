"""What we know of the provider: the shapes of its callbacks and answers."""

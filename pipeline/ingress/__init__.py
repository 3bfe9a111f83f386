"""The HTTP side: where the provider's callbacks come in."""

"""Measurements beside other ways to do the same; ``make bench`` runs them."""

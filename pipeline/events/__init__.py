"""The events that we publish for others, as CloudEvents."""

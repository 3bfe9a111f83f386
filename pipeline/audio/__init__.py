"""What is in an audio file: decoded apart from the process that asks."""

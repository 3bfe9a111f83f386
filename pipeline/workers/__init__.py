"""What the workers do with an envelope, one module for each queue."""

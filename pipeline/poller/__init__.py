"""Ask the provider for tasks that are still to end, and hand its answers on."""

"""The broker port and its two adapters; ``open_broker`` chooses by URL scheme."""

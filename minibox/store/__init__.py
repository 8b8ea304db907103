"""What is on disk about containers: states, locks, id ranges, logs."""

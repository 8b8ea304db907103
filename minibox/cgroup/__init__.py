"""Control groups: where a container's groups go, what is written to them, what is read back."""

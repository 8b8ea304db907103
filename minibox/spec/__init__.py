"""What is asked for: the Spec, its defaults, its sources (flags, JSON) and its validation."""

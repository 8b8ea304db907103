"""What the kernel offers, one wrapper a call: no policy, and no knowledge of containers."""

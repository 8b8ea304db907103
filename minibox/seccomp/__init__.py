"""System call filters: a profile is read, compiled to BPF, cached, and read back."""

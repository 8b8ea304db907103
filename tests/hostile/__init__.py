"""Hostile roots: each row of the threat list, with its defence in place and with it taken out."""

"""The container as a Plan: a list of kernel operations to print, run, leave out of, compare."""

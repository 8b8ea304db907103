"""The container as a Plan: a linear list of kernel operations that can be printed, run, left out, compared."""

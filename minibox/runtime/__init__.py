"""Two processes and nothing between: the supervisor and the child perform a Plan together."""

"""What ``python -m anysmtp`` can do: one module for each command."""

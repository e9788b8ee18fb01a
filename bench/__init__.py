"""Speed and accuracy checks: `pytest --benchmark`. Not part of the installed package."""

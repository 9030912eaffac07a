"""What is trained or fitted, on the same loading and records as runs."""

"""The questions, in the order in which they are asked."""

"""What the words mean; imports nothing of ours."""

"""What things cost on this machine, from short real measurements."""

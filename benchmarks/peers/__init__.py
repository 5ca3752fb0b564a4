"""Other loaders doing the same work, one file each."""

"""Whether a cache pays, from short real measurements on this machine."""

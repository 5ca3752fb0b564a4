"""Records of a cache by number: shards opened on demand, checked, kept open, and copied out of.

Nothing is re-exported here. No torch.
"""

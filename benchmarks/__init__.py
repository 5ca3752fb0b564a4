"""Measurements that stand behind every performance claim; see README.md."""

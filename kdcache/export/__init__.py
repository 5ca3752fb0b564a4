"""Finished students as folders that plain timm and the Hugging Face hub read."""

from kdcache.export.write import Exported, export_student

__all__ = ["Exported", "export_student"]

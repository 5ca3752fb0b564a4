"""The papers' analyses: of a cache, or of a model and images."""

from kdcache.analysis.cache_tokens import CacheTokens
from kdcache.analysis.dynamics import channel_entropy, channel_spectrum, intensity, magnitude
from kdcache.analysis.effective_rank import effective_rank
from kdcache.analysis.folder import read_analysis, write_analysis
from kdcache.analysis.model_tokens import ModelTokens
from kdcache.analysis.result import Analysis
from kdcache.analysis.run import AnalyzeConfig, analyze
from kdcache.analysis.sep import bandwidths, permuted_spectra
from kdcache.analysis.svd_rank import image_energies, numerical_rank, per_image_dims

__all__ = [
    "Analysis",
    "AnalyzeConfig",
    "CacheTokens",
    "ModelTokens",
    "analyze",
    "bandwidths",
    "channel_entropy",
    "channel_spectrum",
    "effective_rank",
    "image_energies",
    "intensity",
    "magnitude",
    "numerical_rank",
    "per_image_dims",
    "permuted_spectra",
    "read_analysis",
    "write_analysis",
]

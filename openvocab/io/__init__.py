"""Reading and writing files safely."""

from .arrays import load_arrays
from .atomic import atomic_write, sha256_file
from .download import cache_dir, download
from .fingerprint import check_fingerprint, fingerprint_metadata
from .loading import LoadReport, load_into
from .weights import WeightFile, load_weights, save_weights

__all__ = [
    "LoadReport",
    "WeightFile",
    "atomic_write",
    "cache_dir",
    "check_fingerprint",
    "download",
    "fingerprint_metadata",
    "load_arrays",
    "load_into",
    "load_weights",
    "save_weights",
    "sha256_file",
]

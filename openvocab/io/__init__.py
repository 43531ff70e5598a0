"""Reading and writing files safely."""

from .atomic import atomic_write, sha256_file
from .weights import LoadReport, WeightFile, load_into, load_weights, save_weights

__all__ = ["LoadReport", "WeightFile", "atomic_write", "load_into", "load_weights", "save_weights", "sha256_file"]

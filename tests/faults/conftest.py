"""The tiny data sets of the data tests, to be damaged here; no test leaves one behind."""

from tests.openvocab.data.conftest import clean_catalog, coco, editor  # noqa: F401  fixtures

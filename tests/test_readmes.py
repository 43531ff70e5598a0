"""The Python of the READMEs: every block is Python whose imports are there, and those that need no data run as they stand."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from torch import nn

from openvocab.config import instantiate

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", *(f"{p}/README.md" for p in ("glipv2", "regionclip", "detection_hub"))]
PAGES += sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))
BLOCKS = [
    pytest.param(text, id=f"{page}-{number}")
    for page in PAGES
    for number, text in enumerate(re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S))
]
RUN = ("SimilarityClassifier, set_class_embeddings", "MODEL.GLIPV2.VOCABULARY", "LastLevelP6P7", "model.mlm = ")  # a word of each


@pytest.mark.parametrize("text", BLOCKS)
def test_a_block_is_python_and_imports_what_there_is(text: str) -> None:
    tree = ast.parse(text)
    imports = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom) and not getattr(n, "level", 0)]
    exec(compile(ast.Module(imports, type_ignores=[]), "README", "exec"), {})


@pytest.mark.slow
@pytest.mark.parametrize("word", RUN)
def test_a_block_runs(word: str) -> None:
    (text,) = [b.values[0] for b in BLOCKS if word in b.values[0]]
    names: dict = {}
    exec(compile(text, "README", "exec"), names)
    model = names["model"]
    assert isinstance(model if isinstance(model, nn.Module) else instantiate(model), nn.Module)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", text):
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
            assert anchor in [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in heads], f"{target}#{anchor}"

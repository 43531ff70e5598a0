"""Zero-shot evaluation: every shared set has words of its own, and the config asks by names and in them."""

from __future__ import annotations

import pytest
from detectron2.config import instantiate
from omegaconf import OmegaConf

from openvocab.config import load_config
from openvocab.data.known_sets import SHARED_SETS
from openvocab.prompting import build_caption
from openvocab.vocabulary import Vocabulary, reworded
from tests.configs.test_all_configs import CONFIGS

WORDS = OmegaConf.to_container(load_config(CONFIGS / "common/wording.py").SHARED_WORDING)


def test_no_set_is_left_out() -> None:
    assert set(WORDS) == set(SHARED_SETS)


@pytest.mark.parametrize("name", SHARED_SETS)
def test_words_of_a_set(name: str) -> None:
    own = Vocabulary.builtin(name)
    asked = reworded(own, WORDS[name])
    assert asked.names == own.names
    assert (build_caption(asked).text != build_caption(own).text) == (name != "coco_mini")


def test_the_config_asks_both_ways() -> None:
    cfg = load_config("glipv2/zero_shot", ["dataloader.dataset=aquarium", "dataloader.split=test"])
    tests = cfg.dataloader.test
    assert {t.loader.dataset for t in tests.values()} == {t.evaluator.dataset_name for t in tests.values()} == {"aquarium_test"}
    plain, worded = (instantiate(tests[k].loader.mapper) for k in ("zero_shot", "zero_shot_worded"))
    assert plain.wording == {}
    text = build_caption(reworded(Vocabulary.builtin("aquarium"), worded.wording["aquarium_test"])).text
    assert "penguin, which is black and white. puffin with orange beaks. shark" in text


def test_words_of_ones_own() -> None:
    words = ["++dataloader.wording.my_val=there is a {} here", 'dataloader.wording={deeppcb_val: "{} on green"}']
    cfg = load_config("glipv2/zero_shot", ["dataloader.dataset=my", *words])
    worded = instantiate(cfg.dataloader.test.zero_shot_worded.loader.mapper)
    assert worded.wording["my_val"] == "there is a {} here" and worded.wording["deeppcb_val"] == "{} on green"
    assert worded.wording["bccd_val"] == WORDS["bccd"]


def test_lvis_by_the_released_protocol() -> None:
    cfg = load_config("glipv2/lvis")
    assert list(cfg.dataloader.test) == ["lvis_v1_minival_fixed"]
    chunking = cfg.model.chunking
    assert (chunking.max_names, chunking.max_detections, cfg.model.postprocessor.max_detections) == (40, None, 300)
    assert not cfg.model.ignore_padding and cfg.model.head.blocks[0].dynamic.offset_reading == "official"

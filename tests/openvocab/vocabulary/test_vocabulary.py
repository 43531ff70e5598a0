"""What a vocabulary takes, refuses, and keeps."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openvocab.errors import VocabularyError
from openvocab.vocabulary import Vocabulary, clean_name

# no deadline: machines that run tests are busy
RELAXED = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])

# letters of several scripts, digits and a few marks; no control characters, and not blank
WORDS = st.text(
    st.characters(whitelist_categories=("Lu", "Ll", "Lo", "Nd"), whitelist_characters="-_ '()."), min_size=1, max_size=30
)
NAMES = st.lists(WORDS.filter(lambda t: any(c.isalnum() for c in t)), min_size=1, max_size=12)


def unique(names: list[str]) -> list[str]:
    kept: dict[str, str] = {}
    for name in names:
        kept.setdefault(Vocabulary.from_names([name]).names[0].casefold(), name)
    return list(kept.values())


@pytest.mark.parametrize("names", ["cat. dog.", b"cat", {"cat", "dog"}, {"cat": 1}, 5, None])
def test_no_list_is_refused(names: object) -> None:
    with pytest.raises(VocabularyError, match="list"):
        Vocabulary.from_names(names)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "at least one name"),
        (["cat", "dog", "cat"], "'cat' is there twice"),
        (["traffic  light", "traffic\tlight"], "'traffic light' is there twice"),
        (["A\u030angstrom", "\u00c5ngstrom"], "is there twice"),
        (["cat", " \t"], "name 1 is blank"),
        (["cat", "\u200b\u200d"], "name 1 is blank"),
        (["cat", 3], "name 1 is 3, a int"),
        (["cat", None], "name 1 is None"),
        (["ca\x00t"], "control characters"),
        (["ca\x1ct"], "control characters"),
        (["\ud800"], "control characters"),
        (["x" * 201], "201 characters, the limit is 200: 'xxx"),
    ],
)
def test_bad_names_are_named(names: list, message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        Vocabulary.from_names(names)


def test_names_are_kept_as_written() -> None:
    names = ["St. Bernard", "9. diam", "Größe", "кошка", "猫", "bow_(weapon)", "x" * 200, "t\\", "no-mask"]
    v = Vocabulary.from_names(names)
    assert v.names == tuple(names)
    assert v.prompts[5] == "bow" and v.prompts[4] == "猫"
    assert Vocabulary.from_names(["A\u030angstrom"]).names == ("\u00c5ngstrom",)
    assert Vocabulary.from_names([" hot \n dog "]).names == ("hot dog",)


def test_case_is_a_matter_of_data_sets_not_of_users() -> None:
    assert Vocabulary.from_names(["Q", "q"]).index("q") == 1
    assert Vocabulary.from_names(["Q", "q"]).index("Q") == 0
    for refuse in (lambda: Vocabulary.from_caption("Cat. cat."), lambda: Vocabulary.coerce(["Cat", "cat"])):
        with pytest.raises(VocabularyError, match=r"'cat' is there twice \(as 'Cat'\)"):
            refuse()


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("bow_(weapon)", "bow"),
        ("arctic_(type_of_shoe)", "arctic"),
        ("a_(b)_c_(d)", "a"),  # greedy, as the reference
        ("traffic_light", "traffic light"),
        ("small__fish", "small fish"),
        ("(unnamed)", "unnamed"),
        ("no-mask", "no-mask"),
    ],
)
def test_clean_name(raw: str, cleaned: str) -> None:
    assert clean_name(raw) == cleaned


def test_from_caption() -> None:
    assert Vocabulary.from_caption("cat. remote control.").names == ("cat", "remote control")
    assert Vocabulary.from_caption(" cat ;dog\nbird\r\n. ").names == ("cat", "dog", "bird")
    assert Vocabulary.from_caption("St. Bernard").names == ("St", "Bernard")
    for empty in ("", " . ;\n."):
        with pytest.raises(VocabularyError, match="prompt is empty"):
            Vocabulary.from_caption(empty)
    with pytest.raises(VocabularyError, match="not list"):
        Vocabulary.from_caption(["cat"])


def test_coerce() -> None:
    v = Vocabulary.from_names(["cat", "dog"])
    assert Vocabulary.coerce(v) is v
    assert Vocabulary.coerce("cat. dog") == Vocabulary.coerce(("cat", "dog")) == v == Vocabulary.coerce(np.array(["cat", "dog"]))
    assert Vocabulary.coerce(n for n in ("cat", "dog")) == v
    for bad in (3, None, {"cat": "dog"}):
        with pytest.raises(VocabularyError):
            Vocabulary.coerce(bad)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"prompts": ["cat"]}, "prompts must be a list with one entry a name: 2 names"),
        ({"prompts": "ab"}, "prompts must be"),
        ({"prompts": ["a", " "]}, "the prompt of name 1 is blank"),
        ({"aliases": ["kitty", "hound"]}, "aliases of name 0 are 'kitty'"),
        ({"aliases": [[""], []]}, "an alias of name 0 is blank"),
        ({"frequencies": ["r", "x"]}, "frequency 'x'"),
        ({"frequencies": [["r"], "c"]}, "frequency"),
        ({"splits": ["base", "old"]}, "split 'old'"),
        ({"templates": []}, "must hold '{}' once"),
        ({"templates": ["a photo"]}, "'a photo' must hold"),
        ({"templates": "{}"}, "must be a list"),
        ({"contexts": [("a ", ""), "b"]}, "context of name 1"),
        ({"contexts": [("a ", ""), ("b", 3)]}, "context of name 1"),
    ],
)
def test_bad_extras_are_named(extra: dict, message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        Vocabulary.from_names(["cat", "dog"], **extra)


def test_a_missing_prompt_is_the_cleaned_name() -> None:
    assert Vocabulary.from_names(["RBC", "bow_(weapon)"], prompts=["red blood cell", None]).prompts == ("red blood cell", "bow")


def test_index_prefers_names_to_prompts_to_aliases() -> None:
    v = Vocabulary.from_names(
        ["bow_(ribbon)", "bow_(weapon)", "Arrow"], aliases=[["knot"], ["Longbow", "arrow"], []], prompts=[None, None, "knot"]
    )
    assert [v.index(t) for t in ("BOW_(weapon)", "bow", "arrow", "longbow", "knot")] == [1, 0, 2, 1, 2]
    assert "Arrow" in v and "sword" not in v and 3 not in v
    with pytest.raises(VocabularyError, match=r"'bow_\(weapin\)' is not in this vocabulary. Did you mean 'bow_\(weapon\)'"):
        v.index("bow_(weapin)")


def test_subset() -> None:
    v = Vocabulary.from_names(
        ["a", "b", "c"], prompts=["x", "y", "z"], aliases=[["aa"], [], ["cc"]], frequencies=list("rcf"), templates=["my {}"]
    )
    s = v.subset(np.array([2, 0]))
    assert (s.names, s.prompts, s.aliases) == (("c", "a"), ("z", "x"), (("cc",), ("aa",)))
    assert (s.frequencies, s.templates) == (("f", "r"), ("my {}",))
    for bad, message in (([3], "index 3"), ([-1], "index -1"), ([0, 0], "twice"), ([], "at least one")):
        with pytest.raises(VocabularyError, match=message):
            v.subset(bad)


def test_rename() -> None:
    v = Vocabulary.from_names(["RBC", "cell_phone"], prompts=["red blood cell", None], aliases=[["erythrocyte"], []])
    r = v.rename({"rbc": "red_cell", "cell_phone": "mobile_phone"})
    assert r.names == ("red_cell", "mobile_phone")
    assert r.prompts == ("red blood cell", "mobile phone"), "a prompt of its own stays"
    assert r.index("RBC") == r.index("erythrocyte") == 0 and r.index("cell_phone") == 1
    assert v.names == ("RBC", "cell_phone"), "the old one is as it was"
    for changes, message in (({"WBC": "x"}, "not in this"), ({"RBC": "cell_phone"}, "twice"), ({"RBC": ""}, "blank")):
        with pytest.raises(VocabularyError, match=message):
            v.rename(changes)


@RELAXED
@given(NAMES)
def test_round_trips(names: list[str]) -> None:
    v = Vocabulary.from_names(unique(names), templates=["a {}", "{}"], contexts=[("the ", "")] * len(unique(names)))
    for copy in (Vocabulary.from_dict(json.loads(json.dumps(v.to_dict()))), pickle.loads(pickle.dumps(v))):
        assert copy == v and hash(copy) == hash(v) and copy.fingerprint("e") == v.fingerprint("e")
    assert [v.index(n) for n in v] == list(range(len(v)))


@pytest.mark.parametrize("value", [[], {"prompts": ["a"]}, {"names": ["a"], "colour": 1}, {"names": "ab"}, {"names": []}, {1: 2}])
def test_from_dict_refuses(value: object) -> None:
    with pytest.raises(VocabularyError):
        Vocabulary.from_dict(value)


def test_fingerprint_depends_on_what_embeddings_depend_on() -> None:
    v = Vocabulary.from_names(["a", "b"])
    others = [
        Vocabulary.from_names(["b", "a"]),
        Vocabulary.from_names(["a", "b"], prompts=["a", "c"]),
        Vocabulary.from_names(["a", "b"], templates=["my {}"]),
        Vocabulary.from_names(["a", "b"], contexts=[("the ", ""), ("", "")]),
        Vocabulary.from_names(["ab"]),
        Vocabulary.from_names(["a b"]),
    ]
    prints = {v.fingerprint(), v.fingerprint("bert"), v.fingerprint("clip"), *(o.fingerprint() for o in others)}
    assert len(prints) == 3 + len(others)
    same = Vocabulary.from_names(["a", "b"], aliases=[["x"], []], frequencies=["r", None], splits=["base", "novel"])
    assert same.fingerprint() == v.fingerprint()
    assert len(v.fingerprint()) == 16 and int(v.fingerprint(), 16) >= 0


def test_fingerprint_is_the_same_in_another_process() -> None:
    code = (
        "from openvocab.vocabulary import Vocabulary as V; print(V.from_names(['猫', 'dog'], templates=['a {}']).fingerprint('e'))"
    )
    prints = set()
    for seed in ("1", "2"):
        env = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}
        prints.add(subprocess.run([sys.executable, "-c", code], env=env, text=True, capture_output=True, check=True).stdout.strip())
    assert prints == {Vocabulary.from_names(["猫", "dog"], templates=["a {}"]).fingerprint("e")}

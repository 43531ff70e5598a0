"""key=value: what it changes, and what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from openvocab.config import apply_overrides
from openvocab.errors import ConfigError


def test_a_whole_command_line(cfg: DictConfig) -> None:
    words = ["train.max_iter=7", "train.amp.enabled=true", "+train.new.deep=[1, 2]", "~train.init", "++train.lr=auto"]
    assert apply_overrides(cfg, words) is cfg
    assert cfg.train.max_iter == 7 and cfg.train.amp.enabled is True and cfg.train.new.deep == [1, 2]
    assert "init" not in cfg.train and cfg.train.lr == "auto"
    assert apply_overrides(cfg, []) is cfg


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("train.max_iter=5", 5),
        ("train.max_iter=1e3", 1000),
        ("train.max_iter=0x10", 16),
        ("train.max_iter=1_000", 1000),
        ("train.lr=1e-4", 1e-4),
        ("train.lr=-.5", -0.5),
        ("train.lr=2", 2),
        ("train.lr=inf", None),
        ("train.lr=.inf", float("inf")),
        ("train.max_iter=0.5", 0.5),
        ("train.output_dir=x", "x"),
        ("train.output_dir=2024", "2024"),
        ("train.output_dir=007", "007"),
        ("train.output_dir=1e3", "1e3"),
        ("train.output_dir=true", "true"),
        ("train.output_dir=", ""),
        ("train.output_dir='a b'", "a b"),
        ("train.output_dir=a=b", "a=b"),
        ("train.output_dir=null", ""),
        ("train.amp.enabled=true", True),
        ("train.init=3", 3),
        ("train.init=text", "text"),
        ("train.init={a: 1}", {"a": 1}),
        ("train.missing=3", 3),
        ("train.also=3", 3),
        ("train.lr=${train.max_iter}", 100),
        ("dataloader.sizes=[4]", [4]),
        ("dataloader.sizes=null", None),
        ("dataloader.sizes.0=9", 9),
        ("dataloader.sizes[2]=9", 9),
        ("dataloader.sources.0.weight=0.5", 0.5),
        ("dataloader.sources[1].name=c", "c"),
        ("train.groups.backbone.lr=2.5", 2.5),
        ("train.groups.backbone.bottom_up.lr=2.5", 2.5),
        ("train.groups.3=drei", "drei"),
        ("model._target_=torch.nn.Bilinear", "torch.nn.Bilinear"),
    ],
)
def test_values(cfg: DictConfig, text: str, value: object) -> None:
    if text.endswith("=inf"):
        with pytest.raises(ConfigError, match="a number is expected"):
            apply_overrides(cfg, [text])
        return
    apply_overrides(cfg, [text])
    node = value_at(cfg, text.partition("=")[0])
    expected = None if text.endswith("=null") else value
    assert node == expected and (isinstance(node, DictConfig) or type(node) is type(expected) or node == [4])


def value_at(cfg: DictConfig, key: str) -> object:
    special = {"train.groups.3": 3, "train.groups.backbone.bottom_up.lr": "backbone.bottom_up"}
    if key in special:
        found = cfg.train.groups[special[key]]
        return found.lr if isinstance(found, DictConfig) else found
    return OmegaConf.select(cfg, key)


def test_dotted_keys_change_only_themselves(cfg: DictConfig) -> None:
    apply_overrides(cfg, ["train.groups.backbone.bottom_up.lr=9"])
    assert cfg.train.groups["backbone.bottom_up"].lr == 9 and cfg.train.groups.backbone.lr == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.max_itr=5", r"no config key 'train\.max_itr'.*Did you mean 'max_iter'.*\+train\.max_itr="),
        ("trian.max_iter=5", "'trian' is unknown. Did you mean 'train'"),
        ("max_iter=5", r"Did you mean 'train\.max_iter'"),
        ("train.zzzz=5", r"'zzzz' is unknown. Known here: max_iter, lr, .* Write \+train"),
        ("train.LR=5", "Did you mean 'lr'"),
        ("dataloader.sources.2.weight=1", "'2' is no index of a list of 2"),
        ("dataloader.sources.x.weight=1", "'x' is no index"),
        ("dataloader.sizes.-1=1", "'-1' is no index"),
        ("train.max_iter.x=1", "there is no 'x', because what should hold it is the value '100'"),
        ("train.init.x=1", "what should hold it is null"),
        ("train.max_iter=abc", r"train\.max_iter=abc: a number is expected here, such as 100"),
        ("train.max_iter=true", "a number is expected"),
        ("train.max_iter=[1]", "a number is expected"),
        ("train.amp.enabled=1", "true or false is expected here, such as false"),
        ("train.amp.enabled=yes", "true or false is expected"),
        ("train.output_dir=[a]", "a text is expected here, such as 'out'"),
        ("train.output_dir={a: 1}", "a text is expected"),
        ("train.amp=true", "a group of keys is expected"),
        ("train.amp={enabld: true}", r"'train\.amp\.enabld'.*Did you mean 'enabled'"),
        ("train.amp={enabled: 3}", r"train\.amp\.enabled=3: true or false"),
        ("dataloader.sizes=3", "a list is expected"),
        ("+train.max_iter=3", r"add a key that exists; write train\.max_iter="),
        ("+dataloader.sizes.5=3", "can only be added to at 3"),
        ("~train.max_itr", "Did you mean 'max_iter'"),
        ("~train.max_iter=3", "is no override"),
        ("train", "is no override; write key=value"),
        ("=3", "is no override"),
        ("+=3", "is no override"),
        ("", "is no override"),
        ("--resume", "is no override"),
        ("train.lr =3", "is no override"),
        ("train.lr=[1", r"line 1: this is no plain yaml"),
        ("train.lr=!!python/name:os.system", "python objects are not allowed"),
        ("train.lr=${", "train.lr"),
        ("train.lr=${nothing.here}", "'nothing' not found|nothing.here"),
        ("train.lr={a: 1, a: 2}", "'a' is there twice"),
    ],
)
def test_refused(cfg: DictConfig, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        apply_overrides(cfg, [text])
    assert "\n" not in str(caught.value)


def test_a_string_is_not_a_list_of_overrides(cfg: DictConfig) -> None:
    with pytest.raises(ConfigError, match="must be a list of key=value"):
        apply_overrides(cfg, "train.lr=1")


def test_adding_and_removing_in_lists(cfg: DictConfig) -> None:
    apply_overrides(cfg, ["+dataloader.sizes.3=4", "~dataloader.sizes.0", "+dataloader.sources.0.extra=1"])
    assert cfg.dataloader.sizes == [2, 3, 4] and cfg.dataloader.sources[0].extra == 1


def test_a_dict_changes_the_keys_it_names_and_a_target_replaces_the_group(cfg: DictConfig) -> None:
    apply_overrides(cfg, ["train.amp={enabled: true}", "model={_target_: torch.nn.Identity}"])
    assert cfg.train.amp == {"enabled": True, "dtype": "bfloat16"} and cfg.model == {"_target_": "torch.nn.Identity"}


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=30))
def test_no_text_raises_anything_but_a_config_error(text: str) -> None:
    for form in (text, f"train.lr={text}", f"+train.{text}=1", f"train.out={text}", f"{text}=1"):
        cfg = OmegaConf.create({"train": {"lr": 1.0, "out": "x", "list": [1]}})
        try:
            apply_overrides(cfg, [form])
        except ConfigError:
            continue
        if form.startswith("train.lr="):
            assert isinstance(cfg.train.lr, (int, float, type(None)))


@settings(max_examples=100, deadline=None)
@given(key=st.text("abcdeft.0123456789", min_size=1, max_size=8))
def test_no_unknown_key_is_accepted(key: str) -> None:
    cfg = OmegaConf.create({"a": {"b": 1}, "c": [1, 2]})
    known = {"a.b", "c.0", "c.1", "c.00", "c.01", "a", "c"}
    try:
        apply_overrides(cfg, [f"{key}=5"])
    except ConfigError:
        assert key not in {"a.b", "c.0", "c.1"}
    else:
        assert key in known
        assert cfg.keys() == {"a", "c"} and cfg.a.keys() == {"b"} and len(cfg.c) == 2

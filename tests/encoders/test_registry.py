"""Finding encoders by name: listing is light, and a wrong name or option is answered with the right one."""

import importlib.util
import subprocess
import sys
from dataclasses import replace

import pytest

from wsikit.encoders import create_encoder, encoder_card, encoder_key, list_encoders
from wsikit.errors import ConfigError, UnknownNameError


def test_listing_imports_neither_torch_nor_timm() -> None:
    code = (
        "import sys, wsikit; from wsikit.encoders import FAMILIES, encoder_card; names = wsikit.list_encoders(); "
        "assert 'colour' in names and list(FAMILIES) == ['timm']; [encoder_card(name) for name in names]; "
        "heavy = {'torch', 'timm', 'torchvision', 'cv2', 'dask'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
def test_patterns_choose_encoders_and_members_of_a_family() -> None:
    assert list_encoders("col*") == ["colour"]
    members = list_encoders("timm:vit_small_patch16_2*")
    assert "timm:vit_small_patch16_224" in members
    assert "timm:vit_small_patch16_224.dino" in members


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("coluor", "no encoder named 'coluor'; did you mean 'colour'"),
        ("tim:resnet18", "no encoder family named 'tim'; did you mean 'timm'"),
        ("timm", "'timm' is a family of encoders; name a member: timm:<model>"),
        ("timm:", "add a member: timm:<model>"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        create_encoder(name)
    with pytest.raises(UnknownNameError, match=message):
        encoder_card(name)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("colour", {"bins": 8}, "'colour' has no option 'bins' .it has no options"),
        ("timm:test_vit", {"inpt_px": 64}, "no option 'inpt_px'; did you mean 'input_px'"),
        ("colour", {"weights": "/w.pt"}, "'colour' has no weights, but weights='/w.pt'"),
        ("colour", {"precision": "bfloat16"}, "one precision only; found precision='bfloat16'"),
        ("colour", {"precision": "bfloat"}, "no precision 'bfloat'; did you mean 'bfloat16'"),
        ("colour", {"device": "cuda"}, "does not run on device 'cuda'; it runs on cpu"),
    ],
)
def test_a_setting_that_has_no_effect_is_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_encoder(name, **options)  # type: ignore[arg-type]


def test_a_key_follows_the_numbers_and_not_the_words_on_the_card() -> None:
    encoder = create_encoder("colour")
    key = encoder_key(encoder)

    class Other:
        def __init__(self, **changes: object) -> None:
            self.card = replace(encoder.card, licence="MIT", citation="corrected", summary="new words")
            self.identity = {**encoder.identity, **changes}
            self.encode = encoder.encode

    assert encoder_key(Other()) == key
    assert encoder_key(Other(version=-1)) != key
    assert key.startswith("colour-")

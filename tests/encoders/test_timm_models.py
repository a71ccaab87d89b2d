"""timm models as encoders: the same numbers as timm's own pipeline, and no weights but those asked for."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from wsikit.encoders import create_encoder, encoder_card, encoder_key, list_encoders
from wsikit.encoders.network import NetworkEncoder
from wsikit.encoders.torchvision_fix import ensure_torchvision
from wsikit.encoders.weights import WeightsError
from wsikit.errors import ConfigError, UnknownNameError

if importlib.util.find_spec("timm") is None:
    pytest.skip("timm is not installed", allow_module_level=True)
ensure_torchvision()
import timm  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

MODELS = ("test_vit", "test_resnet", "test_efficientnet", "test_convnext")


def tiles(px: int, n: int = 3) -> np.ndarray:
    import cv2

    noise = np.random.default_rng(0).integers(0, 256, (n, px, px, 3), dtype=np.uint8)
    return np.stack([cv2.GaussianBlur(tile, (0, 0), 1.5) for tile in noise])


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A hub that cannot be reached, with an empty cache."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, torch.nn.Module]:
    """A test_vit with its classifier, and the safetensors file of its weights."""
    from safetensors.torch import save_file

    torch.manual_seed(7)
    model = timm.create_model("test_vit", pretrained=False).eval()
    save_file(model.state_dict(), tmp_path / "test_vit.safetensors")
    return tmp_path / "test_vit.safetensors", model


def by_timm(model: torch.nn.Module, pixels: np.ndarray) -> np.ndarray:
    """Features as timm's documentation makes them: PIL images, its transform, the model; no crop."""
    config = timm.data.resolve_data_config({"crop_pct": 1.0}, model=model)
    transform = timm.data.create_transform(**config, is_training=False)
    with torch.inference_mode():
        x = torch.stack([transform(Image.fromarray(tile)) for tile in pixels])
        return np.asarray(model.forward_head(model.forward_features(x), pre_logits=True))


@pytest.mark.parametrize("member", MODELS)
def test_features_equal_those_of_timms_own_pipeline(member: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = timm.create_model(member, pretrained=False).eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pt")
    encoder = create_encoder(f"timm:{member}", weights=tmp_path / "weights.pt")
    px = encoder.card.tile_px
    assert px
    found, expected = encoder.encode(tiles(px)), by_timm(model, tiles(px))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("px", [256, 100, 161])
def test_tiles_of_another_size_are_resized_as_pil_does_it(px: int, interpolation: str) -> None:
    encoder = create_encoder("timm:test_vit", weights="random", interpolation=interpolation)
    assert isinstance(encoder, NetworkEncoder)
    with torch.inference_mode():
        levels = encoder._input(tiles(px)) * 127.5 + 127.5
    transform = timm.data.create_transform(
        160, interpolation=interpolation, crop_pct=1.0, mean=(0, 0, 0), std=(1, 1, 1)
    )
    expected = torch.stack([transform(Image.fromarray(tile)) for tile in tiles(px)]) * 255
    off = (levels - expected).abs().round()
    # PIL's sums are in fixed point: now and then one of its two passes rounds the other way.
    assert off.max() <= 2
    assert (off > 0).float().mean() < 0.02


@pytest.mark.parametrize("member", MODELS)
def test_the_card_is_known_without_weights(member: str) -> None:
    card = encoder_card(f"timm:{member}")
    config = timm.get_pretrained_cfg(member)
    model = timm.create_model(member, num_classes=0).eval()
    with torch.inference_mode():
        assert card.dim == model(torch.zeros(1, *config.input_size)).shape[1]
    assert (card.mean, card.std, card.tile_px) == (config.mean, config.std, config.input_size[1])
    assert card.interpolation == config.interpolation


def test_random_weights_come_by_name_only_and_repeat(offline: None) -> None:
    with pytest.raises(WeightsError, match=r"timm:test_vit.*hub could not be reached.*weights='/path.*HF_HUB_OFFLINE"):
        create_encoder("timm:test_vit")
    state = torch.random.get_rng_state()
    first, again = (create_encoder("timm:test_vit", weights="random") for _ in range(2))
    other = create_encoder("timm:test_vit", weights="random", seed=1)
    assert torch.equal(state, torch.random.get_rng_state())
    np.testing.assert_array_equal(first.encode(tiles(160)), again.encode(tiles(160)))
    assert encoder_key(first) == encoder_key(again) != encoder_key(other)
    assert first.identity["random_weights_seed"] == 0
    with pytest.raises(ConfigError, match="seed=1 is for weights='random'; found weights='hub'"):
        create_encoder("timm:test_vit", seed=1)


def test_the_key_follows_weights_precision_and_transform(saved: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    path, model = saved
    torch.save({"model": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "wrapped.pth")
    base = encoder_key(create_encoder("timm:test_vit", weights=path))
    assert encoder_key(create_encoder("timm:test_vit", weights=tmp_path / "wrapped.pth")) == base
    changed = {
        "weights": create_encoder("timm:test_vit", weights="random"),
        "precision": create_encoder("timm:test_vit", weights=path, precision="bfloat16"),
        "interpolation": create_encoder("timm:test_vit", weights=path, interpolation="bilinear"),
        "input": create_encoder("timm:test_resnet", weights="random", input_px=96),
        "model": create_encoder("timm:test_resnet", weights="random"),
    }
    keys = {name: encoder_key(encoder) for name, encoder in changed.items()}
    assert len({base, *keys.values()}) == 6
    with torch.no_grad():
        model.state_dict()["norm.weight"][0] += 1e-3
    torch.save(model.state_dict(), tmp_path / "one_number.pt")
    assert encoder_key(create_encoder("timm:test_vit", weights=tmp_path / "one_number.pt")) != base


def test_input_px_changes_what_the_model_sees() -> None:
    encoder = create_encoder("timm:test_vit", weights="random", input_px=96)
    assert encoder.card.tile_px == 96
    assert encoder.encode(tiles(96)).shape == (3, encoder.card.dim)


def test_reduced_precision_is_close_and_returned_as_float32() -> None:
    full = create_encoder("timm:test_vit", weights="random").encode(tiles(160))
    reduced = create_encoder("timm:test_vit", weights="random", precision="bfloat16").encode(tiles(160))
    assert reduced.dtype == np.float32
    cosine = (full * reduced).sum(1) / np.linalg.norm(full, axis=1) / np.linalg.norm(reduced, axis=1)
    assert (cosine > 0.999).all()
    assert not np.array_equal(full, reduced)


def test_weights_of_another_model_are_refused_by_the_names_of_their_tensors(
    saved: tuple[Path, torch.nn.Module], tmp_path: Path
) -> None:
    path, model = saved
    with pytest.raises(
        WeightsError, match=r"not those of encoder 'timm:test_resnet'.*missing: conv1.*unexpected: blocks"
    ):
        create_encoder("timm:test_resnet", weights=path)
    state = model.state_dict()
    state["pos_embed"] = state["pos_embed"][:, :5]
    torch.save(state, tmp_path / "cut.pt")
    with pytest.raises(WeightsError, match=r"1 of another shape: pos_embed \(1, 5, 64\) for \(1, 101, 64\)"):
        create_encoder("timm:test_vit", weights=tmp_path / "cut.pt")


def test_files_that_hold_no_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"'.*none.pt' does not exist; weights= takes 'hub', 'random' or a file"):
        create_encoder("timm:test_vit", weights=tmp_path / "none.pt")
    torch.save({"a": Path("x")}, tmp_path / "code.pt")
    with pytest.raises(WeightsError, match="does not load as plain tensors"):
        create_encoder("timm:test_vit", weights=tmp_path / "code.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match="holds list, expected tensors by name"):
        create_encoder("timm:test_vit", weights=tmp_path / "list.pt")
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        create_encoder("timm:test_vit", weights=tmp_path / "bad.safetensors")


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("vit_smal_patch16_224", "no timm model named 'vit_smal_patch16_224'; did you mean 'vit_small_patch16_224'"),
        ("test_vit.r160", "no such weights: 'test_vit.r160'; did you mean 'test_vit.r160_in1k'"),
        ("MahmoodLab/uni2-h", "written 'timm:hf-hub:MahmoodLab/uni2-h'"),
    ],
)
def test_an_unknown_model_is_answered_with_the_nearest(member: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        create_encoder(f"timm:{member}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interpolation": "lanczos"}, "interpolation 'lanczos'.*expected interpolation bicubic or bilinear"),
        ({"precision": "float16"}, "float16 needs a GPU"),
        ({"device": "cud"}, "no device 'cud'"),
        ({"model_options": {"depht": 3}}, "refuses model_options .*depht"),
        ({"model_options": {"act": print}}, "plain JSON values"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_encoder("timm:test_vit", weights="random", **options)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_missing_gpu_is_not_replaced_by_the_cpu() -> None:
    with pytest.raises(ConfigError, match=r"device 'cuda' asked for, but torch .* finds no GPU"):
        create_encoder("timm:test_vit", weights="random", device="cuda")


def test_tiles_that_would_be_distorted_are_refused() -> None:
    with pytest.raises(ConfigError, match="64 x 32 px would be distorted"):
        create_encoder("timm:test_vit", weights="random").encode(np.zeros((1, 32, 64, 3), np.uint8))


def test_the_callers_arrays_and_modes_are_left_alone() -> None:
    encoder = create_encoder("timm:test_vit", weights="random")
    encoder.encode(tiles(160))
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_a_gated_repository_says_how_to_get_access(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm.models._hub as timm_hub
    from huggingface_hub.errors import GatedRepoError

    error = GatedRepoError.__new__(GatedRepoError)
    Exception.__init__(error, "403")

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(timm_hub, "load_model_config_from_hf", refuse)
    with pytest.raises(WeightsError, match=r"MahmoodLab/uni2-h' on the hub is gated; ask for access at https.*hf auth"):
        create_encoder("timm:hf-hub:MahmoodLab/uni2-h")


def test_a_folder_saved_for_the_hub_loads_offline(offline: None, tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = timm.create_model("test_vit").eval()
    timm.models.save_for_hf(model, tmp_path / "folder")
    model.reset_classifier(0)
    encoder = create_encoder(f"timm:local-dir:{tmp_path / 'folder'}")
    with torch.inference_mode():
        expected = model(torch.from_numpy(tiles(160)).permute(0, 3, 1, 2) / 127.5 - 1)
    np.testing.assert_allclose(encoder.encode(tiles(160)), expected, atol=1e-5)
    with pytest.raises(WeightsError, match=r"no readable config\.json"):
        create_encoder(f"timm:local-dir:{tmp_path / 'nowhere'}")


def test_every_listed_name_is_one_that_timm_builds() -> None:
    names = list_encoders("timm:test_*")
    assert {f"timm:{model}" for model in MODELS} <= set(names)

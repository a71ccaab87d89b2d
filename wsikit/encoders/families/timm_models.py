"""``timm:<model>``: any image model of timm, pooled, as an encoder.

Reference:
    Wightman R. PyTorch Image Models. 2019. doi:10.5281/zenodo.4414861, Apache-2.0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsikit.encoders.card import Encoder, EncoderCard
from wsikit.encoders.registry import EncoderFamily, register_family
from wsikit.encoders.weights import WeightsError, load_weights, read_state_dict, weights_sha256
from wsikit.errors import ConfigError, UnknownNameError
from wsikit.registry import nearest

if TYPE_CHECKING:
    import torch

_GATED_OWNERS = ("MahmoodLab", "bioptimus", "paige-ai", "prov-gigapath")
_PRETRAINING = {
    "MahmoodLab/UNI": ("Mass-100K", "GTEx"),  # Chen et al. 2024, doi:10.1038/s41591-024-02857-3
    "owkin/phikon": ("TCGA",),  # Filiot et al. 2023, doi:10.1101/2023.07.21.23292757
    "paige-ai/Virchow": ("MSKCC",),  # Vorontsov et al. 2024, doi:10.1038/s41591-024-03141-0
    "prov-gigapath/prov-gigapath": ("Prov-Path",),  # Xu et al. 2024, doi:10.1038/s41586-024-07441-w
}
"""What some members were trained on, where their papers say so."""
"""Owners of pathology encoders on the hub who ask for consent before the download."""

_ELSEWHERE = ("hf-hub:", "hf_hub:", "local-dir:")
"""What timm takes before a repository on the hub, or a folder with config.json and weights."""


def member_names() -> list[str]:
    """Every architecture that timm knows, and every architecture.tag that it has weights for."""
    timm = _timm()
    return sorted({*timm.list_models(), *timm.list_pretrained()})


def member_card(member: str) -> EncoderCard:
    """Facts from timm's configuration; the model is built on the meta device, so no weights are made."""
    return _card(member, _config(member), input_px=None, interpolation=None, model_options={})


FAMILY = EncoderFamily(
    name="timm",
    summary="any model of timm by name, weights from a file or the hub: timm:vit_small_patch16_224",
    names=member_names,
    card=member_card,
)


@register_family(FAMILY)
def timm_encoder(
    member: str,
    *,
    weights: str | Path | None = None,
    precision: str = "float32",
    device: str = "cpu",
    input_px: int | None = None,
    interpolation: str | None = None,
    model_options: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> Encoder:
    """A timm model without its classifier.

    Args:
        member: timm's name (``vit_small_patch16_224``, with or without a tag), ``hf-hub:owner/name``,
            or ``local-dir:/folder`` with config.json and weights.
        weights: ``"hub"`` (also None), a ``.safetensors`` or torch file of a state dict, or ``"random"``.
        precision: ``float32``; ``bfloat16``; ``float16`` on CUDA.
        device: As torch names it.
        input_px: Side that tiles are resized to; default: the model's own.
        interpolation: ``bicubic`` or ``bilinear``; default: the model's own.
        model_options: Handed to ``timm.create_model``, for checkpoints that differ from the named
            architecture (``{"init_values": 1e-5, "dynamic_img_size": True}``); plain JSON values.
        seed: Of random weights (default 0); only with ``weights="random"``.

    Raises:
        UnknownNameError: timm has no such model.
        WeightsError: The weights cannot be had, or are not those of the model.
        ConfigError: A setting that the model, timm or the device refuses.
    """
    from wsikit.encoders.network import NetworkEncoder, usable_device

    name = f"timm:{member}"
    source = "hub" if weights is None else str(weights)
    if seed is not None and source != "random":
        raise ConfigError(f"encoder {name!r}: seed={seed} is for weights='random'; found weights={source!r}")
    usable_device(name, device, precision)  # before a download, not after it
    options = _plain(name, model_options or {})
    config = _config(member)
    card = _card(member, config, input_px=input_px, interpolation=interpolation, model_options=options)
    identity: dict[str, Any] = {"algorithm": "timm", "model": recorded_name(member), "model_options": options}
    options = _with_size(member, options, input_px)
    if source == "random":
        import torch

        with torch.random.fork_rng(devices=[]):  # leaves the caller's generator alone
            torch.manual_seed(seed or 0)
            model = _build(member, options)
        identity["random_weights_seed"] = seed or 0
    elif source == "hub":
        model = _from_hub(member, options)
    else:
        state = read_state_dict(Path(source))
        model = _build(member, options)
        classifier = config.get("classifier") or ()  # the layers that num_classes=0 removes
        without = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        load_weights(model, state, name=name, source=source, without=without)
    identity["weights_sha256"] = weights_sha256(model)
    size = (input_px, input_px) if input_px else tuple(config["input_size"][1:])
    return NetworkEncoder(card, model, identity=identity, input_px=size, precision=precision, device=device)


def recorded_name(member: str) -> str:
    """The member as stores record it: a local folder by its last name, because stores hold no paths."""
    prefix, colon, where = member.partition(":")
    return f"{prefix}{colon}{Path(where).name}" if prefix == "local-dir" else member


def _timm() -> Any:
    from wsikit.encoders.torchvision_fix import ensure_torchvision

    ensure_torchvision()
    try:
        import timm
    except ImportError as error:
        raise ConfigError("encoders 'timm:...' need timm: pip install timm") from error
    return timm


def _config(member: str) -> dict[str, Any]:
    """What timm records of a member's pretraining: input size, mean, std, interpolation, licence."""
    timm = _timm()
    if member.startswith(_ELSEWHERE):
        with _HubErrors(member):
            from timm.models._hub import load_model_config_from_hf, load_model_config_from_path

            prefix, _, where = member.partition(":")
            load = load_model_config_from_hf if prefix.startswith("hf") else load_model_config_from_path
            try:
                config = load(where)[0]
            except (FileNotFoundError, ValueError) as error:
                if prefix.startswith("hf"):
                    raise
                raise WeightsError(f"encoder 'timm:{member}': folder {where!r} has no readable config.json") from error
        return {"license": None, "hf_hub_id": recorded_name(member).partition(":")[2], **config}
    if not timm.is_model(member):
        known = timm.list_pretrained() if "." in member else timm.list_models()
        hint = f"; a repository on the hub is written 'timm:hf-hub:{member}'" if "/" in member else ""
        raise UnknownNameError(f"no timm model named {member!r}{hint or nearest(member, known)}")
    try:
        config = timm.get_pretrained_cfg(member)
    except RuntimeError:  # an unknown tag
        config = None
    if config is None:
        tags = [name for name in timm.list_pretrained() if name.startswith(member.partition(".")[0] + ".")]
        raise UnknownNameError(f"timm has no such weights: {member!r}{nearest(member, tags)}")
    return dict(config.to_dict())


def _card(
    member: str,
    config: Mapping[str, Any],
    *,
    input_px: int | None,
    interpolation: str | None,
    model_options: dict[str, Any],
) -> EncoderCard:
    name = f"timm:{recorded_name(member)}"
    source = str(config.get("hf_hub_id") or config.get("url") or "timm")
    height, width = (input_px, input_px) if input_px else config["input_size"][1:]
    return EncoderCard(
        name=name,
        dim=_width(member, (height, width), _with_size(member, model_options, input_px)),
        tile_px=height,
        mpp=None,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        licence=str(config.get("license") or "see the source"),
        source=source,
        citation=str(config.get("paper_ids") or "Wightman 2019, doi:10.5281/zenodo.4414861"),
        gated=source.partition("/")[0] in _GATED_OWNERS,
        summary="timm model, classifier removed, pooled",
        interpolation=interpolation or config["interpolation"],
        devices=("cpu", "cuda"),
        precisions=("float32", "bfloat16", "float16"),
        pretraining=_PRETRAINING.get(source),
    )


def _width(member: str, size: tuple[int, int], model_options: dict[str, Any]) -> int:
    """Width of the pooled feature, from a forward without data on the meta device."""
    import torch

    with torch.device("meta"):
        model: Any = _build(member, model_options).eval()
    try:
        with torch.inference_mode():
            vectors: torch.Tensor = model(torch.empty(1, 3, *size, device="meta"))
            return int(vectors.shape[-1])
    except (NotImplementedError, RuntimeError):  # an operator without a meta kernel
        return int(getattr(model, "head_hidden_size", None) or model.num_features)


def _build(member: str, model_options: Mapping[str, Any], **more: Any) -> torch.nn.Module:
    timm = _timm()
    try:
        model: torch.nn.Module = timm.create_model(member, **({"num_classes": 0} | more | dict(model_options)))
    except (TypeError, AssertionError) as error:
        raise ConfigError(f"timm model {member!r} refuses model_options {dict(model_options)}: {error}") from error
    return model


def _from_hub(member: str, model_options: Mapping[str, Any]) -> torch.nn.Module:
    with _HubErrors(member):
        return _build(member, model_options, pretrained=True)


class _HubErrors:
    """Context manager: what goes wrong on the way to the hub, as an error with the next steps."""

    def __init__(self, member: str) -> None:
        self.member = member

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from huggingface_hub import errors as hub

        name, repository = f"timm:{self.member}", self.member.partition(":")[2] or f"timm/{self.member}"
        if isinstance(error, hub.GatedRepoError | hub.RepositoryNotFoundError):
            what = "is gated" if isinstance(error, hub.GatedRepoError) else "does not exist, is private or is gated"
            raise WeightsError(
                f"encoder {name!r}: {repository!r} on the hub {what}; ask for access at "
                f"https://huggingface.co/{repository}, log in with `hf auth login`, and run again; or pass a local "
                "file as weights="
            ) from error
        offline = (hub.OfflineModeIsEnabled, hub.LocalEntryNotFoundError, hub.HfHubHTTPError, ConnectionError)
        library = type(error).__module__.partition(".")[0]  # the hub's client changed its library between releases
        if isinstance(error, offline) or library in ("httpx", "httpx2", "requests"):
            raise WeightsError(
                f"encoder {name!r}: the hub could not be reached and its files are not in the local cache "
                f"({type(error).__name__}); either pass weights='/path/model.safetensors', or run `hf download "
                f"{repository}` where there is a network and copy its cache (HF_HOME) here, then set "
                "HF_HUB_OFFLINE=1; random weights come only with weights='random'"
            ) from error


def _with_size(member: str, model_options: dict[str, Any], input_px: int | None) -> dict[str, Any]:
    """Add ``img_size`` where the architecture is built for one size, as most transformers are."""
    import torch

    if input_px is None or "img_size" in model_options:
        return model_options
    sized = model_options | {"img_size": input_px}
    try:
        with torch.device("meta"):
            _build(member, sized)
    except ConfigError:  # a convolutional network: no such argument, any size will do
        return model_options
    return sized


def _plain(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(json.loads(json.dumps(dict(options), sort_keys=True)))
    except TypeError as error:
        raise ConfigError(f"encoder {name!r}: model_options must be plain JSON values ({error})") from error

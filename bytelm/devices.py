"""What accelerators can do at most, from their makers' data sheets."""

from __future__ import annotations

from typing import NamedTuple


class Device(NamedTuple):
    peak: float  # dense bfloat16 operations a second
    memory: float  # bytes


DEVICES = {
    "H100": Device(989e12, 80e9),
    "H200": Device(989e12, 141e9),
    "A100": Device(312e12, 80e9),
    "B200": Device(2250e12, 180e9),
    "TPU v4": Device(275e12, 32e9),
    "TPU v5p": Device(459e12, 95e9),
    "TPU v5 lite": Device(197e12, 16e9),
    "TPU v6 lite": Device(918e12, 32e9),
}


def device_of(kind: str) -> Device | None:
    """The device whose name is in what jax calls it (``device_kind``); None where it is not known here."""
    return next((device for name, device in DEVICES.items() if name in kind), None)

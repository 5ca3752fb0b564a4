"""The 8-bit formats of quantised tokens."""

from typing import Literal

Format = Literal["int8", "fp8"]
# What the largest absolute value of a token becomes.
LARGEST = {"int8": 127.0, "fp8": 448.0}
# A program of the kernel holds a whole token.
WIDEST = 16384

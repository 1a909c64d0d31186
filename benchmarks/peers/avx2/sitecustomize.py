"""Runs at the start of every interpreter that finds it, and makes PyTorch report nothing newer than AVX2."""

import torch

for name in ("_is_avx512_supported", "_is_avx512_bf16_supported", "_is_vnni_supported", "_is_amx_tile_supported"):
    setattr(torch.cpu, name, lambda: False)

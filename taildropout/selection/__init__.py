"""keep_first in all its ways: plain torch, rows in C, a Triton kernel, compiled code, sharded and jagged tensors."""

"""What `gpu.py` measures, a room for each part."""

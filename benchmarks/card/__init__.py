"""What `gpu.py` measures, one module for each part."""

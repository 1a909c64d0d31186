"""The loop's runner on CUDA: steps as graphs that the device goes through by itself."""

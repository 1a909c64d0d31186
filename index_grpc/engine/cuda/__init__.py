"""The loop's runner on CUDA, which records steps as CUDA graphs and replays them."""

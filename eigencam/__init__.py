"""Benchmark and reproducibility harness for class-activation maps: Eigen-CAM and the methods around it."""

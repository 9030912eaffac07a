"""Hydra's groups: `model dataset method evaluator experiment paths`. Found as `pkg://eigencam.configs`."""

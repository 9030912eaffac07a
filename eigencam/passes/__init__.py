"""The forward pass and what is read from a network: backward rules, tape of operations, tail behind a layer."""

"""The forward pass and what is read off a network: backward rules, tape of operations, tail behind a layer."""

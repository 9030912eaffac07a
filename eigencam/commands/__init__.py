"""The subcommands of `eigencam`."""

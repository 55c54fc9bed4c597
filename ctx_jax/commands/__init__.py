"""One module a subcommand of `ctx-jax`."""

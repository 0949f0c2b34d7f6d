"""mteb's own runner: our models as its models, its tasks on the hub's data or on files here, its results' layout."""

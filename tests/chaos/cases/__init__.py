"""One module a fault; each has `run(profile, seed, folder) -> list[Outcome]`."""

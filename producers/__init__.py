"""The client side: inspect inputs, cut shards, plan and submit. Loads no torch."""

"""Images beside prompts: where they come from, and vision-language models that read them."""

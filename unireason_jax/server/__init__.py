"""A model behind HTTP: OpenAI's protocol, a queue in front of one thread that owns it, a page."""
